"""``medprompt export``: checkpoint and prompts in, bundle out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands.common import AsJson, Checkpoint, Force, PromptsPath, need, print_engines, print_json
from medprompt.errors import InputError


class Resize(StrEnum):
    """Where images are resized."""

    host = "host"
    graph = "graph"


def export(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    out: Annotated[Path, typer.Option(help="Bundle folder to make.")],
    images: Annotated[Path | None, typer.Option(help="Folder of real images to prove parity on.")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH, for families whose size is free (Grounding DINO).")
    ] = None,
    resize: Annotated[Resize, typer.Option(help="Resize on the host (CPU engines) or in the graph.")] = Resize.host,
    nms_iou: Annotated[float | None, typer.Option(help="Non-maximum suppression at run time; off by default.")] = None,
    top_k: Annotated[int, typer.Option(help="Most detections an image.")] = 300,
    threshold: Annotated[float, typer.Option(help="Default score threshold.")] = 0.2,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 20.")] = 20,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint and prompts into a bundle, and prove that it decides as PyTorch does.

    Example: `medprompt export CKPT --prompts prompts.yaml --images val/ --out polyp.bundle`
    """
    need("torch", "Exporting", "export")
    from medprompt.export.bundle import bundle_from_checkpoint
    from medprompt.terminal import Steps

    with Steps("export") as steps:
        report = bundle_from_checkpoint(
            checkpoint,
            prompts,
            out,
            images=images,
            size_hw=_size_hw(image_size),
            resize="graph" if resize is Resize.graph else "host",
            nms_iou=nms_iou,
            top_k=top_k,
            opset=opset,
            threshold=threshold,
            force=force,
            progress=steps,
        )
    if as_json:
        print_json({"bundle": str(report.path), "seconds": report.seconds, **report.manifest.summary()})
        return
    print_engines(report.manifest.engines)
    for warning in report.manifest.warnings:
        print(f"warning: {warning}")
    print(f"{report.path}: {report.manifest.family}, {report.seconds:.0f} s. Next: medprompt infer {report.path} IMAGE")


def _size_hw(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise InputError("--image-size is not a size.", expected="HEIGHTxWIDTH, such as 800x1066", got=text)
    return int(height), int(width)
