from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medprompt.core.manifest import Preprocess
from medprompt.data import DetectionSet, LabelledImage
from medprompt.data.outlines import Outline
from medprompt.export.finetune import samples as samples_module
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_WORDS
from medprompt.export.finetune.samples import Augmentation, Collator, TrainingSamples
from medprompt.export.finetune.shapes import NO_CLASS
from medprompt.export.finetune.windows import boxes_in_window
from medprompt.prompts.schema import Prompts

PROMPTS = Prompts.model_validate(
    {"classes": [{"label": "a", "phrases": ["one", "two", "three"]}, {"label": "b", "phrases": ["four"]}]}
)
STILL = Augmentation(scale=(1, 1), flips=False, colour=0)


@pytest.fixture
def squares(tmp_path):
    """Four images with one white square each on black, at different places."""
    images = []
    for n in range(4):
        pixels = np.zeros((48, 64, 3), np.uint8)
        left, top = 8 + 8 * n, 4 + 8 * n
        pixels[top : top + 16, left : left + 16] = 255
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        box = np.array([[left, top, left + 16, top + 16]], np.float32)
        images.append(LabelledImage(tmp_path / f"{n}.png", (48, 64), box, np.array([0])))
    return DetectionSet("squares", ("a", "b"), tuple(images))


def samples_of(found, augmentation, count=40, seed=3, repeat=1):
    preprocess = Preprocess(size_hw=(32, 32), resample="bilinear")
    return TrainingSamples([found], [np.array([True, False])], [repeat], preprocess, augmentation, count, seed)


def test_a_sample_is_a_function_of_seed_and_number(squares):
    strong = Augmentation(scale=(0.6, 1.6), colour=0.3)
    first, second = samples_of(squares, strong), samples_of(squares, strong)
    for index in (39, 0, 7):  # in any order
        assert (first[index].image == second[index].image).all()
        assert (first[index].boxes_cxcywh == second[index].boxes_cxcywh).all()
    assert (first[0].image != samples_of(squares, strong, seed=4)[0].image).any()


def test_every_epoch_shows_every_image_once(squares):
    samples = samples_of(squares, STILL)
    for epoch in range(3):
        places = {tuple(samples[4 * epoch + n].boxes_cxcywh[0].round(4)) for n in range(4)}
        assert len(places) == 4


def test_a_repeated_set_comes_so_often_an_epoch(squares):
    samples = samples_of(squares, STILL, count=12, repeat=3)
    places = Counter(tuple(samples[n].boxes_cxcywh[0].round(4)) for n in range(12))
    assert sorted(places.values()) == [3, 3, 3, 3]


def test_boxes_follow_the_pixels(squares):
    samples = samples_of(squares, Augmentation(scale=(0.6, 1.6), colour=0), count=60)
    checked = 0
    for index in range(60):
        sample = samples[index]
        white = sample.image[..., 0] > 127
        for box in sample.boxes_cxcywh * 32:
            rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
            seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            wanted = [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]
            assert seen == pytest.approx(wanted, abs=1.1)  # a pixel's edge
            checked += 1
    assert checked > 40


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.4, 1.6))
def test_boxes_in_a_window_stay_within_0_and_1(left, top, side):
    boxes = np.array([[0, 0, 1, 1], [0.2, 0.2, 0.4, 0.3], [0.9, 0.9, 1, 1]], np.float32)
    clipped, kept = boxes_in_window(boxes, (left, top, left + side, top + side), 0.3)
    assert len(clipped) == len(kept)
    assert ((clipped >= 0) & (clipped <= 1)).all()
    assert (clipped[:, 2:] > clipped[:, :2]).all()


