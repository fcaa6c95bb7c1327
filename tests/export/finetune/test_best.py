"""Early stop: when, with which weights, and what a kill changes about it (nothing)."""

import functools
import json
import math

import pytest
import torch
from torch import nn

from medprompt.core.errors import DataError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.finetune import trainer
from medprompt.export.finetune.best import HISTORY_FILE, BestWeights, best_step, mean_ap, stop_step
from medprompt.export.finetune.callbacks import EMA_FILE, Measure
from medprompt.export.finetune.trainer import finetune
from tests.export.finetune.drawn import PROMPTS, Killed, drawn_coco, killer, recipe_of

pytestmark = [
    # transformers' Trainer and torch warn about their own defaults; none of it is ours to mend
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def history_of(*values):
    return {10 * (n + 1): {"ap/set": value} for n, value in enumerate(values)}


@pytest.mark.parametrize(
    ("measured", "mean"),
    [
        ({"ap/a": 0.2, "ap/b": 0.4, "ap50/a": 0.9, "ap50/a/disc": 1.0}, 0.3),
        ({"ap/a": 0.2, "ap/b": math.nan}, 0.2),
        ({"ap/a": math.nan}, -1.0),
        ({}, -1.0),
    ],
)
def test_the_mean_is_over_the_sets_that_say_something(measured, mean):
    assert mean_ap(measured) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("values", "patience", "best", "stop"),
    [
        ((0.1,), 1, 10, None),
        ((0.1, 0.1), 1, 10, 20),
        ((0.1, 0.2, 0.3), 1, 30, None),
        ((0.3, 0.2, 0.1), 2, 10, 30),
        ((0.3, 0.2, 0.4, 0.1), 2, 30, None),
        ((0.3, 0.2, 0.4, 0.1, 0.4), 2, 30, 50),
        ((0.5, 0.4, 0.3, 0.9), 2, 40, 30),
        ((math.nan, 0.0), 1, 20, None),
    ],
)
def test_best_and_stop(values, patience, best, stop):
    assert best_step(history_of(*values)) == best
    assert stop_step(history_of(*values), patience) == stop


class Weights(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.full((2,), float(value)))


def kept(work):
    return sorted(path.name for path in work.glob("best-*"))


def test_the_best_weights_outlive_a_resume_behind_a_better_measurement(tmp_path):
    first = BestWeights(tmp_path, 2, save=0)
    assert not first.update(10, {"ap/set": 0.5}, Weights(1))
    first.saved()  # the save at 10
    assert not first.update(20, {"ap/set": 0.6}, Weights(2))
    assert kept(tmp_path) == ["best-10.safetensors", "best-20.safetensors"]
    resumed = BestWeights(tmp_path, 2, save=10)  # killed before a save at 20, which is measured worse now
    assert kept(tmp_path) == ["best-10.safetensors"]
    assert (resumed.step, resumed.measured) == (10, {"ap/set": 0.5})
    assert not resumed.update(20, {"ap/set": 0.4}, Weights(3))
    assert resumed.update(30, {"ap/set": 0.5}, Weights(4))
    resumed.saved()
    found = Weights(0)
    resumed.load_into(found)
    assert found.value.tolist() == [1.0, 1.0]
    assert BestWeights(tmp_path, 2, save=30).exhausted
    assert not BestWeights(tmp_path, 3, save=30).exhausted


def test_a_save_lets_go_of_what_was_best_before(tmp_path):
    best = BestWeights(tmp_path, 2, save=0)
    for step, value in ((1, 0.1), (2, 0.2), (3, 0.1)):
        best.update(step, {"ap/set": value}, Weights(step))
    best.saved()
    assert kept(tmp_path) == ["best-2.safetensors"]


@pytest.mark.parametrize("content", ["{", "[]", '{"10": 3}', '{"ten": {}}', '{"10": {"ap/set": "much"}}'])
def test_a_damaged_note_says_what_to_do(tmp_path, content):
    (tmp_path / HISTORY_FILE).write_text(content)
    with pytest.raises(DataError, match="note of its measurements is damaged"):
        BestWeights(tmp_path, 2, save=10)


def test_best_weights_that_are_gone_say_what_to_do(tmp_path):
    (tmp_path / HISTORY_FILE).write_text(json.dumps(history_of(0.5)))
    with pytest.raises(DataError, match="best weights of the run are gone"):
        BestWeights(tmp_path, 2, save=10)


@pytest.fixture(scope="module")
def scripted():
    """What a run measures at each step is ``VALUES``."""
    now = [0]

    class Dated(Measure):
        def on_train_begin(self, args, state, control, **kwargs):
            now[:] = [state.global_step]
            super().on_train_begin(args, state, control, **kwargs)

        def on_step_end(self, args, state, control, **kwargs):
            now[:] = [state.global_step]
            super().on_step_end(args, state, control, **kwargs)

    def measured(*_):
        return {"ap/set": VALUES[now[0]], "ap50/set": VALUES[now[0]] / 2}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "evaluate_family", measured)
        patch.setattr(trainer, "Measure", Dated)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn_coco(tmp_path_factory.mktemp("data"))


VALUES = dict(enumerate((0.8, 0.1, 0.4, 0.2, 0.3, 0.1, 0.9, 0.9)))
"""The best before patience 3 ends is at step 2, the stop at step 5; later steps and the start would be better."""


def patient(data, **changes):
    fields = {"steps": 7, "decay_steps": 0, "evaluate_every": 1, "save_every": 2, "patience": 3}
    return recipe_of(data, **(fields | changes))


@pytest.fixture(scope="module")
def undisturbed(tiny_checkpoint, data, tmp_path_factory, scripted):
    """``undisturbed(patience=4)``: the result of a run that ends by itself; each is made once."""

    @functools.cache
    def run(**changes):
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        return finetune(tiny_checkpoint("owlvit"), PROMPTS, patient(data, **changes), out)

    return run


