import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from medprompt.core.errors import DataError, InputError, PromptError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.families import family_class
from medprompt.export.finetune.log import LOG_FILE
from medprompt.export.finetune.run import IMAGES_FILE, START_FILE, family_from_run
from medprompt.export.finetune.trainer import finetune
from medprompt.prompts.schema import Prompts
from tests.export.finetune.drawn import PROMPTS, Killed, drawn_coco, killer, read_log, recipe_of
from tests.export.finetune.few_words import use_few_words
from tests.tiny import EACH

pytestmark = [
    # transformers' Trainer and torch warn about their own defaults; none of it is ours to mend
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six drawn images with two classes, as COCO."""
    return drawn_coco(tmp_path_factory.mktemp("data"))


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, data, tmp_path_factory):
    """``trained(model_type) -> (result, rows)`` of a run of two steps, once each."""

    @functools.cache
    def run(model_type):
        rows, out = [], tmp_path_factory.mktemp(model_type) / "out"
        recipe = recipe_of(data, steps=2, evaluate_every=2, drop_classes=0.9)
        return finetune(tiny_checkpoint(model_type), PROMPTS, recipe, out, report=rows.append), rows

    return run


@pytest.mark.parametrize("model_type", EACH)
def test_every_family_trains_and_its_checkpoint_loads(model_type, tiny_checkpoint, trained):
    result, rows = trained(model_type)
    before, after = weights_of(tiny_checkpoint(model_type)), weights_of(result.checkpoint)
    changed = [name for name in after if name in before and not np.array_equal(before[name], after[name])]
    assert len(changed) > len(after) / 2
    assert all(np.isfinite(tensor).all() for tensor in after.values())
    family = family_from_checkpoint(result.checkpoint)
    assert family.architecture == family_class(model_type).architecture
    assert {"step", "ap/data", "ap50/data/disc"} <= {
        key.replace(key.split("/")[1], "data") if "/" in key else key for key in rows[-1]
    }
    assert (result.checkpoint / "recipe.yaml").is_file()


@pytest.mark.parametrize(
    ("mode", "told", "revived"),
    [("full", "are measured anew", True), ("head", "are constant", False)],  # whose norms keep their statistics
)
def test_channels_that_overflowed_are_measured_anew(mode, told, revived, tiny_checkpoint, data, tmp_path):
    start, told_of = tmp_path / "start", []
    shutil.copytree(tiny_checkpoint("omdet-turbo"), start)
    tensors = weights_of(start)
    name = next(name for name in sorted(tensors) if name.startswith("encoder.") and "running_var" in name)
    tensors[name] = np.full_like(tensors[name], np.inf)
    save_file(tensors, start / "model.safetensors", metadata={"format": "pt"})
    result = finetune(start, PROMPTS, recipe_of(data, steps=2, mode=mode), tmp_path / "out", warn=told_of.append)
    assert any(told in line and name.removesuffix(".running_var") in line for line in told_of), told_of
    assert np.isfinite(weights_of(result.checkpoint)[name]).all() == revived


class ToldError(Exception):
    pass


@pytest.mark.parametrize(("model_type", "told"), [("glip", "class_loss, one_to_many_weight"), ("owlvit", "rate falls")])
def test_settings_of_a_loss_that_is_not_read_are_warned_of(model_type, told, tiny_checkpoint, data, tmp_path):
    """The family that reads them is first warned of what comes later."""

    def stop(text):
        raise ToldError(text)

    recipe = recipe_of(data, steps=2, decay_steps=2, class_loss=3.0, one_to_many_weight=0.5)
    with pytest.raises(ToldError, match=told):
        finetune(tiny_checkpoint(model_type), PROMPTS, recipe, tmp_path / "out", warn=stop)


def test_a_killed_run_ends_as_an_undisturbed_one(tiny_checkpoint, data, tmp_path):
    start, recipe = tiny_checkpoint("owlvit"), recipe_of(data)
    whole = finetune(start, PROMPTS, recipe, tmp_path / "whole")

    with pytest.raises(Killed):
        finetune(start, PROMPTS, recipe, tmp_path / "killed", report=killer(3))
    assert not (tmp_path / "killed").exists()
    log = tmp_path / "killed.run" / LOG_FILE
    assert {int(row["step"]) for row in read_log(log)} < {int(row["step"]) for row in read_log(whole_log(tmp_path))}
    resumed = finetune(start, PROMPTS, recipe, tmp_path / "killed")
    expected, got = weights_of(whole.checkpoint), weights_of(resumed.checkpoint)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-6, err_msg=name)
    assert resumed.measured == pytest.approx(whole.measured, abs=1e-3)
    expected_log, got_log = read_log(whole_log(tmp_path)), read_log(log)
    assert [(row["step"], row["figure"]) for row in got_log] == [(row["step"], row["figure"]) for row in expected_log]
    for mine, theirs in zip(got_log, expected_log, strict=True):
        assert float(mine["value"]) == pytest.approx(float(theirs["value"]), abs=1e-3)


def whole_log(folder):
    return folder / "whole.run" / LOG_FILE


@pytest.mark.parametrize("model_type", EACH)
def test_bf16_trains_every_family_and_saves_float32(model_type, tiny_checkpoint, data, tmp_path, trained):
    fp32, _ = trained(model_type)
    recipe = recipe_of(data, steps=2, evaluate_every=2, precision="bf16")
    bf16 = finetune(tiny_checkpoint(model_type), PROMPTS, recipe, tmp_path / "out")
    full, half = weights_of(fp32.checkpoint), weights_of(bf16.checkpoint)
    assert {str(tensor.dtype) for tensor in half.values()} == {str(tensor.dtype) for tensor in full.values()}
    assert all(np.isfinite(tensor).all() for tensor in half.values())
    differing = [name for name in full if full[name].dtype.kind == "f" and not np.array_equal(full[name], half[name])]
    assert differing
    logs = (read_log(Path(f"{result.checkpoint}.run") / LOG_FILE) for result in (fp32, bf16))
    for row, other in zip(*logs, strict=True):
        if row["figure"] == "loss":
            assert float(other["value"]) == pytest.approx(float(row["value"]), rel=0.1)


def relabelled(data, folder):
    """The same set beside its images, with the first box moved by a pixel."""
    shutil.copytree(Path(data).parent, folder)
    content = json.loads((folder / "set.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    (folder / "set.json").write_text(json.dumps(content))


def repainted(data, folder):
    """The same set, one picture with a black corner."""
    shutil.copytree(Path(data).parent, folder)
    with Image.open(folder / "0.png") as picture:
        picture.putpixel((0, 0), (0, 0, 0))
        picture.save(folder / "0.png")


def rephrased(**changes):
    fields = PROMPTS.model_dump(mode="json", exclude_defaults=True)
    fields["classes"][1] |= changes
    return Prompts.model_validate(fields)


@pytest.fixture(scope="module")
def begun(tiny_checkpoint, data, tmp_path_factory):
    """A folder with data, and a run on it that was killed behind its first save."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(Path(data).parent, folder / "data")
    with pytest.raises(Killed):
        finetune(
            tiny_checkpoint("owlvit"),
            PROMPTS,
            recipe_of("set.json"),
            folder / "out",
            data_root=folder / "data",
            report=killer(3),
        )
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("checkpoint", "another checkpoint"),
        ("phrases", "another phrases"),
        ("labels", "another training data and other validation data"),
        ("pictures", "another training data and other validation data"),
    ],
)
def test_a_run_is_bound_to_what_began_it(tiny_checkpoint, data, begun, tmp_path, changed, message):
    shutil.copytree(begun, tmp_path / "run")
    start, prompts, root = tiny_checkpoint("owlvit"), PROMPTS, begun / "data"
    if changed == "checkpoint":
        shutil.copytree(start, start := tmp_path / "start")
        weights = load_file(start / "model.safetensors")
        next(iter(weights.values())).flat[0] += 1
        save_file(weights, start / "model.safetensors", {"format": "pt"})
    elif changed == "phrases":
        prompts = rephrased(phrases=["spot"])
    else:
        (relabelled if changed == "labels" else repainted)(data, root := tmp_path / "data")
    notes = {path.name: path.read_bytes() for path in (tmp_path / "run" / "out.run").glob("*.*") if path.is_file()}
    with pytest.raises(DataError, match=message):
        finetune(start, prompts, recipe_of("set.json"), tmp_path / "run" / "out", data_root=root)
    assert notes == {
        path.name: path.read_bytes() for path in (tmp_path / "run" / "out.run").glob("*.*") if path.is_file()
    }
    assert not (tmp_path / "run" / "out").exists()


