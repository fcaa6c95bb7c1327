"""``medprompt compile``: an engine for certain GPUs, added to a bundle that exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medprompt.commands import common
from medprompt.core.terminal import Steps

if TYPE_CHECKING:
    from medprompt.core.manifest import CompiledEngine


Builder = Literal["trt", "trt-rtx"]
EngineOption = Annotated[
    Builder, typer.Option("--engine", help="The builder: 'trt' (TensorRT) or 'trt-rtx' (TensorRT for RTX).")
]
Gpus = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu",
        help="GPU to compile for, such as sm86; repeat for several. Only trt-rtx compiles for GPUs that are not in "
        "this machine. This machine's GPU by default.",
        show_default=False,
    ),
]
MaxBatch = Annotated[
    int | None,
    typer.Option(
        "--max-batch", help="Maximum batch size. 1 by default; more take a second profile, with memory of its own."
    ),
]
MaxPhrases = Annotated[
    int | None,
    typer.Option("--max-phrases", help="Maximum number of phrases. 64, or twice the bundle's own, by default."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Maximum number of text tokens, for models that read tokens. 8 for each phrase."),
]
MaxSource = Annotated[
    str | None,
    typer.Option(
        "--max-source",
        metavar="HxW",
        help="Maximum height and width of a source image, for older bundles whose graph resizes (2160x3840 by "
        "default). Other engines take sources of every size, and it has no effect.",
    ),
]
Workspace = Annotated[
    int | None, typer.Option("--workspace", min=1, help="Maximum scratch memory of one layer in MiB.")
]
TimingCache = Annotated[
    Path | None,
    typer.Option("--timing-cache", help="File that keeps measured kernel times, so that the next build is quicker."),
]
Tf32 = Annotated[
    bool,
    typer.Option(
        "--tf32",
        help="Let fp32 products round their operands to TF32, which is faster. Export proves that decisions hold, and "
        "compiling wants that proof.",
    ),
]


def compile_bundle(
    bundle: common.BundlePath,
    engine: EngineOption,
    gpu: Gpus = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="'fp32', or a precision that the bundle was exported with (auto, fp16, bf16, int8 or fp8). By default "
            "'auto' where the bundle has it.",
            show_default=False,
        ),
    ] = None,
    max_batch: MaxBatch = None,
    max_phrases: MaxPhrases = None,
    max_tokens: MaxTokens = None,
    max_source: MaxSource = None,
    workspace: Workspace = None,
    timing_cache: TimingCache = None,
    tf32: Tf32 = False,
    as_json: common.AsJson = False,
) -> None:
    """Compile an engine for certain GPUs and add it to a bundle.

    TensorRT for RTX compiles on machines without a GPU.

    Example: `medprompt compile polyp.bundle --engine trt-rtx --gpu sm86 --gpu sm89`
    """
    given = locals()
    from medprompt.export.compile.engine import compile_engine
    from medprompt.export.compile.options import CompileOptions

    read = {"gpu": common.split_list(gpu), "max_source": common.size_hw(max_source, "max_source")}
    options: CompileOptions = common.options_of(CompileOptions, given | read)
    with Steps("compile") as steps:
        compiled = compile_engine(bundle, options, steps)
    warn_of_max_source(max_source, compiled)
    if as_json:
        common.print_json({"bundle": str(bundle), **compiled.model_dump(mode="json")})
        return
    print(f"{bundle}: {describe_engine(compiled)}")
    print(f"It has not run yet. On its GPU, run: medprompt verify {bundle} --device {engine}")


def warn_of_max_source(max_source: str | None, compiled: CompiledEngine) -> None:
    """Say so where the option was given for nothing."""
    if max_source and not {"H", "W"} & set(compiled.axes):
        common.print_warnings([f"--max-source {max_source} has no effect: this engine takes sources of every size"])


def describe_engine(compiled: CompiledEngine) -> str:
    """An engine in one line."""
    sizes = [(one.batch.most, one.activation_bytes) for one in compiled.profiles if one.activation_bytes is not None]
    stated = [f"{size / 2**20:.0f} MiB for {_images(most)}" for most, size in sizes]
    memory = f", needs GPU memory of {' or '.join(stated)} besides its weights" if stated else ""
    gpus = ", ".join(compiled.gpu_names or compiled.gpus)
    return (
        f"{compiled.path} for {gpus} ({compiled.builder} {compiled.builder_version}, {compiled.seconds:.0f} s){memory}"
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"up to {count} images"
