"""A model in two parts serves as the whole does, and computes each image once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from medprompt.bundles.load import load_bundle, write_manifest
from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError, OutOfMemoryError
from medprompt.core.manifest import Manifest, Postprocess
from medprompt.export.graph.parts_export import cut
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.openvino import OpenVino
from medprompt.runtime.engines.ort import OnnxRuntime
from tests.runtime.bundles import QUERIES, make_bank, make_folder, record

PHRASES = (1, 5, 40)
ENGINES = {"ort-cpu": OnnxRuntime, "openvino": OpenVino}
POST = Postprocess(top_k=QUERIES, queries=QUERIES, phrases_at_once=16)


def parted(folder: Path) -> Path:
    """A bundle of which the brightness of the image is computed by a part of its own."""
    make_folder(folder, masks=True, postprocess=POST, engines=tuple(map(record, ENGINES)))
    model = onnx.load(str(folder / "model.onnx"))
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] == "image":
            node.input[0] = "brightness"  # as an export has it: phrases ask nothing of the image itself
    onnx.save(model, str(folder / "model.onnx"))
    cut(folder / "model.onnx", [onnx.helper.make_tensor_value_info("brightness", onnx.TensorProto.FLOAT, ["B"])])
    write_manifest(folder, Manifest.model_validate_json((folder / "manifest.json").read_text()))
    return folder


def whole(folder: Path) -> Path:
    """The same without parts, as older bundles are."""
    parted(folder)
    manifest = load_bundle(folder).manifest
    for name in ("image.onnx", "phrases.onnx"):
        (folder / name).unlink()
    write_manifest(folder, manifest)
    return folder


def bank_of(phrases: int) -> Any:
    return make_bank([{"label": f"class {index}", "phrases": [f"phrase {index}"]} for index in range(phrases)])


@pytest.mark.parametrize("device", ENGINES)
def test_each_image_is_computed_once(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = ENGINES[device], list[tuple[bool, int]]()
    own = engine.run

    def counted(self: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        asked.append(("image" in feeds, feeds["vectors"].shape[1] if "vectors" in feeds else 0))
        return own(self, feeds)

    monkeypatch.setattr(engine, "run", counted)
    image = np.full((8, 12, 3), 200, dtype=np.uint8)
    found: dict[str, list[Detections]] = {}
    for name, make in (("parts", parted), ("whole", whole)):
        folder = make(tmp_path / name)
        for phrases in PHRASES:
            with Detector.load(folder, device, prompts=bank_of(phrases), threshold=0.0, threads=1) as detector:
                asked.clear()
                found.setdefault(name, []).append(detector(image))
                assert sum(count for _, count in asked) == phrases
                assert sum(of_image for of_image, _ in asked) == (1 if name == "parts" else -(-phrases // 16))
    for one, other in zip(found["parts"], found["whole"], strict=True):
        assert len(one) == QUERIES
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
        assert one.masks is not None and one.masks == other.masks


def test_a_changed_part_is_refused(tmp_path: Path) -> None:
    folder = parted(tmp_path / "bundle")
    (folder / "phrases.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match="has changed"):
        Detector.load(folder)


def test_a_second_part_that_does_not_load_closes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parted(tmp_path / "bundle")
    closed: list[str] = []
    opened = OnnxRuntime.open.__func__  # type: ignore[attr-defined]

    def only_the_first(cls: Any, model: Any, threads: int | None = None) -> Any:
        if model.path.name == "phrases.onnx":
            raise MemoryError("no room")
        return opened(cls, model, threads)

    monkeypatch.setattr(OnnxRuntime, "open", classmethod(only_the_first))
    monkeypatch.setattr(OnnxRuntime, "close", lambda self: closed.append(self._model.name))
    with pytest.raises(OutOfMemoryError):
        Detector.load(folder, "ort-cpu", self_test=False)
    assert closed == ["image.onnx"]


@pytest.mark.parametrize(("make", "of_image"), [(parted, True), (whole, None)])
def test_memory_of_phrases_is_not_kept_twice(
    make: Callable[[Path], Path], of_image: bool | None, tmp_path: Path
) -> None:
    with Detector.load(make(tmp_path / "bundle"), "ort-cpu", threads=1, self_test=False) as detector:
        chunks: Any = detector.engine
        plans = [
            engine and engine._session.get_session_options().enable_mem_pattern
            for engine in (chunks._image, chunks._engine)
        ]
    assert plans == [of_image, False]
