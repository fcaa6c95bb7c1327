"""The command line: parse, call one library function, print. Logs and progress go to stderr, results to stdout.

Exit codes: 0 ok, 1 failed check or a bad item of a batch, 2 bad usage or input, 3 parity failed, 4 no verdict.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from medprompt.errors import InputError, MedpromptError, missing_extra

if TYPE_CHECKING:
    from medprompt.manifest import ParityRecord
    from medprompt.prompts.bank import PromptBank

app = typer.Typer(
    name="medprompt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a fine-tuned open-vocabulary detector to fast, proven, torch-free detection.",
)
prompts_app = typer.Typer(no_args_is_help=True, help="Write, embed and look at prompts.")
app.add_typer(prompts_app, name="prompts")


class Resize(StrEnum):
    """Where images are resized."""

    host = "host"
    graph = "graph"


Checkpoint = Annotated[Path, typer.Argument(help="Hugging Face folder: config.json, model.safetensors, processor.")]
BundlePath = Annotated[Path, typer.Argument(help="Bundle folder made by `medprompt export`.")]
PromptsPath = Annotated[Path, typer.Option("--prompts", help="Prompts file (YAML).")]
Device = Annotated[str, typer.Option(help="auto, ort-cpu, openvino or openvino-bf16.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the engine; all cores by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]


def main() -> NoReturn:
    """Run the command line and exit with the error's own code."""
    try:
        app(standalone_mode=True)
    except MedpromptError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


@app.command()
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
    _need("torch", "Exporting", "export")
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
        _print_json({"bundle": str(report.path), "seconds": report.seconds, **report.manifest.summary()})
        return
    _print_engines(report.manifest.engines)
    for warning in report.manifest.warnings:
        print(f"warning: {warning}")
    print(f"{report.path}: {report.manifest.family}, {report.seconds:.0f} s. Next: medprompt infer {report.path} IMAGE")


