"""What is exported is what TensorRT-RTX compiles: every family, fp32 and typed, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx
import pytest

from medprompt.core.errors import EngineError
from medprompt.core.manifest import AxisRange
from medprompt.core.progress import Silent
from medprompt.export.compile.builder import engine_from_onnx
from medprompt.export.compile.options import CompileOptions
from medprompt.export.graph.detection_graph import input_specs
from medprompt.export.precision.cast import typed_model
from medprompt.export.precision.quantise import quantised_model
from tests.export.precision.conftest import TinyModel

pytest.importorskip("tensorrt_rtx")

GPUS = ("sm86", "sm89", "sm120")
AXES = (
    {"B": AxisRange(least=1, typical=1, most=1)}
    | {  # a profile more is a compilation more
        name: AxisRange(least=1, typical=2, most=8) for name in "PC"
    }
    | {name: AxisRange(least=1, typical=8, most=64) for name in "TL"}
)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
def test_every_family_compiles(every: TinyModel, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        every.model
        if kind == "fp32"
        else typed_model(every.model, every.blocks, dict.fromkeys(every.blocks.free, kind)),
        path,
    )
    gpus = GPUS[:1] if kind == "bf16" else GPUS  # a GPU more is a compilation more, of the same graph
    built = engine_from_onnx(path, input_specs(every.made.family), AXES, CompileOptions("trt-rtx", gpu=gpus), Silent())
    assert built.gpus == gpus
    assert len(built.data) > 100_000
    assert built.version


def compile_quantised(tiny: TinyModel, kind: Literal["int8", "fp8"], folder: Path, gpus: tuple[str, ...]) -> None:
    path = folder / "model.onnx"
    quantised = quantised_model(tiny.model, tiny.blocks, tiny.made.path, [tiny.feeds], kind)
    onnx.save(quantised.with_blocks(frozenset(tiny.blocks.free)), path)
    built = engine_from_onnx(path, input_specs(tiny.made.family), AXES, CompileOptions("trt-rtx", gpu=gpus), Silent())
    assert built.gpus == gpus


def test_int8_compiles(owl: TinyModel, tmp_path: Path) -> None:
    compile_quantised(owl, "int8", tmp_path, GPUS)


def test_fp8_compiles_where_the_gpu_has_it(owl: TinyModel, tmp_path: Path) -> None:
    compile_quantised(owl, "fp8", tmp_path, ("sm89", "sm120"))
    with pytest.raises(EngineError, match=r"sm86.*fp8"):
        compile_quantised(owl, "fp8", tmp_path, ("sm86",))


@pytest.mark.slow  # minutes for a Grounding DINO, however tiny: each product is compiled with its Q and DQ
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_every_family_compiles_quantised(every: TinyModel, kind: Literal["int8", "fp8"], tmp_path: Path) -> None:
    compile_quantised(every, kind, tmp_path, ("sm89", "sm120"))


def test_an_unknown_gpu_is_refused_with_those_that_are_known(owl: TinyModel) -> None:
    with pytest.raises(EngineError, match=r"sm86"):
        options = CompileOptions("trt-rtx", gpu=("sm42",))
        engine_from_onnx(owl.made.path, input_specs(owl.made.family), AXES, options, Silent())


def test_a_file_that_is_no_model_is_refused(owl: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(owl.made.path.read_bytes()[:1000])
    with pytest.raises(EngineError):
        engine_from_onnx(path, input_specs(owl.made.family), AXES, CompileOptions("trt-rtx", gpu=GPUS), Silent())