def test_an_image_without_boxes(squares):
    bare = LabelledImage(squares.images[0].path, (48, 64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    sample = samples_of(DetectionSet("bare", ("a", "b"), (bare,)), Augmentation())[0]
    assert sample.boxes_cxcywh.shape == (0, 4)
    assert Collator(PROMPTS, 0)([sample])["targets"][0]["boxes"].shape == (0, 4)


def test_the_collator_draws_one_phrase_a_class(squares):
    samples = samples_of(squares, STILL)
    collate = Collator(PROMPTS, seed=1)
    drawn = [collate([samples[n], samples[n + 1]])["texts"] for n in range(0, 30, 2)]
    assert {texts[0] for texts in drawn} == {"one", "two", "three"}
    assert {texts[1] for texts in drawn} == {"four"}
    assert drawn[0] == collate([samples[0], samples[1]])["texts"]
    batch = collate([samples[0], samples[1]])
    assert batch["image"].shape == (2, 32, 32, 3)
    assert batch["annotated"].tolist() == [[True, False]] * 2
    assert batch["targets"][0]["classes"].dtype == torch.int64


def test_held_out_boxes_move_with_the_picture_and_are_no_labels(squares):
    strong = Augmentation(scale=(0.6, 1.6), colour=0)
    labelled, unlabelled = samples_of(squares, strong), samples_of(squares.holding_out(["a"]), strong)
    held_out = 0
    for index in range(20):
        before, after = labelled[index], unlabelled[index]
        assert after.boxes_cxcywh.shape == (0, 4)
        assert after.word_fits.shape == (0, len(ATTRIBUTE_WORDS))
        np.testing.assert_array_equal(after.held_out_cxcywh, before.boxes_cxcywh)
        assert (after.image == before.image).all()
        held_out += len(after.held_out_cxcywh)
    assert held_out > 10


def test_composed_phrases_follow_the_classes(squares):
    samples = samples_of(squares, STILL)  # white squares, 16 of 48 x 64 pixels: medium, white, round
    batch = Collator(PROMPTS, seed=1, attribute_phrases=6)([samples[0], samples[1]])
    assert len(batch["texts"]) == 8
    assert batch["texts"][:2] == Collator(PROMPTS, seed=1)([samples[0], samples[1]])["texts"]
    assert batch["annotated"].tolist() == [[True, False, *[True] * 6]] * 2
    for target in batch["targets"]:
        assert target["fits"].tolist() == [[1, -1, 1, -1, 1, -1, 1, -1]]  # every second phrase is true of an object
        assert target["fits"].dtype == torch.int8


def test_drawn_shapes_are_objects_of_no_class(squares):
    plain, drawn = samples_of(squares, STILL), samples_of(squares, replace(STILL, shapes=6))
    numbers = [n for n in range(8) if len(drawn[n].class_ids) > 1]
    assert numbers
    for n in numbers:
        sample = drawn[n]
        assert (sample.boxes_cxcywh[:1] == plain[n].boxes_cxcywh).all() and sample.class_ids[0] == 0
        assert (sample.class_ids[1:] == NO_CLASS).all()
        assert len(sample.word_fits) == len(sample.boxes_cxcywh) == len(sample.class_ids)
    batch = Collator(PROMPTS, seed=1, attribute_phrases=6)([drawn[numbers[0]]])
    fits = batch["targets"][0]["fits"]
    assert fits[0, :2].tolist() == [1, -1] and (fits[1:, :2] == -1).all()


def three_classes(squares):
    """One picture with an object of each of the classes a, b and c."""
    words = {"a": "one", "b": "four", "c": "five"}
    prompts = Prompts.model_validate({"classes": [{"label": k, "phrases": [v]} for k, v in words.items()]})
    sample = samples_of(squares, STILL)[0]
    return prompts, replace(
        sample,
        boxes_cxcywh=np.array([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2], [0.8, 0.8, 0.3, 0.3]], np.float32),
        class_ids=np.arange(3),
        annotated=np.array([True, False, True]),
        word_fits=np.repeat(sample.word_fits, 3, axis=0),
        masks=np.arange(3, dtype=np.float16)[:, None, None],
    )


def test_classes_that_are_left_out_are_not_asked_and_their_objects_are_background(squares):
    prompts, sample = three_classes(squares)
    seen = Counter()
    for seed in range(200):
        batch = Collator(prompts, seed, drop_classes=0.5)([sample])
        asked, target = batch["asked"].tolist(), batch["targets"][0]
        seen[tuple(asked)] += 1
        assert batch["texts"] == [["one", "four", "five"][index] for index in asked]
        assert batch["annotated"].tolist() == [[[True, False, True][index] for index in asked]]
        assert target["classes"].tolist() == list(range(len(asked)))
        assert target["fits"].tolist() == [[2 * (a == b) - 1 for b in asked] for a in asked]
        assert target["boxes"][:, 0].tolist() == pytest.approx([[0.2, 0.5, 0.8][index] for index in asked])
        assert target["masks"][:, 0, 0].tolist() == asked
    assert len(seen) == 6 and min(seen.values()) > 10  # every subset but those that the picture cannot judge
    assert (1,) not in seen


@pytest.mark.parametrize("phrases", [0, 4])
def test_objects_of_classes_left_out_stay_where_composed_phrases_ask_for_them(squares, phrases):
    prompts, sample = three_classes(squares)
    batch = Collator(prompts, 3, attribute_phrases=phrases, drop_classes=0.99)([sample])
    (asked,) = batch["asked"].tolist()
    classes = batch["targets"][0]["classes"].tolist()
    assert classes == ([0] if not phrases else [0 if index == asked else NO_CLASS for index in range(3)])
    assert (batch["targets"][0]["fits"][:, 0] == 1).sum() == 1


def test_without_dropping_every_class_is_asked_and_the_phrases_stay(squares):
    prompts, sample = three_classes(squares)
    for seed in range(20):
        asked_all = Collator(prompts, seed)([sample])
        assert asked_all["asked"].tolist() == [0, 1, 2]
    shapes = replace(sample, class_ids=np.array([0, NO_CLASS, 2]))
    assert Collator(prompts, 1)([shapes])["targets"][0]["classes"].tolist() == [0, NO_CLASS, 2]


def test_without_composed_phrases_only_the_own_class_fits(squares):
    batch = Collator(PROMPTS, seed=1)([samples_of(squares, STILL)[0]])
    assert batch["targets"][0]["fits"].tolist() == [[1, -1]]
    assert batch["targets"][0]["held_out"].shape == (0, 4)


@pytest.mark.parametrize(("kept", "most"), [(4 * 48 * 64 * 3, 4), (2 * 48 * 64 * 3, 2), (1, 1)])
def test_no_more_pictures_are_kept_than_fit(squares, monkeypatch, kept, most):
    monkeypatch.setattr(samples_module, "KEPT_BYTES", kept)
    whole, tight = samples_of(squares, STILL, seed=5), samples_of(squares, STILL, seed=5)
    for index in range(12):
        assert (whole[index].image == tight[index].image).all()
        assert len(tight._pixels) <= most
        assert tight._kept_bytes == len(tight._pixels) * 48 * 64 * 3


def outlined(image: LabelledImage) -> LabelledImage:
    """The image with the outlines of its squares, as COCO has polygons; of a second object only the box is known."""
    left, top, right, bottom = image.boxes_xyxy[0].tolist()
    outline = Outline([[left, top, right, top, right, bottom, left, bottom]], "here")
    boxes = np.concatenate([image.boxes_xyxy, np.array([[0, 0, 64, 48]], np.float32)])
    return replace(image, boxes_xyxy=boxes, class_ids=np.array([0, 1]), outlines=(outline, None))


@pytest.mark.parametrize(
    "augmentation",
    [STILL, Augmentation(scale=(1, 1), colour=0), Augmentation(scale=(0.6, 1.6), colour=0)],
    ids=["still", "flipped", "zoomed and flipped"],
)
def test_masks_follow_the_pixels(squares, augmentation):
    found = replace(squares, images=tuple(map(outlined, squares.images)))
    preprocess = Preprocess(size_hw=(32, 32), resample="bilinear", mean=(0.0, 0.5, 1.0))
    samples = TrainingSamples([found], [np.ones(2, np.bool_)], [1], preprocess, augmentation, 60, 3, (16, 16))
    turned = set()
    for index in range(60):
        sample = samples[index]
        assert sample.masks is not None and sample.masks.shape == (len(sample.boxes_cxcywh), 16, 16)
        seen = np.where(np.ptp(sample.image, axis=2) > 10, 0, sample.image[..., 0])  # what lies outside is coloured
        white = seen.reshape(16, 2, 16, 2).mean(axis=(1, 3)) / 255
        for mask, class_id, box in zip(sample.masks, sample.class_ids, sample.boxes_cxcywh, strict=True):
            if class_id == 1:
                assert np.isnan(mask).all()
                continue
            assert np.abs(mask - white).mean() < 0.02
            weights = mask.astype(np.float64)
            middle = (weights.sum(axis=0) @ (np.arange(16) + 0.5), weights.sum(axis=1) @ (np.arange(16) + 0.5))
            assert np.array(middle) / weights.sum() / 16 == pytest.approx(box[:2], abs=0.032)  # a pixel
            turned.add((bool(box[0] > 0.5), bool(box[1] > 0.5)))
    assert len(turned) == (4 if augmentation.flips else 3)


def test_masks_of_a_sample_are_those_of_its_target(squares):
    found = replace(squares, images=tuple(map(outlined, squares.images)))
    preprocess, drawn = Preprocess(size_hw=(32, 32), resample="bilinear"), Augmentation(shapes=3)
    samples = TrainingSamples([found], [np.ones(2, np.bool_)], [1], preprocess, drawn, 20, 3, (16, 16))
    for index in range(20):
        target = Collator(PROMPTS, 0)([samples[index]])["targets"][0]
        assert target["masks"].shape == (len(target["classes"]), 16, 16)
        known = ~target["masks"].isnan().any(dim=(1, 2))
        assert known.tolist() == (target["classes"] == 0).tolist()  # drawn shapes have no outline
    assert "masks" not in Collator(PROMPTS, 0)([samples_of(found, STILL)[0]])["targets"][0]
