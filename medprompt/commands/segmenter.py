"""``medprompt export-segmenter``: a checkpoint that makes masks of boxes in, a segmenter out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands import common
from medprompt.core.terminal import Steps


def export_segmenter(
    checkpoint: common.Checkpoint,
    out: Annotated[Path, typer.Option(help="The segmenter's folder to make.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of real images to prove the masks on. Drawn images are a weak check.")
    ] = None,
    opset: common.Opset = 20,
    intended_use: common.IntendedUse = None,
    about: common.About = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Turn a checkpoint that makes masks of boxes into a segmenter, and prove that its masks are PyTorch's.

    It serves the boxes of any bundle. Where the masks differ, nothing is made and the exit code is 3.

    Example: `medprompt export-segmenter sam3-tracker/ --images val/ --out sam3-tracker.bundle`

    Then: `medprompt infer polyp.bundle study/ --segment sam3-tracker.bundle --out results.json`
    """
    common.need("torch", "Exporting", "export")
    from medprompt.export.segmenter import export_segmenter as export

    with Steps("export") as steps:
        report = export(
            checkpoint,
            out,
            images=images,
            opset=opset,
            intended_use=intended_use,
            about=about,
            force=force,
            progress=steps,
        )
    if as_json:
        common.print_json({"bundle": str(report.path), "seconds": report.seconds, **report.manifest.summary()})
        return
    common.print_engines(report.manifest.engines)
    common.print_warnings(report.manifest.warnings)
    said = f"{report.path}: {report.manifest.family}, {report.seconds:.0f} s"
    print(f"{said}. Next: medprompt infer BUNDLE IMAGE --segment {report.path}")
