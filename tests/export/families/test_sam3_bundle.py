"""A whole bundle of SAM 3: proven in two parts, asked for any number of phrases, compiled as one file and as two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from medprompt.bundles.load import load_bundle, part_names
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.compile.engine import compile_engine
from medprompt.export.compile.options import CompileOptions
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.parity.images import drawn_image
from medprompt.export.parity.reference import reference_detections
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.schema import Prompts
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class

pytestmark = pytest.mark.slow  # a minute and more of tracing
KINDS, THINGS = "red white purple pale round small large dark", "cell nucleus disc polyp spot"


def prompts_of(phrases: int) -> Prompts:
    texts = [f"{kind} {thing}" for kind in KINDS.split() for thing in THINGS.split()][:phrases]
    return Prompts.model_validate({"classes": [{"label": text, "phrases": [text]} for text in texts]})


@pytest.fixture(scope="module")
def family(tiny_checkpoint: Callable[[str], Path]) -> Family:
    return family_from_checkpoint(tiny_checkpoint("sam3"))


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sam3") / "bundle"
    bundle_from_checkpoint(tiny_checkpoint("sam3"), prompts_of(3), out, ExportOptions(precision="fp16"))
    return out


def test_every_model_lies_in_two_parts(bundle: Path) -> None:
    manifest = load_bundle(bundle).manifest
    for model in ("model.onnx", "model-fp16.onnx"):
        assert {model, *part_names(model)} <= set(manifest.files)
    assert {one.device for one in manifest.engines if one.parity and one.parity.passed} >= {"ort-cpu", "openvino"}


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
@pytest.mark.parametrize("phrases", [1, 5, 40])
def test_decisions_are_transformers_and_the_image_is_computed_once(
    bundle: Path, family: Family, device: str, phrases: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, images = engine_class(device), list[bool]()
    own = engine.run

    def counted(self: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        images.append("image" in feeds)
        return own(self, feeds)

    monkeypatch.setattr(engine, "run", counted)
    image, prompts = drawn_image((50, 80), 3), prompts_of(phrases)
    bank = bank_from_prompts(family, prompts)
    with Detector.load(bundle, device, prompts=bank, threshold=0.0, threads=1) as detector:
        images.clear()
        found, post = detector(image), detector.manifest.postprocess
    assert (sum(images), len(images)) == (1, 1 + -(-phrases // 16))
    wanted = reference_detections(family, image, prompts, post)
    record = check_decisions([(wanted, found)], 0.0, family.tolerances["fp32"], device, post.top_k)
    assert record.passed
    assert record.min_mask_iou is not None and record.min_mask_iou >= 0.98


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_compiles_as_one_file_and_as_two(bundle: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'medprompt[trt-rtx]'")
    for phrases, files in ((16, 1), (40, 2)):
        compiled = compile_engine(bundle, CompileOptions("trt-rtx", precision, ("sm86",), max_phrases=phrases))
        assert len(compiled.files) == files
        assert set(compiled.files) <= set(load_bundle(bundle).manifest.files)