def state_of(checkpoint):
    return family_from_checkpoint(checkpoint).model.state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_stops_and_keeps_its_best_averaged_weights(tiny_checkpoint, data, tmp_path, scripted):
    start, rows = tiny_checkpoint("owlvit"), []
    result = finetune(start, PROMPTS, patient(data), tmp_path / "out", report=rows.append)
    assert max(row["step"] for row in rows) == 5
    assert (result.chosen.step, result.chosen.measurements, result.chosen.last) == (2, 5, 5)
    assert result.measured == {"ap/set": 0.4, "ap50/set": 0.2}
    assert json.loads((result.checkpoint / "measured.json").read_text()) == result.measured
    short = finetune(start, PROMPTS, patient(data, steps=2, patience=None), tmp_path / "short")
    assert short.chosen is None
    assert same(state_of(result.checkpoint), state_of(short.checkpoint))
    card = (result.checkpoint / "README.md").read_text()
    assert "averaged weights of step 2, chosen by these figures" in card
    assert "5 measurements up to step 5" in card
    assert "not chosen" not in card
    assert "At most 7 steps of 2 images" in card
    assert "not chosen by these figures" in (short.checkpoint / "README.md").read_text()
    again = finetune(start, PROMPTS, patient(data), tmp_path / "out", report=killer(0))  # no step is made
    assert again == result


def test_a_run_that_never_waits_long_enough_keeps_its_best_too(undisturbed):
    result = undisturbed(patience=4)
    assert (result.chosen.step, result.chosen.last, result.measured["ap/set"]) == (6, 7, 0.9)


@pytest.mark.parametrize("kill_at", [2, 3, 4, 5])
def test_a_kill_changes_nothing_about_the_stop(tiny_checkpoint, data, tmp_path, undisturbed, kill_at):
    start, whole = tiny_checkpoint("owlvit"), undisturbed()
    with pytest.raises(Killed):
        finetune(start, PROMPTS, patient(data), tmp_path / "out", report=killer(kill_at))
    result = finetune(start, PROMPTS, patient(data), tmp_path / "out")
    assert (result.chosen, result.measured) == (whole.chosen, whole.measured)
    assert same(state_of(result.checkpoint), state_of(whole.checkpoint))


def test_more_patience_goes_on_where_less_stopped(tiny_checkpoint, data, tmp_path, undisturbed):
    start = tiny_checkpoint("owlvit")
    finetune(start, PROMPTS, patient(data), tmp_path / "out")
    result = finetune(start, PROMPTS, patient(data, patience=4), tmp_path / "out")
    whole = undisturbed(patience=4)
    assert result.chosen == whole.chosen
    assert same(state_of(result.checkpoint), state_of(whole.checkpoint))


def test_patience_can_be_taken_away(tiny_checkpoint, data, tmp_path, scripted):
    start = tiny_checkpoint("owlvit")
    finetune(start, PROMPTS, patient(data), tmp_path / "out")
    result = finetune(start, PROMPTS, patient(data, patience=None), tmp_path / "out")
    whole = finetune(start, PROMPTS, patient(data, patience=None), tmp_path / "whole")
    assert result.chosen is None and result.measured["ap/set"] == 0.9
    assert same(state_of(result.checkpoint), state_of(whole.checkpoint))


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({"patience": None}, {"patience": 3}, "only before the first save"),
        ({"patience": 3}, {"patience": 1}, "would have stopped already"),
        ({"patience": 3}, {"evaluate_every": 2}, "measured as often as when it began"),
        ({"decay_steps": 5}, {"decay_steps": 5, "steps": 9}, "until its learning rate falls"),
        ({}, {"steps": 3}, "until its learning rate falls"),
        ({}, {"mode": "head"}, "Another recipe"),
    ],
)
def test_changes_that_an_undisturbed_run_would_not_end_with(
    tiny_checkpoint, data, tmp_path, scripted, first, then, message
):
    start = tiny_checkpoint("owlvit")
    with pytest.raises(Killed):
        finetune(start, PROMPTS, patient(data, **first), tmp_path / "out", report=killer(5))
    note = (tmp_path / "out.run" / "recipe.json").read_text()
    with pytest.raises(DataError, match=message):
        finetune(start, PROMPTS, patient(data, **(first | then)), tmp_path / "out")
    assert (tmp_path / "out.run" / "recipe.json").read_text() == note


def test_a_length_may_change_until_the_rate_falls(tiny_checkpoint, data, tmp_path, scripted):
    start = tiny_checkpoint("owlvit")
    with pytest.raises(Killed):
        finetune(start, PROMPTS, patient(data, decay_steps=2), tmp_path / "out", report=killer(5))
    changed = patient(data, steps=6, decay_steps=2, patience=5)
    result = finetune(start, PROMPTS, changed, tmp_path / "out")
    whole = finetune(start, PROMPTS, changed, tmp_path / "whole")
    assert result.chosen == whole.chosen
    assert same(state_of(result.checkpoint), state_of(whole.checkpoint))


def test_a_save_that_was_cut_short_is_passed_over(tiny_checkpoint, data, tmp_path, undisturbed):
    start, whole = tiny_checkpoint("owlvit"), undisturbed()
    with pytest.raises(Killed):
        finetune(start, PROMPTS, patient(data), tmp_path / "out", report=killer(5))
    (tmp_path / "out.run" / "checkpoint-4" / EMA_FILE).unlink()
    result = finetune(start, PROMPTS, patient(data), tmp_path / "out")
    assert result.chosen == whole.chosen
    assert same(state_of(result.checkpoint), state_of(whole.checkpoint))
