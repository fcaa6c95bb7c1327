"""Masks of what is left, at the source's size: those that transformers' own step makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medprompt.bundles.load import GOLDEN_FILE, save_golden, write_manifest
from medprompt.core.errors import BundleError, EngineError
from medprompt.core.manifest import OwnSize, Postprocess, Preprocess
from medprompt.core.masks import Masks
from medprompt.runtime import Detector
from medprompt.runtime import masks as module
from medprompt.runtime.masks import source_masks
from medprompt.runtime.verify import verify_bundle
from tests.runtime.bundles import MASKS, SIZE_HW, make_folder, make_manifest, record, with_masks
from tests.runtime.scripted import Scripted, detector, image, script

STRETCHED = Preprocess(size_hw=SIZE_HW, resample="bilinear")
PADDED = Preprocess(size_hw=SIZE_HW, resample="bilinear", pad="square")
OWN = Preprocess(size_hw=SIZE_HW, resample="bilinear", sizes="own", own_size=OwnSize(shortest_edge=8, longest_edge=40))
POST = Postprocess(top_k=4, mask_threshold=0.5)


def discs(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Probabilities ``[N, h, w]`` that fall off around discs; the last is nowhere."""
    random, (rows, columns) = np.random.default_rng(seed), np.mgrid[:height, :width]
    shapes = random.random((count, 3)) * [height, width, max(height, width) / 3]
    fields = [1 / (1 + np.exp(np.hypot(rows - y, columns - x) - radius)) for y, x, radius in shapes]
    return np.array([*fields[:-1], np.full((height, width), 0.2)], dtype=np.float32)


def by_torch(probabilities: NDArray[np.float32], size_hw: tuple[int, int], spec: Preprocess) -> NDArray[np.bool_]:
    padded_hw = (max(size_hw),) * 2 if spec.pad == "square" else size_hw
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(probabilities)[None], size=padded_hw, mode="bilinear", align_corners=False
    )
    return (resized[0] > 0.5).numpy()[:, : size_hw[0], : size_hw[1]]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 90), (33, 41), (40, 40), (200, 70), (17, 300)])
@pytest.mark.parametrize("spec", [STRETCHED, PADDED, OWN], ids=["stretched", "padded", "own sizes"])
def test_masks_are_to_the_bit_those_of_torch(size_hw: tuple[int, int], spec: Preprocess, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "BLOCK_PIXELS", 1000)
    for probabilities in (discs(5, 40, 40), np.random.default_rng(1).random((3, 11, 13), dtype=np.float32)):
        found = source_masks(probabilities, 0.5, size_hw, spec)
        assert found.size_hw == size_hw
        assert np.array_equal(np.array(list(found)), by_torch(probabilities, size_hw, spec))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_mask_may_be_empty_or_everything(level: float) -> None:
    found = source_masks(np.full((1, 4, 4), level, np.float32), 0.5, (30, 20), PADDED)
    assert found.areas.tolist() == [600 * level]


BOXES = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.52], [0.2, 0, 0.5, 0.51], [0.6, 0.6, 0.9, 0.9]]
ROWS = [(0.3, 0, 0), (0.8, 0, 0), (0.9, 1, 2), (0.7, 0, 0)]


def masked(**changes: Any) -> Scripted:
    return script(ROWS, BOXES, **{"masks": discs(4, 16, 24), **changes})


@pytest.mark.parametrize(
    ("post", "threshold", "rows"),
    [
        (POST, 0.0, [2, 1, 3, 0]),
        (POST, 0.75, [2, 1]),
        (POST, 0.95, []),
        (POST.model_copy(update={"nms_iou": 0.5}), 0.0, [2, 1, 3]),
        (POST.model_copy(update={"min_side": 9.0}), 0.0, [2, 1, 0]),
        (POST.model_copy(update={"max_detections": 2, "end_pixels": 1.0}), 0.0, [2, 1]),
    ],
)
def test_each_detection_that_is_left_has_its_own_mask(post: Postprocess, threshold: float, rows: list[int]) -> None:
    found = detector(masked(), threshold, postprocess=post)(image())
    assert found.scores.tolist() == pytest.approx([ROWS[row][0] for row in rows])
    wanted = by_torch(discs(4, 16, 24), (20, 40), STRETCHED)[rows]
    assert np.array_equal(np.array(list(found.masks)).reshape(wanted.shape), wanted)