@app.command()
def infer(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    out: Annotated[Path | None, typer.Option(help="Write results.json here.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Folder for pictures with boxes drawn in.")] = None,
    coco: Annotated[Path | None, typer.Option(help="Write a COCO results file here.")] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Prompt bank to use instead of the bundle's; several are merged."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Comma-separated classes to look for.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Overrides every class's threshold.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse any step down from the fastest engine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Detect in images, without torch. A file that cannot be read is reported and fails the run (exit 1).

    Example: `medprompt infer polyp.bundle frames/ --out results.json --overlays pictures/`
    """
    from medprompt.images import find_images
    from medprompt.results import write_coco, write_results
    from medprompt.runtime import Detector
    from medprompt.runtime.batch import infer_images
    from medprompt.terminal import Steps

    paths = find_images(images)
    wanted = labels.split(",") if labels else None
    with (
        Detector.load(
            bundle,
            device=device,
            bank=_merged_bank(prompts or []),
            labels=wanted,
            threshold=threshold,
            threads=threads,
            strict=strict,
            images=len(paths),
        ) as detector,
        Steps("infer") as steps,
    ):
        run = infer_images(detector, paths, overlays=overlays, progress=steps)
    if run.failed and len(run.items) == 1:
        raise InputError("The image was not analysed.", where=str(paths[0]), got=run.items[0].error)
    if out:
        write_results(run, out)
    if coco:
        write_coco(run, coco)
    if as_json:
        _print_json(run.as_json())
    else:
        _print_run(run)
    if run.failed:
        raise MedpromptError(
            f"{len(run.failed)} of {len(run.items)} files were not read, so nothing is known about them.",
            where=", ".join(str(item.path) for item in run.failed[:5]),
            fix="see the status of each item in the results",
        )


@app.command()
def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds: family, classes and phrases, graph, engines, parity. Hashes are verified first."""
    from medprompt.bundle import bundle_hash, load_bundle

    loaded = load_bundle(bundle)
    if as_json:
        prompts = loaded.bank.prompts.model_dump(mode="json", exclude_none=True)
        _print_json({"bundle_sha256": bundle_hash(bundle), "prompts": prompts, **loaded.manifest.summary()})
        return
    manifest = loaded.manifest
    print(f"{bundle}  {manifest.family} ({manifest.architecture}), checkpoint {manifest.checkpoint_sha256[:16]}")
    print(f"bundle sha256 {bundle_hash(bundle)}, schema {manifest.schema_version}, opset {manifest.opset}")
    preprocess = manifest.preprocess
    print(f"image {preprocess.size_hw}, {preprocess.resample}, resized in the {preprocess.placement}")
    _print_prompts(loaded.bank)
    _print_engines(manifest.engines)
    for warning in manifest.warnings:
        print(f"warning: {warning}")
    print(manifest.intended_use)


@app.command()
def verify(bundle: BundlePath, device: Device = "auto", threads: Threads = None, as_json: AsJson = False) -> None:
    """Check every hash, then run the golden images on this machine against PyTorch's stored decisions.

    Example: `medprompt verify polyp.bundle --device openvino`
    """
    from medprompt.errors import ParityError
    from medprompt.runtime.verify import verify_bundle

    record = verify_bundle(bundle, device=device, threads=threads)
    if as_json:
        _print_json(record.model_dump(mode="json"))
    else:
        print(f"hashes ok; {_parity_sentence(record)}")
    if not record.passed:
        raise ParityError(
            "This machine's engine decides otherwise than PyTorch did at export.",
            where=device,
            expected=f"{record.tolerance.min_kept:.1%} of decisions kept",
            got=_parity_sentence(record),
            fix="try another --device, or export again",
        )


@prompts_app.command("embed")
def prompts_embed(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    out: Annotated[Path, typer.Option(help="Bank to write (safetensors).")],
    force: Force = False,
) -> None:
    """Compute each phrase's tensors once, offline: a bank that drops into any bundle of the same checkpoint.

    Example: `medprompt prompts embed CKPT --prompts more.yaml --out more.safetensors`
    """
    _need("torch", "Embedding prompts", "export")
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.embed import bank_from_prompts
    from medprompt.prompts.bank import save_bank
    from medprompt.prompts.file import prompts_from_yaml

    if out.exists() and not force:
        raise InputError("The output exists already.", where=str(out), fix="choose another --out, or pass --force")
    read = prompts_from_yaml(prompts)
    bank = bank_from_prompts(family_from_checkpoint(checkpoint), read)
    save_bank(bank, out)
    print(f"{out}: {len(read.texts)} phrases, {len(bank.labels)} classes, encoder {bank.encoder}")


@prompts_app.command("show")
def prompts_show(
    bank: Annotated[Path, typer.Argument(help="Prompt bank (safetensors).")], as_json: AsJson = False
) -> None:
    """Show a bank's classes, phrases, weights and encoder."""
    from medprompt.prompts.bank import load_bank

    loaded = load_bank(bank)
    if as_json:
        prompts = loaded.prompts.model_dump(mode="json", exclude_none=True)
        _print_json({"encoder": loaded.encoder, "sha256": loaded.content_hash(), "prompts": prompts})
    else:
        _print_prompts(loaded)


@app.command()
def finetune(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    recipe: Annotated[Path, typer.Option(help="Recipe file (YAML): data, steps, rates, seed.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to make.")],
    data_root: Annotated[Path, typer.Option(help="Folder that the recipe's data paths start from.")] = Path(),
    from_config: Annotated[
        bool, typer.Option("--from-config", help="Start from config.json with random weights.")
    ] = False,
) -> None:
    """Train any family on COCO or VOC data, drawing one phrase a class each step. Run it again to go on after a kill.

    Example: `medprompt finetune CKPT --prompts P.yaml --recipe recipe.yaml --out CKPT2`
    """
    _need("torch", "Fine-tuning", "export")
    from medprompt.export.finetune.recipe import recipe_from_yaml
    from medprompt.export.finetune.trainer import finetune as train
    from medprompt.prompts.file import prompts_from_yaml

    result = train(
        checkpoint,
        prompts_from_yaml(prompts),
        recipe_from_yaml(recipe),
        out,
        data_root=data_root,
        random_weights=from_config,
        report=_training_reporter(),
    )
    rows = [(name, f"{value:.3f}") for name, value in result.measured.items()]
    from medprompt.terminal import print_table

    print_table(f"{result.checkpoint} on validation data", ["figure", "value"], rows)


@app.command()
def nano(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts whose words become whole tokens.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    force: Force = False,
) -> None:
    """Write an untrained OWL-ViT, small enough to train on two cores: the demo checkpoint's start."""
    _need("torch", "Making a checkpoint", "export")
    from medprompt.export.finetune.nano import nano_checkpoint
    from medprompt.prompts.file import prompts_from_yaml

    words = prompts_from_yaml(prompts).texts if prompts else ()
    print(nano_checkpoint(out, words, seed, force=force))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the bundle, pictures and results.")] = Path("demo-out"),
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export the shipped checkpoint, detect on shipped images, compare with PyTorch. A few minutes."""
    _need("torch", "The demo", "demo")
    _need("onnxruntime", "The demo", "demo")
    from medprompt.benchmarks.demo import run_demo
    from medprompt.terminal import Steps, print_table

    with Steps("demo") as steps:
        report = run_demo(out, progress=steps, force=force)
    if as_json:
        _print_json(report.as_json())
        return
    for table in report.tables():
        print_table(table.title, table.columns, table.rows, table.caption)
    print(f"pictures: {report.pictures}")


def _need(module: str, feature: str, extra: str) -> None:
    """Refuse early where a package is absent, naming the extra."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise missing_extra(feature, module, extra)


def _size_hw(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise InputError("--image-size is not a size.", expected="HEIGHTxWIDTH, such as 800x1066", got=text)
    return int(height), int(width)


def _merged_bank(paths: list[Path]) -> PromptBank | None:
    from functools import reduce

    from medprompt.prompts.bank import PromptBank, load_bank

    return reduce(PromptBank.merge, map(load_bank, paths)) if paths else None


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_prompts(bank: PromptBank) -> None:
    from medprompt.terminal import print_table

    rows = [
        (
            entry.label,
            phrase.text,
            f"{phrase.weight:g}",
            "default" if entry.threshold is None else entry.threshold,
        )
        for entry in bank.prompts.classes
        for phrase in entry.phrases
    ]
    caption = f"pooling {bank.prompts.pooling}, encoder {bank.encoder}, bank sha256 {bank.content_hash()[:16]}"
    print_table("Prompts", ["class", "phrase", "weight", "threshold"], rows, caption)


def _parity_sentence(parity: ParityRecord) -> str:
    return (
        f"{parity.kept:.2%} of {parity.decisions} decisions kept on {parity.images} images "
        f"({parity.image_source}), "
        f"largest score difference {parity.max_score_delta:.4f}"
    )


def _print_engines(engines: Any) -> None:
    from medprompt.terminal import print_table

    rows = [
        (
            record.device,
            record.precision,
            "-" if record.latency_ms is None else f"{record.latency_ms:.1f}",
            "-" if record.parity is None else f"{record.parity.kept:.2%} of {record.parity.decisions}",
            "-" if record.parity is None else f"{record.parity.max_score_delta:.4f}",
            record.reason or ("passed" if record.parity and record.parity.passed else "FAILED"),
        )
        for record in engines
    ]
    print_table("Engines, as measured at export", ["device", "precision", "ms", "kept", "max Δscore", "parity"], rows)


def _print_run(run: Any) -> None:
    from medprompt.terminal import print_table

    rows = [
        (item.path.name, item.status, item.error.splitlines()[0] if item.error else item.counts()) for item in run.items
    ]
    print_table("Detections", ["image", "status", "found"], rows, f"engine {run.engine}: {run.engine_reason}")


def _training_reporter() -> Callable[[dict[str, Any]], None]:
    """Print a line a report, with the time left as the steps so far foretell it."""
    import time

    began, first = time.perf_counter(), [0]

    def report(row: dict[str, Any]) -> None:
        first[0] = first[0] or row["step"]
        spent = time.perf_counter() - began
        done = max(1, row["step"] - first[0])
        left = spent / done * (row["steps"] - row["step"]) / 60 if row["step"] > first[0] else float("nan")
        figures = "  ".join(
            f"{key} {value:.4g}" for key, value in row.items() if key not in ("step", "steps") and value is not None
        )
        print(
            f"step {row['step']}/{row['steps']}  {figures}  ({spent / 60:.1f} min, {left:.0f} min left)",
            flush=True,
        )

    return report
