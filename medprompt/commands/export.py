"""``medprompt export``, ``export-segmenter`` and ``import``: what is made of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medprompt.commands import common
from medprompt.commands.compile import Builder, Gpus, MaxBatch, MaxPhrases, MaxSource, Tf32, warn_of_max_source
from medprompt.core.errors import InputError
from medprompt.core.terminal import Steps, print_table


def export(
    checkpoint: common.Checkpoint,
    prompts: common.PromptsPath,
    out: Annotated[Path, typer.Option(help="The bundle folder to make.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of real images to prove parity on. Drawn images are a weak check.")
    ] = None,
    image_size: common.ImageSize = None,
    image_processor: Annotated[
        Literal["pil", "torchvision"] | None,
        typer.Option(
            help="The image processor of transformers to reproduce: pil or torchvision. By default the one that "
            "transformers chooses here: torchvision's where torchvision is installed."
        ),
    ] = None,
    padding: Annotated[
        Literal["black", "grey"] | None,
        typer.Option(help="OWLv2 pads images to squares: with black (transformers 5, the default) or grey (4)."),
    ] = None,
    resize: Annotated[
        Literal["host", "graph"] | None,
        typer.Option(hidden=True),  # "graph" is refused, with what does it now
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="IoU threshold of non-maximum suppression at run time. Off by default.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Maximum number of detections in an image; 300 where not given, 32 with masks."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Score threshold of classes that have none of their own.")] = 0.2,
    opset: common.Opset = 20,
    precision: Annotated[
        Literal["fp32", "auto", "auto-bf16", "fp16", "bf16", "int8", "fp8"],
        typer.Option(
            help="Add a second model in this precision. 'auto', for GPU engines, is fp16 except for what parity needs "
            "in fp32; 'auto-bf16' is the same in bfloat16, for CPUs that have it (openvino-mixed). One of fp32, auto, "
            "auto-bf16, fp16, bf16, int8 and fp8."
        ),
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of images to calibrate on. Needed by int8 and fp8.")
    ] = None,
    engine: Annotated[
        Builder | None,
        typer.Option(help="Compile an engine as well: 'trt', or 'trt-rtx', which needs no GPU. See medprompt compile."),
    ] = None,
    gpu: Gpus = None,
    max_batch: MaxBatch = None,
    max_phrases: MaxPhrases = None,
    max_source: MaxSource = None,
    tokenizer: common.Tokenizer = None,
    config: common.Config = None,
    weights: common.Weights = None,
    base: common.Base = None,
    tf32: Tf32 = False,
    intended_use: common.IntendedUse = None,
    about: common.About = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Turn a checkpoint and prompts into a bundle, and prove that it decides as PyTorch does.

    Where the decisions differ, no bundle is made and the exit code is 3.

    Example: `medprompt export CKPT --prompts prompts.yaml --images val/ --out polyp.bundle`

    A checkpoint file of another project: `medprompt export epoch_12.pth --tokenizer bert-base-uncased/ --prompts
    prompts.yaml --out polyp.bundle`; see `medprompt docs checkpoints`.

    With an engine for two GPUs: `medprompt export CKPT --prompts prompts.yaml --out polyp.bundle --precision auto
    --engine trt-rtx --gpu sm86 --gpu sm89`
    """
    given = locals()
    common.need("torch", "Exporting", "export")
    from medprompt.bundles.load import BANK_FILE
    from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
    from medprompt.export.compile.options import CompileOptions
    from medprompt.export.importers.run import ImportOptions
    from medprompt.prompts.bank import load_bank
    from medprompt.prompts.summary import threshold_warnings

    if engine is None and (gpu or max_batch or max_phrases or max_source):
        raise InputError(
            "--gpu and the --max-… options are for compiling.", expected="engine=trt or engine=trt-rtx", got="none"
        )
    source = common.size_hw(max_source, "max_source")
    compiled = None
    if engine is not None:
        compiled = CompileOptions(
            engine, gpu=common.split_list(gpu), max_batch=max_batch, max_phrases=max_phrases, max_source=source
        )
    imported = ImportOptions(tokenizer, config, weights, base)
    made_of = {"image_size": common.size_hw(image_size), "engine": compiled, "imported": imported}
    options: ExportOptions = common.options_of(ExportOptions, given | made_of)
    with Steps("export") as steps:
        report = bundle_from_checkpoint(checkpoint, prompts, out, options, force=force, progress=steps)
    for made in (one.compiled for one in report.manifest.engines if one.compiled):
        warn_of_max_source(max_source, made)
    if as_json:
        chosen = {} if report.precision is None else {"precision_plan": report.precision.summary()}
        common.print_json(
            {"bundle": str(report.path), "seconds": report.seconds, **report.manifest.summary(), **chosen}
        )
        return
    common.print_engines(report.manifest.engines)
    if report.precision is not None:
        print_precision(report.precision)
    for name, record in report.manifest.tf32.items():
        print(f"{name} with TF32 products, simulated: {common.describe_parity(record)}")
    bank = load_bank(report.path / BANK_FILE)
    for warning in (*report.manifest.warnings, *threshold_warnings(bank.prompts, report.manifest)):
        print(f"warning: {warning}")
    print(f"{report.path}: {report.manifest.family}, {report.seconds:.0f} s. Next: medprompt infer {report.path} IMAGE")


