"""Named defaults of a recipe, its two ways to say a length, and the command line above both."""

import json
import re
import subprocess
import sys
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from medprompt.cli import main
from medprompt.core.errors import DataError
from medprompt.export.finetune import trainer
from medprompt.export.finetune.presets import PRESETS, PresetName
from medprompt.export.finetune.recipe import Recipe, recipe_from_yaml
from medprompt.export.finetune.run import check_recipe
from medprompt.export.finetune.trainer import finetune
from tests.export.finetune.drawn import PROMPTS, drawn_coco, recipe_of

DATA = [{"train": "a.json", "val": "b.json"}]


def recipe(**given):
    return Recipe.model_validate({"data": DATA, **given})


def test_every_preset_can_be_named():
    assert get_args(PresetName) == tuple(PRESETS)


def test_the_paper_preset_is_what_it_says():
    found = recipe(preset="paper")
    expected = {
        "mode": "full",
        "epochs": 30,
        "learning_rate": 1e-4,
        "text_learning_rate": 1e-5,
        "weight_decay": 1e-4,
        "warmup_steps": 300,
        "max_grad_norm": 1.0,
        "ema": 0.998,
        "scale_min": 0.5,
        "scale_max": 1.5,
        "precision": "bf16",
    }
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.patience is None


def test_the_preset_for_small_data_keeps_encoders_and_stops_by_validation():
    found = recipe(preset="small-data")
    assert (found.mode, found.steps, found.epochs, found.patience, found.evaluate_every) == ("head", 1000, None, 6, 50)
    with pytest.raises(ValueError, match="patience needs a val set"):
        recipe(preset="small-data", data=[{"train": "a.json"}])
    assert recipe(preset="small-data", data=[{"train": "a.json"}], patience=None).patience is None


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "given", [{"learning_rate": 3e-4}, {"steps": 77}, {"epochs": 2}, {"scale_max": 3.0, "precision": "fp32"}]
)
def test_what_the_file_says_stands_above_the_preset(preset, given):
    found = recipe(preset=preset, **given)
    for name, value in given.items():
        assert getattr(found, name) == value
    assert found.epochs is None or "steps" not in given
    untouched = PRESETS[preset].keys() - given.keys() - {"steps", "epochs"}
    assert all(getattr(found, name) == PRESETS[preset][name] for name in untouched)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 10, "epochs": 1}, "give one of them"),
        ({"preset": "paper", "steps": 10, "epochs": 1}, "give one of them"),
        ({"preset": "large"}, "'paper' or 'small-data'"),
        ({"epochs": 0}, "greater than 0"),
        ({"scale_min": 2.0}, "scale_min 2 is above scale_max 1.25"),
        ({"patience": 0}, "greater than 0"),
    ],
)
def test_recipes_that_are_refused(tmp_path, given, message):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"data": DATA, **given}))
    with pytest.raises(DataError, match=message):
        recipe_from_yaml(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("epochs", "batch", "images", "steps", "warmup", "decay"),
    [(30, 8, 100, 375, 37, 187), (1, 4, 5, 2, 0, 1), (10, 1, 2000, 20000, 100, 500), (3, 2, 1, 2, 0, 1)],
)
def test_epochs_become_steps(epochs, batch, images, steps, warmup, decay):
    found = recipe(epochs=epochs, batch=batch).in_steps(images)
    assert (found.steps, found.warmup_steps, found.decay_steps, found.epochs) == (steps, warmup, decay, None)


def test_steps_stay_as_they_are():
    found = recipe(steps=5)
    assert found.in_steps(1000) is found


@pytest.mark.parametrize("given", [{}, {"epochs": 3}, {"preset": "paper"}, {"preset": "small-data", "epochs": 4}])
def test_a_recipe_reads_back_equal(tmp_path, given):
    (tmp_path / "recipe.yaml").write_text(recipe(**given).as_yaml())
    assert recipe_from_yaml(tmp_path / "recipe.yaml") == recipe(**given)


OLD_KEYS = {"helper_share": 0.5, "helper_steps": 7, "look_phrases": 2}
NEW_KEYS = {"one_to_many_weight": 0.5, "one_to_many_steps": 7, "attribute_phrases": 2}


