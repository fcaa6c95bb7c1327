"""The detector: preprocess, engine, postprocess, on a graph whose answers can be stated."""

from __future__ import annotations

import numpy as np
import pytest

from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, ImageError, InputError
from medprompt.core.manifest import Postprocess, Preprocess
from medprompt.runtime.decode import decode
from tests.runtime.bundles import SIZE_HW, make_bank, make_manifest
from tests.runtime.scripted import detector, image, script

THRESHOLDS = [
    {"label": "RBC", "threshold": 0.5, "phrases": ["red cell", "pale disc"]},
    {"label": "WBC", "phrases": ["white cell"]},
]


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        pytest.param(None, [0.6, 0.5, 0.3, 0.2], id="own thresholds, else the bundle's; at the threshold counts"),
        pytest.param(0.0, [0.6, 0.5, 0.4, 0.3, 0.2, 0.1], id="zero keeps all"),
        pytest.param(0.35, [0.6, 0.5, 0.4], id="one for all"),
        pytest.param(1.0, [], id="one keeps nothing"),
    ],
)
def test_thresholds(threshold: float | None, kept: list[float]) -> None:
    rows = [(0.1, 1, 2), (0.5, 0, 1), (0.3, 1, 2), (0.4, 0, 0), (0.6, 0, 0), (0.2, 1, 2)]
    with detector(script(rows), threshold, make_bank(THRESHOLDS)) as detect:
        found = detect(image())
    assert found.scores.tolist() == pytest.approx(kept)


def test_thresholds_are_reported() -> None:
    assert detector(script([]), None, make_bank(THRESHOLDS)).thresholds == pytest.approx((0.5, 0.2))
    assert detector(script([]), 0.7).thresholds == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        detector(script([]), threshold)


def test_nothing_found_is_an_empty_result() -> None:
    found = detector(script([]))(image())
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.size_hw == (20, 40)


@pytest.mark.parametrize(
    ("pad", "expected"),
    [("none", [4, 4, 12, 8]), ("square", [4, 8, 12, 16])],
    ids=["source", "padded square"],
)
def test_boxes_are_source_pixels(pad: str, expected: list[float]) -> None:
    spec = Preprocess(size_hw=SIZE_HW, resample="bilinear", pad=pad)
    found = detector(script([(0.9, 1, 2)]), preprocess=spec)(image(20, 40))
    assert found.boxes_xyxy[0].tolist() == pytest.approx(expected)
    assert next(found.rows())["label"] == "WBC"
    assert next(found.rows())["phrase"] == "white cell"


def test_boxes_are_not_clipped() -> None:
    found = detector(script([(0.9, 0, 0)], [[-0.1, -0.2, 1.1, 1.5]]))(image(20, 40))
    assert found.boxes_xyxy[0].tolist() == pytest.approx([-4, -4, 44, 30])


NEARLY = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.52], [0, 0, 0.5, 0.51], [0.6, 0.6, 0.9, 0.9]]
ROWS = [(0.9, 0, 0), (0.8, 0, 0), (0.7, 1, 2), (0.3, 0, 0)]


@pytest.mark.parametrize(
    ("post", "kept"),
    [
        (Postprocess(top_k=4), [0.9, 0.8, 0.7, 0.3]),
        (Postprocess(top_k=4, nms_iou=0.5), [0.9, 0.7, 0.3]),
        (Postprocess(top_k=4, nms_iou=0.5, nms_across_classes=True), [0.9, 0.3]),
        (Postprocess(top_k=4, nms_iou=0.99), [0.9, 0.8, 0.7, 0.3]),
        (Postprocess(top_k=4, min_side=8.0), [0.9, 0.8, 0.7]),  # of a source of 20 x 40, the last box is 6 high
        (Postprocess(top_k=4, min_side=8.0, nms_iou=0.5), [0.9, 0.7]),
    ],
    ids=["off", "by class", "across classes", "loose", "small ones", "small ones first"],
)
def test_suppression(post: Postprocess, kept: list[float]) -> None:
    found = detector(script(ROWS, NEARLY), postprocess=post)(image())
    assert found.scores.tolist() == pytest.approx(kept)


def test_pixels_at_the_end_come_last() -> None:
    """After suppression: with them already there, the second box would overlap the first by less."""
    plain, extended = (
        detector(script(ROWS, NEARLY), postprocess=Postprocess(top_k=4, nms_iou=0.5, end_pixels=pixels))(image())
        for pixels in (0.0, 1.0)
    )
    assert extended.scores.tolist() == plain.scores.tolist()
    np.testing.assert_allclose(extended.boxes_xyxy - plain.boxes_xyxy, [[0, 0, 1, 1]] * len(plain), atol=1e-5)


