"""The experiment on an untrained class: its file, its recipe, and the whole of it on a tiny model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.benchmarks.research.novel import measure_variants, run_novel, with_distractors
from medprompt.benchmarks.research.novel_experiment import Experiment, PromptVariant, experiment_from_yaml
from medprompt.benchmarks.research.novel_report import NovelReport, NovelRun
from medprompt.benchmarks.research.novel_words import WordSeparation
from medprompt.core.errors import DataError, InputError
from medprompt.data import read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_TEXTS
from medprompt.prompts.file import prompts_from_yaml
from tests.export.finetune.few_words import FEW_WORDS, use_few_words

ROOT = Path(__file__).parents[3]


def write_set(folder: Path, labels: tuple[str, ...], count: int = 3) -> None:
    """Images of dark squares on grey, one for each label, as ``train.json`` and ``val.json``."""
    folder.mkdir(parents=True)
    images, boxes = [], []
    for number in range(count):
        pixels = np.full((64, 64, 3), 200, np.uint8)
        for place in range(len(labels)):
            left, top, side = 4 + 28 * place, 6 + 3 * number, 20 - 12 * place
            pixels[top : top + side, left : left + side] = (140, 100, 200)
            boxes.append(
                {"id": len(boxes) + 1, "image_id": number, "category_id": place, "bbox": [left, top, side, side]}
            )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
    categories = [{"id": place, "name": label} for place, label in enumerate(labels)]
    content = json.dumps({"images": images, "annotations": boxes, "categories": categories})
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(content)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "data" / "smear", ("cell", "dot"))
    write_set(tmp_path / "data" / "tissue", ("nucleus",))
    return tmp_path / "data"


@pytest.fixture
def experiment() -> Experiment:
    return Experiment.model_validate(
        {
            "family": "owlvit",  # the quickest to train
            "names": {"cell": ["cell", "cells"], "dot": ["dot"], "nucleus": ["nucleus"]},
            "recipe": {
                "data": [
                    {"train": "smear/train.json", "val": "smear/val.json", "ignore_classes": ["nucleus"]},
                    {"train": "tissue/train.json", "val": "tissue/val.json"},
                ],
                "steps": 2,
                "batch": 2,
                "warmup_steps": 1,
                "attribute_phrases": 4,
                "threads": 1,
            },
            "variants": {
                "dot": [
                    {"name": "class name", "kind": "name", "phrases": ["dot"]},
                    {"name": "attributes", "kind": "manual", "phrases": ["small purple cell", "round cell"]},
                ],
                "nucleus": [{"name": "attributes", "kind": "manual", "phrases": ["large purple blob"]}],
            },
        }
    )


def placed_start(tiny: Path, out: Path, seed: int) -> None:
    shutil.copytree(tiny, out / f"seed-{seed}" / "start")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_whole_of_it(
    tiny_checkpoint: Callable[[str], Path],
    data: Path,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_few_words(monkeypatch)
    out = tmp_path / "out"
    for seed in (0, 1):
        placed_start(tiny_checkpoint("owlvit"), out, seed)
    with pytest.raises(InputError, match="saved nothing"):
        run_novel("dot", data, out, as_it_is=True, experiment=experiment)
    rows: list[dict[str, object]] = []
    report = run_novel("dot", data, out, seeds=(0, 1), experiment=experiment, report=rows.append)
    assert "ap50/smear/dot" in rows[-1]
    assert [run.step for run in report.runs] == [2, 2]
    assert report.runs[0].trained.keys() == {"cell"}
    assert [row[0] for row in report.word_rows()] == [word.texts[0] for word in FEW_WORDS]
    for row, variant in zip(report.rows(), experiment.variants["dot"], strict=True):
        assert row[:2] == (variant.name, variant.kind)
        assert len(row) == 6
        assert "±" in row[3]
    written = json.loads((out / "novel.json").read_text())
    assert written["wordings"][1]["ap50"] == [run.found["attributes"][1] for run in report.runs]
    assert written["wordings"][1]["ap_in_company"] == [run.among_distractors["attributes"][0] for run in report.runs]
    assert written["wordings"][1]["phrases"] == ["small purple cell", "round cell"]
    assert "NaN" not in (out / "novel.json").read_text()
    assert len(written["words"][1]) == len(FEW_WORDS)
    rows.clear()
    again = run_novel("dot", data, out, seeds=(0, 1), experiment=experiment, report=rows.append)
    assert rows == []  # nothing is trained twice
    assert again.rows() == report.rows()
    shutil.rmtree(out / "seed-1" / "checkpoint")
    saved = run_novel("dot", data, out, seeds=(1,), as_it_is=True, experiment=experiment)
    assert saved.runs[0].step == 2
    assert saved.runs[0].found == report.runs[1].found


def test_a_set_of_the_held_out_class_alone_is_never_seen(data: Path, experiment: Experiment) -> None:
    without_dots = experiment.recipe_without("dot", data, seed=3, steps=10)
    assert [entry.hold_out for entry in without_dots.data] == [("dot",), ()]
    assert (without_dots.seed, without_dots.steps, without_dots.decay_steps) == (3, 10, 5)
    without_nuclei = experiment.recipe_without("nucleus", data, seed=0)
    assert [entry.train for entry in without_nuclei.data] == ["smear/train.json"]
    assert without_nuclei.data[0].ignore_classes == ()
    assert "nucleus" not in [entry.label for entry in experiment.training_prompts("nucleus").classes]


def test_distractors_are_images_that_hold_none_of_the_class(data: Path) -> None:
    smear, tissue = (read_detection_set(str(data / name / "val.json")) for name in ("smear", "tissue"))
    distractors = with_distractors(tissue.only("nucleus"), [smear])
    assert distractors.labels == ("nucleus",)
    assert [len(image.boxes_xyxy) for image in distractors.images] == [1, 1, 1, 0, 0, 0]
    assert [image.path for image in distractors.images] == [image.path for image in (*tissue.images, *smear.images)]


def test_with_distractors_a_variant_that_leaves_nothing_alone_loses(
    tiny_checkpoint: Callable[[str], Path], data: Path, experiment: Experiment
) -> None:
    """The boxes on the class's own images are the same; those on the others are false alarms and can only cost."""
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    sets = [read_detection_set(str(data / name / "val.json")) for name in ("smear", "tissue")]
    alone, distractors = measure_variants(family, "nucleus", experiment.variants["nucleus"], sets)
    by_itself, same = measure_variants(family, "nucleus", experiment.variants["nucleus"], sets[1:])
    assert alone == by_itself == same
    assert all(distractors[name][n] <= alone[name][n] for name in alone for n in (0, 1))