@pytest.mark.parametrize("changed", ["nothing", "a threshold", "a run of 0.1"])
def test_and_goes_on_where_it_is_the_same(tiny_checkpoint, begun, tmp_path, changed):
    shutil.copytree(begun, tmp_path / "run")
    prompts = rephrased(threshold=0.4) if changed == "a threshold" else PROMPTS
    if changed == "a run of 0.1":
        (tmp_path / "run" / "out.run" / START_FILE).unlink()
    rows, warnings = [], []
    out = tmp_path / "run" / "out"
    finetune(
        tiny_checkpoint("owlvit"),
        prompts,
        recipe_of("set.json"),
        out,
        data_root=begun / "data",
        report=rows.append,
        warn=warnings.append,
    )
    assert min(row["step"] for row in rows) == 3  # the save is of step 2
    assert ["taken to be these" in text for text in warnings] == [True] * (changed == "a run of 0.1")


class Told:
    """Writes down what a progress is told."""

    def __init__(self):
        self.steps = {}

    def step(self, name, total=None):
        self.steps[name] = [total, 0]

    def advance(self, count=1):
        self.steps[[*self.steps][-1]][1] += count


def test_a_run_says_where_it_is_from_the_first_step(tiny_checkpoint, data, tmp_path, capsys):
    told, rows, warnings = Told(), [], []
    recipe = recipe_of(data, steps=2, decay_steps=2, evaluate_every=2)
    finetune(
        tiny_checkpoint("owlvit"),
        PROMPTS,
        recipe,
        tmp_path / "out",
        report=rows.append,
        warn=warnings.append,
        progress=told,
    )
    assert [*told.steps] == [
        "load checkpoint",
        "read images",
        "measure the start",
        "train, from step 1",
        "save checkpoint",
    ]
    assert told.steps["read images"] == [6, 6] and told.steps["train, from step 1"] == [2, 2]
    assert rows[0]["step"] == 0 and any(name.startswith("ap/") for name in rows[0])
    assert warnings == ["the learning rate falls over the last 2 of 2 steps (decay_steps)"]
    assert "epoch" not in capsys.readouterr().out


