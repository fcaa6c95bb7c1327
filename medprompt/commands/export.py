"""``medprompt export``: checkpoint and prompts in, bundle out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medprompt.commands.common import (
    AsJson,
    Checkpoint,
    Force,
    PromptsPath,
    describe_parity,
    need,
    print_engines,
    print_json,
)
from medprompt.commands.compile import Builder, Gpus, MaxBatch, MaxPhrases, MaxSource, compile_options, size_hw
from medprompt.core.errors import InputError


class Resize(StrEnum):
    """Where images are resized."""

    host = "host"
    graph = "graph"


class Precision(StrEnum):
    """The type of the second, typed model, which engines for GPUs are compiled from."""

    fp32 = "fp32"
    auto = "auto"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    fp8 = "fp8"


def export(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    out: Annotated[Path, typer.Option(help="Bundle folder to make.")],
    images: Annotated[Path | None, typer.Option(help="Folder of real images to prove parity on.")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH, for families whose size is free (Grounding DINO).")
    ] = None,
    resize: Annotated[
        Resize | None,
        typer.Option(help="Resize on the host (CPU engines; default) or in the graph (default with --engine)."),
    ] = None,
    nms_iou: Annotated[float | None, typer.Option(help="Non-maximum suppression at run time; off by default.")] = None,
    top_k: Annotated[int, typer.Option(help="Most detections an image.")] = 300,
    threshold: Annotated[float, typer.Option(help="Default score threshold.")] = 0.2,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 20.")] = 20,
    precision: Annotated[
        Precision,
        typer.Option(help="Add a typed model for GPU engines; auto keeps in fp32 what parity needs, the rest is fp16."),
    ] = Precision.fp32,
    calibration: Annotated[Path | None, typer.Option(help="Folder of images to calibrate int8 or fp8 on.")] = None,
    engine: Annotated[
        Builder | None, typer.Option(help="Compile an engine too: trt, or trt-rtx, which needs no GPU; see `compile`.")
    ] = None,
    gpu: Gpus = "",
    max_batch: MaxBatch = None,
    max_phrases: MaxPhrases = None,
    max_source: MaxSource = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint and prompts into a bundle, and prove that it decides as PyTorch does.

    Example: `medprompt export CKPT --prompts prompts.yaml --images val/ --out polyp.bundle`
    """
    need("torch", "Exporting", "export")
    from medprompt.core.terminal import Steps
    from medprompt.export.bundle import bundle_from_checkpoint

    if engine is None and (gpu or max_batch or max_phrases or max_source):
        raise InputError(
            "--gpu and --max-… are for compiling.", expected="--engine trt or --engine trt-rtx", got="none"
        )
    options = None
    if engine is not None:
        options = compile_options(
            engine, gpu, precision.value, max_batch=max_batch, max_phrases=max_phrases, max_source=max_source
        )
    # Turing (sm75) refuses FP32 products, and the resize in the graph is two of them.
    resize = resize or (Resize.host if engine is None or "sm75" in gpu else Resize.graph)
    with Steps("export") as steps:
        report = bundle_from_checkpoint(
            checkpoint,
            prompts,
            out,
            images=images,
            size_hw=None if image_size is None else size_hw(image_size, "--image-size"),
            resize="graph" if resize is Resize.graph else "host",
            nms_iou=nms_iou,
            top_k=top_k,
            opset=opset,
            threshold=threshold,
            precision=precision.value,
            calibration=calibration,
            engine=options,
            force=force,
            progress=steps,
        )
    if as_json:
        chosen = {} if report.precision is None else {"precision_plan": report.precision.summary()}
        print_json({"bundle": str(report.path), "seconds": report.seconds, **report.manifest.summary(), **chosen})
        return
    print_engines(report.manifest.engines)
    if report.precision is not None:
        print_precision(report.precision)
    for warning in report.manifest.warnings:
        print(f"warning: {warning}")
    print(f"{report.path}: {report.manifest.family}, {report.seconds:.0f} s. Next: medprompt infer {report.path} IMAGE")


def print_precision(report: Any) -> None:
    """Print a precision plan (``medprompt.export.precision.apply.PrecisionReport``) as a table."""
    from medprompt.core.terminal import print_table

    rows = [
        (
            entry.block,
            entry.kind,
            f"{entry.flops_share:.1%}",
            *(("-", "-") if entry.alone is None else (f"{entry.alone.kept:.2%}", f"{entry.alone.max_score_delta:.4f}")),
        )
        for entry in report.plan.blocks
    ]
    caption = f"{report.plan.half_flops_share:.1%} of the matrix work is not fp32; {report.plan.trials} trials"
    records = {"this plan": report.rounded or report.typed, "all half, no islands": report.naive}
    columns = ["block", "type", "matrix work", "kept alone", "max Δscore alone"]
    print_table(f"Precision: {report.model}", columns, rows, caption)
    for name, record in records.items():
        if record is not None:
            print(f"{name}: {describe_parity(record)}")