@pytest.mark.parametrize("name", ["scores", "boxes_xyxy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_never_no_findings(name: str, value: float) -> None:
    engine = script(ROWS, NEARLY)
    engine.outputs[name] = engine.outputs[name].copy()
    engine.outputs[name].flat[-1] = value
    with pytest.raises(EngineError, match="NaN or Inf") as caught:
        detector(engine, 0.5)(image())
    assert name in caught.value.where


@pytest.mark.parametrize(
    ("name", "value"), [("class_ids", 2), ("class_ids", -1), ("phrase_ids", 3), ("phrase_ids", -1)]
)
def test_ids_that_the_bank_does_not_have_are_refused(name: str, value: int) -> None:
    engine = script(ROWS, NEARLY)
    engine.outputs[name][-1] = value
    with pytest.raises(EngineError, match="does not have") as caught:
        detector(engine)(image())
    assert name in caught.value.where


@pytest.mark.parametrize("name", ["boxes_xyxy", "scores", "class_ids"])
def test_outputs_of_another_shape_are_refused(name: str) -> None:
    engine = script(ROWS, NEARLY)
    engine.outputs[name] = engine.outputs[name][:-1]
    with pytest.raises(EngineError, match="not those of a detector"):
        detector(engine)(image())


def test_missing_outputs_are_refused() -> None:
    engine = script(ROWS)
    del engine.outputs["phrase_ids"]
    with pytest.raises(EngineError, match="not those of a detector"):
        detector(engine)(image())


def test_prompts_are_assembled_once_and_the_image_is_resized() -> None:
    engine = script(ROWS)
    detect = detector(engine)
    detect(image(1, 1, 7))
    detect(image(3000, 17, 9))
    first, second = engine.fed
    assert list(first) == ["image", "vectors", "phrase_to_class"]
    assert first["vectors"] is second["vectors"]
    assert first["image"].shape == second["image"].shape == (1, *SIZE_HW, 3)
    assert (first["image"] == 7).all()
    assert (second["image"] == 9).all()


def test_a_batch_keeps_the_order_of_its_images() -> None:
    engine = script([(0.9, 0, 0)])
    found = detector(engine).batch([image(10, 10), image(20, 40), image(10, 10)])
    assert [one.size_hw for one in found] == [(10, 10), (20, 40), (10, 10)]
    assert [one.boxes_xyxy[0, 2] for one in found] == pytest.approx([3, 12, 3])
    assert [len(feeds["image"]) for feeds in engine.fed] == [3]


GRAPH = Preprocess(size_hw=SIZE_HW, resample="bilinear", placement="graph")


def test_a_graph_that_resizes_gets_sources_grouped_by_size() -> None:
    engine = script([(0.9, 0, 0)])
    found = detector(engine, preprocess=GRAPH).batch([image(10, 10, 1), image(20, 40, 2), image(10, 10, 3)])
    assert [one.size_hw for one in found] == [(10, 10), (20, 40), (10, 10)]
    assert [feeds["image"].shape for feeds in engine.fed] == [(2, 10, 10, 3), (1, 20, 40, 3)]
    assert engine.fed[0]["image"][:, 0, 0, 0].tolist() == [1, 3]
    assert engine.fed[1]["resize_rows"].shape == (SIZE_HW[0], 20)
    assert engine.fed[1]["resize_cols"].shape == (SIZE_HW[1], 40)


def test_matrices_are_made_once_a_size() -> None:
    engine = script([])
    detect = detector(engine, preprocess=GRAPH)
    for _ in range(2):
        detect(image(33, 21))
    assert engine.fed[0]["resize_rows"] is engine.fed[1]["resize_rows"]


@pytest.mark.parametrize("spec", [None, GRAPH], ids=["host", "graph"])
def test_an_empty_batch_is_empty(spec: Preprocess | None) -> None:
    engine = script([])
    assert detector(engine, **({"preprocess": spec} if spec else {})).batch([]) == []
    assert engine.fed == []


@pytest.mark.parametrize("spec", [None, GRAPH], ids=["host", "graph"])
def test_what_is_no_image_is_refused(spec: Preprocess | None) -> None:
    detect = detector(script([]), **({"preprocess": spec} if spec else {}))
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError):
            detect(wrong)  # type: ignore[arg-type]
        with pytest.raises(ImageError):
            detect.batch([image(), wrong])  # type: ignore[list-item]


def test_the_context_closes_the_engine() -> None:
    engine = script([])
    with detector(engine):
        assert engine.closed == 0
    assert engine.closed == 1


def test_decode_needs_no_detector() -> None:
    engine, bank, manifest = script(ROWS, NEARLY), make_bank(), make_manifest()
    outputs = engine.run({"image": np.zeros((2, 1))})
    assert decode(outputs, bank, manifest, (20, 40), index=1, thresholds=0.5).scores.tolist() == pytest.approx(
        [0.9, 0.8, 0.7]
    )
    assert decode(outputs, bank, manifest, (20, 40)) == detector(engine, 0.0)(image(20, 40))
    assert decode({name: rows[:, :0] for name, rows in outputs.items()}, bank, manifest, (1, 1)) == Detections.empty(
        bank.labels, bank.prompts.texts, (1, 1)
    )