def test_only_what_is_left_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "medprompt.runtime.decode.source_masks", lambda one, *rest: seen.append(len(one)) or source_masks(one, *rest)
    )
    detector(masked(), 0.0, postprocess=POST.model_copy(update={"nms_iou": 0.5}))(image())
    assert seen == [3]


def test_a_bundle_without_a_threshold_of_masks_has_none() -> None:
    assert detector(masked(), 0.0, postprocess=Postprocess(top_k=4))(image()).masks is None


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (discs(3, 16, 24), "not those of a detector"),
        (discs(4, 16, 24)[:, 0], "not those of a detector"),
        (discs(4, 16, 24)[:, :0], "not those of a detector"),
        (np.full((4, 16, 24), np.nan, np.float32), "no probabilities"),
        (np.where(np.eye(16, 24) > 0, np.nan, discs(4, 16, 24)), "no probabilities"),
        (discs(4, 16, 24) * 9 - 5, "no probabilities"),
    ],
    ids=["of other rows", "of one dimension", "of no pixel", "NaN", "one NaN", "logits"],
)
def test_masks_that_no_model_makes_are_refused(masks: NDArray[np.float32], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        detector(masked(masks=masks), 0.95, postprocess=POST)(image())


def test_a_model_that_lost_its_masks_is_refused() -> None:
    with pytest.raises(EngineError, match="not those of a detector") as caught:
        detector(script(ROWS, BOXES), 0.0, postprocess=POST)(image())
    assert "masks" in caught.value.expected


ENGINES = (record("ort-cpu"),)
PICTURES = [np.random.default_rng(seed).integers(60, 256, (32, 48, 3)).astype(np.uint8) for seed in range(6)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("masked") / "bundle", masks=True, engines=ENGINES)


def with_golden(bundle: Path, pixels: slice | None) -> Path:
    """Golden images with what the bundle answers; of each mask only some rows of pixels, or no masks at all."""
    with Detector.load(bundle, device="ort-cpu", threshold=0.0, self_test=False) as detector:
        found = [detector(picture) for picture in PICTURES]
    for row, one in enumerate(found):
        kept = np.zeros((32, 48), bool)
        kept[pixels or slice(0)] = True
        masks = Masks.of(np.array([mask & kept for mask in one.masks])) if pixels else None
        found[row] = replace(one, masks=masks)
    save_golden(bundle / GOLDEN_FILE, PICTURES, found)
    write_manifest(bundle, with_masks(make_manifest(engines=ENGINES)))
    return bundle


def test_an_engine_answers_masks_at_source_size(bundle: Path) -> None:
    with Detector.load(bundle, device="ort-cpu", threshold=0.0) as detector:
        found = detector(PICTURES[0])
    wanted = by_torch(MASKS, (32, 48), STRETCHED)
    assert sorted(map(bytes, found.masks)) == sorted(map(bytes, wanted))


@pytest.mark.parametrize(("rows", "passed"), [(slice(0, 32), True), (slice(0, 20), False)])
def test_the_self_test_sees_a_mask_that_differs(bundle: Path, rows: slice, passed: bool) -> None:
    """The boxes, scores and classes are the same; some masks have lost pixels."""
    parity = verify_bundle(with_golden(bundle, rows), "ort-cpu")
    assert parity.passed is passed
    assert parity.min_mask_iou is not None


def test_golden_images_without_masks_prove_nothing_of_them(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no masks"):
        verify_bundle(with_golden(bundle, None), "ort-cpu")