def test_keys_of_0_1_are_read_and_todays_are_written(tmp_path):
    old, new = ({"data": [{**DATA[0], key: ["wbc"]}]} for key in ("unjudged", "ignore_classes"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**old, **OLD_KEYS}))
    found = recipe_from_yaml(tmp_path / "recipe.yaml")
    assert found == Recipe.model_validate({**new, **NEW_KEYS})
    assert not {*OLD_KEYS, "unjudged"} & set(re.findall(r"\w+", found.as_yaml()))
    assert recipe_from_yaml(tmp_path / "recipe.yaml", {"one_to_many_weight": 0.25}).one_to_many_weight == 0.25


def test_a_key_in_both_spellings_is_refused():
    with pytest.raises(ValidationError, match="helper_share"):
        recipe(helper_share=0.5, one_to_many_weight=0.5)


def test_a_run_that_0_1_began_goes_on(tmp_path):
    note = {**recipe(steps=4).model_dump(mode="json", exclude=set(NEW_KEYS)), **OLD_KEYS}
    note["data"] = [
        {**{k: v for k, v in entry.items() if k != "ignore_classes"}, "unjudged": []} for entry in note["data"]
    ]
    (tmp_path / "recipe.json").write_text(json.dumps(note))
    check_recipe(recipe(steps=4, **NEW_KEYS), tmp_path)
    with pytest.raises(DataError, match="Another recipe"):
        check_recipe(recipe(steps=4, **{**NEW_KEYS, "one_to_many_steps": 8}), tmp_path)


def test_the_command_line_names_a_preset_above_the_files_own(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"data": DATA, "preset": "paper", "ema": 0.9}))
    found = recipe_from_yaml(tmp_path / "recipe.yaml", {"preset": "small-data"})
    assert (found.mode, found.epochs, found.ema) == ("head", None, 0.9)


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_epochs_sees_every_image_so_often(tiny_checkpoint, tmp_path):
    data = drawn_coco(tmp_path, count=3)
    fields = recipe_of(data).model_dump(exclude={"steps"}) | {"epochs": 2, "data": [{"train": data, "repeat": 2}]}
    rows = []
    result = finetune(
        tiny_checkpoint("owlvit"), PROMPTS, Recipe.model_validate(fields), tmp_path / "out", report=rows.append
    )
    assert rows[-1] == {"step": 6, "steps": 6}
    assert "2 epochs of 2 images" in (result.checkpoint / "README.md").read_text()
    kept = recipe_from_yaml(result.checkpoint / "recipe.yaml")
    assert (kept.epochs, kept.warmup_steps) == (2, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("preset", "changes", "last", "step"),
    [("paper", {"epochs": 2}, 2, None), ("small-data", {"steps": 3, "evaluate_every": 1, "patience": 1}, 2, 1)],
)
def test_a_preset_trains(tiny_checkpoint, tmp_path, monkeypatch, preset, changes, last, step):
    monkeypatch.setattr(trainer, "evaluate_family", lambda *_: {"ap/set": 0.5})
    data = drawn_coco(tmp_path)
    given = Recipe.model_validate({"preset": preset, "data": [{"train": data, "val": data}], "threads": 1, **changes})
    rows = []
    result = finetune(tiny_checkpoint("owlvit"), PROMPTS, given, tmp_path / "out", report=rows.append)
    assert rows[-1]["step"] == last
    assert (result.chosen.step if result.chosen else None) == step
    assert f"preset: {preset}" in (result.checkpoint / "recipe.yaml").read_text()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_printed_as_lines_of_a_recipe(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["medprompt", "finetune", "--show-preset", name])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    assert yaml.safe_load(capsys.readouterr().out) == PRESETS[name]


def test_an_unknown_preset_names_those_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["medprompt", "finetune", "--show-preset", "large"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "paper, small-data" in capsys.readouterr().err


def test_printing_a_preset_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['medprompt', 'finetune', '--show-preset', 'paper']\n"
        "from medprompt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "epochs: 30" in done.stdout
