"""What a reader should know about an image that was served: it was stretched, or more may have been found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import BankError, ImageError
from medprompt.core.manifest import Manifest, OwnSize, Postprocess, Preprocess
from medprompt.core.tiling import merge_tile_detections
from medprompt.runtime import Detector
from medprompt.runtime.batch import infer_images
from medprompt.runtime.selection.serving_options import check_text_length
from tests.runtime.bundles import QUERIES, SIZE_HW, make_bank, make_folder, make_manifest, record
from tests.runtime.scripted import detector, script

EDGES = OwnSize(shortest_edge=8, longest_edge=14)
CLASSES = [{"label": "RBC", "threshold": 0.5, "phrases": ["a"]}, {"label": "WBC", "phrases": ["b"]}]


def stretched(own: OwnSize | None, height: int, width: int, sizes: Literal["one", "own"] = "one") -> tuple[str, ...]:
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear", own_size=own, sizes=sizes)
    detect = detector(script([(0.1, 0, 0)]), preprocess=spec)
    return detect(np.zeros((height, width, 3), np.uint8)).warnings


@pytest.mark.parametrize("source_hw", [(80, 140), (80, 80), (120, 80)])
def test_an_image_of_its_own_size_has_no_warning(source_hw: tuple[int, int]) -> None:
    assert stretched(EDGES, *source_hw, "own") == ()


@pytest.mark.parametrize("source_hw", [(10, 1000), (1, 30)])
def test_an_image_too_thin_for_its_own_size_is_refused(source_hw: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="too long and thin") as caught:
        stretched(EDGES, *source_hw, "own")
    assert "{}x{}".format(*source_hw) in caught.value.where
    assert "image_size=" in caught.value.fix


def test_one_batch_has_images_of_one_model_size() -> None:
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear", own_size=EDGES, sizes="own")
    engine = script([(0.1, 0, 0)])
    shapes = [(80, 140), (80, 80), (40, 70), (120, 80)]
    seen: list[tuple[int, ...]] = []
    serving = detector(engine, preprocess=spec)
    compute = serving.engine.run

    def run(feeds: Any) -> Any:
        seen.append(feeds["image"].shape)
        return compute(feeds)

    serving.engine.run = run  # type: ignore[method-assign]
    found = serving.batch([np.zeros((*shape, 3), np.uint8) for shape in shapes])
    assert [one.size_hw for one in found] == shapes
    assert sorted(seen) == [(1, 8, 8, 3), (1, 12, 8, 3), (2, 8, 14, 3)]


@pytest.mark.parametrize(
    ("own", "source_hw", "would_be"),
    [
        pytest.param(EDGES, (80, 120), "", id="its own aspect"),
        pytest.param(EDGES, (800, 1201), "", id="rounding: 8x12"),
        pytest.param(EDGES, (80, 130), "", id="one pixel: 8x13"),
        pytest.param(EDGES, (80, 140), "8x14", id="wider"),
        pytest.param(EDGES, (80, 80), "8x8", id="square"),
        pytest.param(EDGES, (120, 80), "12x8", id="portrait"),
        pytest.param(EDGES, (10, 1000), "0x14", id="as thin as a line"),
        pytest.param(OwnSize(height=8, width=12), (80, 80), "", id="fixed and equal"),
        pytest.param(OwnSize(height=16, width=24), (80, 120), "16x24", id="fixed and another"),
        pytest.param(None, (120, 80), "", id="not recorded"),
    ],
)
def test_an_image_that_its_own_processor_would_size_otherwise(
    own: OwnSize | None, source_hw: tuple[int, int], would_be: str
) -> None:
    warnings = stretched(own, *source_hw)
    assert len(warnings) == bool(would_be)
    for text in warnings:
        assert "{}x{} pixels (height x width) as 8x12".format(*source_hw) in text
        assert text.endswith(f"made them {would_be}.")


@pytest.mark.parametrize(
    ("scores", "threshold", "post", "cut"),
    [
        ([0.9, 0.5], None, {"queries": 3}, True),
        ([0.9, 0.3], None, {"queries": 3}, True),  # a WBC left out could reach 0.2
        ([0.9, 0.1], None, {"queries": 3}, False),
        ([0.9, 0.2], 0.2, {"queries": 3}, True),
        ([0.9, 0.2], 0.21, {"queries": 3}, False),
        ([0.9, 0.5], None, {"queries": 2}, False),
        ([0.9, 0.5], None, {"queries": 2, "labels_per_query": "many"}, True),
        ([0.9, 0.5], None, {}, True),  # a bundle that does not say
        ([0.9, 0.1], None, {}, False),
        ([], None, {"queries": 3}, False),
    ],
)
def test_rows_that_all_reach_the_threshold(
    scores: list[float], threshold: float | None, post: dict[str, Any], cut: bool
) -> None:
    engine = script([(score, 0, 0) for score in scores])
    detect = detector(engine, threshold, make_bank(CLASSES), postprocess=Postprocess(top_k=2, **post))
    found = detect(np.zeros((8, 12, 3), np.uint8))
    assert ["there may be more" in text for text in found.warnings] == [True] * cut


def test_suppression_hides_no_cut() -> None:
    post = Postprocess(top_k=2, queries=3, nms_iou=0.5)
    found = detector(script([(0.9, 0, 0), (0.8, 0, 0)]), postprocess=post)(np.zeros((8, 12, 3), np.uint8))
    assert (len(found), len(found.warnings)) == (1, 1)


def test_items_carry_them_and_say_so(tmp_path: Path) -> None:
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear", own_size=EDGES)
    post = Postprocess(top_k=QUERIES, queries=QUERIES)
    folder = make_folder(tmp_path / "b", engines=(record("fake"),), preprocess=spec, postprocess=post)
    for name, size in {"wide": (24, 16), "tall": (16, 24)}.items():
        Image.new("RGB", size, "lightgrey").save(tmp_path / f"{name}.png")
    with Detector.load(folder) as detect:
        run = infer_images(detect, [tmp_path / "wide.png", tmp_path / "tall.png"])
    assert [item.status for item in run.items] == ["OK", "OK_WITH_WARNINGS"]
    assert "24x16 pixels (height x width) as 8x12" in run.items[1].warnings[0]


def test_an_image_of_tiles_has_each_warning_once() -> None:
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear", own_size=EDGES)
    detect = detector(script([(0.1, 0, 0)]), preprocess=spec)
    tiles = [(0, 0, 16, 16), (16, 0, 32, 16), (32, 0, 56, 16)]
    found = [detect(np.zeros((bottom - top, right - left, 3), np.uint8)) for left, top, right, bottom in tiles]
    assert merge_tile_detections(found, tiles, (16, 56)).warnings == found[0].warnings
    assert len(found[0].warnings) == 1


def text_manifest(limit: int | None) -> Manifest:
    manifest = make_manifest()
    specs = tuple(
        one.model_copy(update={"source": "token"}) if one.name == "vectors" else one for one in manifest.inputs
    )
    return manifest.model_copy(update={"inputs": specs, "max_text_tokens": limit})


@pytest.mark.parametrize(("tokens", "limit", "fits"), [(256, 256, True), (257, 256, False), (975, None, True)])
def test_a_text_longer_than_the_model_reads_is_refused(tokens: int, limit: int | None, fits: bool) -> None:
    inputs = {"vectors": np.zeros((1, tokens, 3), np.float32)}
    if fits:
        check_text_length(inputs, text_manifest(limit))
        return
    with pytest.raises(BankError, match="longer than the model reads") as caught:
        check_text_length(inputs, text_manifest(limit))
    assert (caught.value.got, caught.value.exit_code) == ("257 tokens", 2)


def test_a_bank_of_phrases_read_one_by_one_has_no_limit() -> None:
    assert len(detector(script([(0.9, 0, 0)]), max_text_tokens=1)(np.zeros((8, 12, 3), np.uint8))) == 1