SHOWN_ISLANDS = 5
"""The costliest; the report holds all."""


def print_precision(report: Any) -> None:
    """Print a precision plan (``medprompt.export.precision.apply.PrecisionReport``) as a table."""
    rows = [
        (
            entry.block,
            entry.kind,
            f"{entry.flops_share:.1%}",
            *(("-", "-") if entry.alone is None else (f"{entry.alone.kept:.2%}", f"{entry.alone.max_score_delta:.4f}")),
        )
        for entry in report.plan.blocks
    ]
    caption = f"{report.plan.half_flops_share:.1%} of the matrix work is not in fp32; {report.plan.trials} trials"
    records = {"this plan": report.rounded or report.typed, "all half precision": report.naive}
    columns = ["block", "type", "matrix work", "kept isolated", "max Δscore isolated"]
    print_table(f"Precision: {report.model}", columns, rows, caption)
    for name, record in records.items():
        if record is not None:
            print(f"{name}: {common.describe_parity(record)}")
    if report.estimated_ms:
        print("estimated for an RTX A4000: {chosen:.1f} ms an image, {fp32:.1f} in fp32".format(**report.estimated_ms))
    for island in [island for island in report.islands if island.splits][:SHOWN_ISLANDS]:
        what = "an attention" if island.splits == "attention" else "a product with what follows"
        print(f"{island.block}: {', '.join(island.operators[:4])} … in fp32 split {what}: {island.ms:.2f} ms")


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


def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint file of another project, a folder with a PEFT adapter, or OWNER/NAME@COMMIT on the Hub."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make: config, weights and processor.")],
    tokenizer: common.Tokenizer = None,
    config: common.Config = None,
    weights: common.Weights = None,
    base: common.Base = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Turn another project's checkpoint into a folder that every command takes. The file is read, never run.

    Read are IDEA Grounding DINO, Open-GroundingDino, mmdetection's Grounding DINO, MM-Grounding DINO and LLMDet, and
    OmDet-Turbo; see `medprompt docs checkpoints`.

    Example: `medprompt import epoch_12.pth --tokenizer bert-base-uncased/ --out polyp-checkpoint`
    """
    common.need("torch", "Importing", "export")
    from medprompt.export.api import import_checkpoint as imported

    record = imported(checkpoint, out, tokenizer=tokenizer, config=config, weights=weights, base=base, force=force)
    if as_json:
        common.print_json({"checkpoint": str(out), **record.model_dump(mode="json")})
        return
    for warning in record.warnings:
        print(f"warning: {warning}")
    taken = f" ({record.weights})" if record.weights else ""
    print(f"{out}: {record.format}{taken}. Next: medprompt export {out} --prompts prompts.yaml --out NAME.bundle")