@pytest.mark.parametrize(
    ("held_out", "seeds", "error", "message"),
    [("cell", (0,), InputError, "cannot be held out"), ("dot", (), InputError, "no seed")],
)
def test_what_cannot_be_asked(
    data: Path, experiment: Experiment, tmp_path: Path, held_out: str, seeds: tuple[int, ...],
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        run_novel(held_out, data, tmp_path / "out", seeds=seeds, experiment=experiment)
    assert not (tmp_path / "out").exists()


def test_a_class_that_no_set_has(data: Path, experiment: Experiment) -> None:
    with pytest.raises(DataError, match="cannot be held out of this data"):
        experiment.recipe_without("ulcer", data, seed=0)


def test_mean_and_spread_over_seeds() -> None:
    variants = (PromptVariant(name="a", kind="name", phrases=("dot",)),)
    runs = [NovelRun(n, 9, 9, {"a": (0.1 * n, 0.2 * n)}, {}, (), {"a": (0.1, 0.01 * n)}) for n in (1, 2, 3)]
    assert NovelReport("dot", variants, tuple(runs), "val").rows() == [
        ("a", "name", "0.200 ± 0.100", "0.400 ± 0.200", "0.100 ± 0.000", "0.020 ± 0.010")
    ]
    blank = WordSeparation("tiny", math.nan, 0.5, 0, 3)
    seen = [NovelRun(n, 9, 9, {}, {}, (blank,)) for n in (0, 1)]
    assert NovelReport("dot", (), tuple(seen), "val").word_rows() == [("tiny", "-", "0.500 ± 0.000", "0", "3")]
    assert NovelReport("dot", variants, (runs[0],), "val").rows() == [("a", "name", "0.100", "0.200", "0.100", "0.010")]


@pytest.mark.parametrize("variant", [{"name": "a", "kind": "name"}, {"name": "a", "kind": "guessed", "phrases": ["b"]},
                                     {"name": "a", "kind": "pack", "pack": "bccd", "phrases": ["b"]}])  # fmt: skip
def test_a_variant_has_one_source_of_a_known_kind(variant: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"phrases or a pack|kind"):
        PromptVariant.model_validate(variant)


def test_a_damaged_file_is_bad_input(tmp_path: Path) -> None:
    for content in ("names: [", "names: {}", ""):
        (tmp_path / "novel.yaml").write_text(content)
        with pytest.raises(InputError, match="cannot be read"):
            experiment_from_yaml(tmp_path / "novel.yaml")


@pytest.mark.parametrize("held_out", ["Platelets", "nucleus"])
def test_the_shipped_experiment_tells_the_model_nothing_of_the_class(held_out: str) -> None:
    """No phrase of the held-out class is trained: neither its names nor what the demo tells of it."""
    experiment = experiment_from_yaml()
    trained = {text.casefold() for text in experiment.training_prompts(held_out).texts}
    demo = prompts_from_yaml(ROOT / "medprompt" / "demo" / "train-prompts.yaml")
    told = next(entry for entry in demo.classes if entry.label == held_out)
    names = {name.casefold() for name in experiment.names[held_out]}
    assert not trained & {phrase.text.casefold() for phrase in told.phrases}
    words = {word for text in trained for word in text.split()} | {
        word for text in ATTRIBUTE_TEXTS for word in text.split()
    }
    assert not {word for name in names for word in name.split()} & words - {"cell"}
    kinds = {variant.kind for variant in experiment.variants[held_out]}
    assert kinds == {"name", "manual", "pack", "mlm", "vqa", "hybrid", "control"}
    for variant in experiment.variants[held_out]:
        assert variant.prompts(held_out).texts
