"""``medprompt compile``: an engine for certain GPUs, added to a bundle that exists."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import AsJson, BundlePath, print_json
from medprompt.core.errors import InputError

if TYPE_CHECKING:
    from medprompt.core.manifest import CompiledEngine
    from medprompt.export.compile.engine import CompileOptions


class Builder(StrEnum):
    """The package that compiles."""

    trt = "trt"
    trt_rtx = "trt-rtx"


EngineOption = Annotated[Builder, typer.Option("--engine", help="trt (TensorRT) or trt-rtx (TensorRT for RTX).")]
Gpus = Annotated[
    str, typer.Option("--gpu", help="GPUs to build for, such as sm86,sm89,sm120 (trt-rtx); this machine's by default.")
]
MaxBatch = Annotated[int | None, typer.Option(help="Most images a batch; 8 by default.")]
MaxPhrases = Annotated[int | None, typer.Option(help="Most phrases; 64 or twice the bundle's by default.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most text tokens, for models that read them; 8 a phrase.")]
MaxSource = Annotated[
    str | None, typer.Option(help="Largest source image HEIGHTxWIDTH where the graph resizes; 2160x3840 by default.")
]
Workspace = Annotated[int | None, typer.Option(min=1, help="Most scratch memory of one layer in MiB.")]
TimingCache = Annotated[Path | None, typer.Option(help="File of measured kernels, kept for the next build (trt).")]


def compile_bundle(
    bundle: BundlePath,
    engine: EngineOption,
    gpu: Gpus = "",
    precision: Annotated[
        str, typer.Option(help="fp32, or a precision that the bundle was exported with (auto, fp16, bf16, int8, fp8).")
    ] = "fp32",
    max_batch: MaxBatch = None,
    max_phrases: MaxPhrases = None,
    max_tokens: MaxTokens = None,
    max_source: MaxSource = None,
    workspace: Workspace = None,
    timing_cache: TimingCache = None,
    as_json: AsJson = False,
) -> None:
    """Compile an engine for certain GPUs and add it to a bundle. trt-rtx needs no GPU for it.

    Example: `medprompt compile polyp.bundle --engine trt-rtx --gpu sm86,sm89,sm120`
    """
    options = compile_options(
        engine,
        gpu,
        precision,
        max_batch=max_batch,
        max_phrases=max_phrases,
        max_tokens=max_tokens,
        max_source=max_source,
        workspace=workspace,
        timing_cache=timing_cache,
    )
    from medprompt.core.terminal import Steps
    from medprompt.export.compile.engine import compile_engine

    with Steps("compile") as steps:
        compiled = compile_engine(bundle, options, steps)
    if as_json:
        print_json({"bundle": str(bundle), **compiled.model_dump(mode="json")})
        return
    print(f"{bundle}: {describe_engine(compiled)}")
    print(f"Not run yet. On its GPU: medprompt verify {bundle} --device {engine.value}")


def compile_options(
    engine: Builder,
    gpu: str,
    precision: str,
    *,
    max_batch: int | None = None,
    max_phrases: int | None = None,
    max_tokens: int | None = None,
    max_source: str | None = None,
    workspace: int | None = None,
    timing_cache: Path | None = None,
) -> CompileOptions:
    """The library's options from the command line's.

    Raises:
        InputError: A value out of range.
    """
    from medprompt.export.compile.axes import AxisLimits
    from medprompt.export.compile.builder import BuildOptions
    from medprompt.export.compile.engine import CompileOptions

    source_hw = None if max_source is None else size_hw(max_source, "--max-source")
    limits = AxisLimits(max_batch, max_phrases, max_tokens, source_hw)
    gpus = tuple(name.strip() for name in gpu.split(",") if name.strip())
    return CompileOptions(engine.value, precision, limits, BuildOptions(gpus, workspace, timing_cache))


def size_hw(text: str, option: str) -> tuple[int, int]:
    """Height and width of ``HEIGHTxWIDTH``.

    Raises:
        InputError: Something else.
    """
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise InputError(f"{option} is not a size.", expected="HEIGHTxWIDTH, such as 800x1066", got=text)
    return int(height), int(width)


def describe_engine(compiled: CompiledEngine) -> str:
    """An engine in one line."""
    memory = "" if compiled.activation_bytes is None else f", needs {compiled.activation_bytes / 2**20:.0f} MiB of GPU "
    memory += "memory at its largest sizes, weights not counted" if memory else ""
    return (
        f"{compiled.path} for {', '.join(compiled.gpus)} ({compiled.builder} {compiled.builder_version}, "
        f"{compiled.seconds:.0f} s){memory}"
    )