def test_few_shots_train_on_few_images_and_say_which(tiny_checkpoint, data, tmp_path):
    finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe_of(data, steps=1, shots=2), tmp_path / "out")
    lines = (tmp_path / "out.run" / IMAGES_FILE).read_text().splitlines()
    assert len(lines) == 2 and len(set(lines)) == 2 and all(line.startswith(data) for line in lines)
    with pytest.raises(DataError, match="disc 6"):
        finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe_of(data, shots=7), tmp_path / "more")


def test_another_recipe_does_not_go_on_with_a_run(tiny_checkpoint, data, tmp_path):
    start = tiny_checkpoint("owlvit")
    finetune(start, PROMPTS, recipe_of(data, steps=2), tmp_path / "out")
    with pytest.raises(DataError, match="Another recipe"):
        finetune(start, PROMPTS, recipe_of(data, steps=2, learning_rate=1e-4), tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "ignore_classes", "message"),
    [(["disc"], [], "no class for: spot"), (["disc", "spot"], ["other"], "does not have")],
)
def test_classes_that_do_not_fit_the_data(tiny_checkpoint, data, tmp_path, labels, ignore_classes, message):
    prompts = Prompts.model_validate({"classes": [{"label": label, "phrases": [label]} for label in labels]})
    recipe = recipe_of(data, data=[{"train": data, "ignore_classes": ignore_classes}])
    with pytest.raises(DataError, match=message):
        finetune(tiny_checkpoint("owlvit"), prompts, recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_random_weights_start_from_the_config_alone(tiny_checkpoint, data, tmp_path):
    start = tiny_checkpoint("owlvit")
    config_only = tmp_path / "config"
    config_only.mkdir()
    for path in start.iterdir():
        if path.suffix != ".safetensors":
            (config_only / path.name).write_bytes(path.read_bytes())
    result = finetune(config_only, PROMPTS, recipe_of(data, steps=2), tmp_path / "out", random_weights=True)
    assert weights_of(result.checkpoint).keys() == weights_of(start).keys()


DISC = Prompts.model_validate({"classes": [{"label": "disc", "phrases": ["red cell"]}]})


def test_a_held_out_class_is_neither_trained_nor_told_and_can_be_measured(tiny_checkpoint, data, tmp_path, monkeypatch):
    use_few_words(monkeypatch)
    rows = []
    recipe = recipe_of(data, data=[{"train": data, "val": data, "hold_out": ["spot"]}], steps=2, attribute_phrases=3)
    with pytest.raises(DataError, match="has phrases for it"):
        finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe, tmp_path / "out")
    result = finetune(
        tiny_checkpoint("owlvit"), DISC, recipe, tmp_path / "out", measured_with=PROMPTS, report=rows.append
    )
    assert any(key.endswith("/spot") for key in rows[-1])
    assert "6 images, 6 boxes; spot held out" in (result.checkpoint / "README.md").read_text()


@pytest.mark.parametrize("model_type", ["grounding-dino", "omdet-turbo"])
def test_composed_phrases_train_other_families(model_type, tiny_checkpoint, data, tmp_path, monkeypatch):
    use_few_words(monkeypatch)
    recipe = recipe_of(data, data=[{"train": data, "hold_out": ["spot"]}], steps=1, attribute_phrases=2)
    result = finetune(tiny_checkpoint(model_type), DISC, recipe, tmp_path / "out")
    assert all(np.isfinite(tensor).all() for tensor in weights_of(result.checkpoint).values())


def test_an_encoder_that_would_cut_composed_phrases_is_refused(tiny_checkpoint, data, tmp_path):
    with pytest.raises(PromptError, match="longer than the text encoder reads") as caught:
        finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe_of(data, attribute_phrases=1), tmp_path / "out")
    assert caught.value.where.startswith("'medium sized")
    assert "elongated" in caught.value.where
    assert not (tmp_path / "out.run").exists()


def test_settings_that_came_up_later_do_not_stop_a_run(tiny_checkpoint, data, tmp_path, monkeypatch):
    """A run that began before a setting existed goes on, as long as the setting is at its default."""
    use_few_words(monkeypatch)
    start = tiny_checkpoint("owlvit")
    finetune(start, PROMPTS, recipe_of(data, steps=2), tmp_path / "out")
    note = tmp_path / "out.run" / "recipe.json"
    old = json.loads(note.read_text())
    del old["attribute_phrases"], old["data"][0]["hold_out"], old["steps"], old["decay_steps"]
    note.write_text(json.dumps(old))
    finetune(start, PROMPTS, recipe_of(data, steps=3, decay_steps=1), tmp_path / "out")  # its end may change too
    with pytest.raises(DataError, match="Another recipe"):
        finetune(start, PROMPTS, recipe_of(data, attribute_phrases=2), tmp_path / "out")
    note.write_text("{")
    with pytest.raises(DataError, match="note of its recipe is damaged"):
        finetune(start, PROMPTS, recipe_of(data, steps=3), tmp_path / "out")


def test_a_run_that_has_not_ended_can_be_measured(tiny_checkpoint, data, tmp_path):
    start, work = tiny_checkpoint("owlvit"), tmp_path / "out.run"
    with pytest.raises(InputError, match="saved nothing"):
        family_from_run(start, work)
    result = finetune(start, PROMPTS, recipe_of(data, steps=4), tmp_path / "out")
    family, step = family_from_run(start, work)
    assert step == 4
    expected = weights_of(result.checkpoint)
    state = family.model.state_dict()
    assert all(np.array_equal(state[name].numpy(), tensor) for name, tensor in expected.items())


def test_a_stage_stops_early_and_is_not_gone_on_with(tiny_checkpoint, data, tmp_path):
    start, rows = tiny_checkpoint("owlvit"), []
    recipe = recipe_of(data, steps=6, stop_after=3)
    first = finetune(start, PROMPTS, recipe, tmp_path / "out", report=rows.append)
    assert max(row["step"] for row in rows) == 3
    assert any("ap/" in key for row in rows for key in row)  # it is measured where it stops
    weights, measured = weights_of(first.checkpoint), dict(first.measured)
    again = finetune(start, PROMPTS, recipe, tmp_path / "out")
    assert again.measured == measured
    for name, tensor in weights_of(again.checkpoint).items():
        np.testing.assert_array_equal(tensor, weights[name], err_msg=name)
    longer = finetune(start, PROMPTS, recipe_of(data, steps=6, stop_after=5), tmp_path / "out")
    assert not all(np.array_equal(tensor, weights[name]) for name, tensor in weights_of(longer.checkpoint).items())
