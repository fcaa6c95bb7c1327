"""``medprompt prompts measure`` and ``calibrate``: what a wording is worth on labelled images, and how to scale it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import DATA_FORMS, AsJson, Checkpoint, Force, need, print_json, refuse_existing, today
from medprompt.core.errors import InputError, PromptError

if TYPE_CHECKING:
    from medprompt.core.progress import Progress
    from medprompt.export.evaluation.evaluator import PromptEvaluator
    from medprompt.export.prompt_tuning.calibrate import Calibrated
    from medprompt.export.prompt_tuning.evaluate import Ensemble, PromptEvalReport, PromptEvalRow

Data = Annotated[str, typer.Option(help=f"Labelled images: {DATA_FORMS}.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps image features between runs.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the model's image, for families whose size is free.")]


def measure(
    checkpoint: Checkpoint,
    prompts: Annotated[list[Path], typer.Option(help="Prompts file (YAML) or bank (safetensors); repeats.")],
    data: Data,
    ensembles: Annotated[str, typer.Option(help="max, mean, embedding, calibrated, by commas; else as written.")] = "",
    each: Annotated[bool, typer.Option("--each", help="Each phrase alone too.")] = False,
    cache: Cache = None,
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """Measure AP by wording, in PyTorch, on image features that are computed once.

    Example: `medprompt prompts measure CKPT --prompts A.yaml --prompts B.yaml --data DATA:val --cache cache`
    """
    _need_all("Measuring prompts")
    from medprompt.core.terminal import Steps
    from medprompt.export.checkpoint import checkpoint_sha256
    from medprompt.export.prompt_tuning.evaluate import evaluate_prompts

    asked = _ensembles(ensembles)
    with Steps("measure") as steps:
        judge = _judge(checkpoint, data, cache, image_size, steps)
        report = evaluate_prompts(
            judge,
            prompts,
            checkpoint_sha256=checkpoint_sha256(checkpoint),
            ensembles=asked,
            each=each,
            progress=steps,
        )
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)


def calibrate(
    checkpoint: Checkpoint,
    prompts: Annotated[Path, typer.Option(help="Prompts file (YAML).")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Prompts file to write (YAML).")],
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="Set phrase weights.")] = True,
    thresholds: Annotated[bool, typer.Option("--thresholds", help="Set class thresholds.")] = False,
    nms_iou: Annotated[float | None, typer.Option(min=0.01, max=1, help="Suppression, as the bundle has it.")] = None,
    cache: Cache = None,
    image_size: ImageSize = None,
    force: Force = False,
) -> None:
    """Bring the phrases of a class to one scale by weights, and choose class thresholds, on training images.

    Example: `medprompt prompts calibrate CKPT --prompts P.yaml --data DATA:train --thresholds --out Q.yaml`
    """
    _need_all("Calibrating prompts")
    from medprompt.core.terminal import Steps
    from medprompt.export.checkpoint import checkpoint_sha256
    from medprompt.export.prompt_tuning.calibrate import CalibrationRules, calibrated_prompts
    from medprompt.prompts.file import prompts_from_yaml, save_prompts

    if not weights and not thresholds:
        raise InputError("There is nothing to calibrate.", got="--no-weights", fix="pass --thresholds")
    refuse_existing(force, out)
    before = prompts_from_yaml(prompts)
    rules = CalibrationRules(weights, thresholds, nms_iou, checkpoint_sha256(checkpoint), short_name(data), today())
    with Steps("calibrate") as steps:
        judge = _judge(checkpoint, data, cache, image_size, steps)
        made = calibrated_prompts(judge, before, rules, steps)
    save_prompts(made.prompts, out)
    _print_calibrated(made, out)


def short_name(data: str) -> str:
    """The last two parts of a data set's name: enough to tell sets apart, and no machine's own path."""
    return "/".join(Path(data).parts[-2:])


def _need_all(feature: str) -> None:
    need("torch", feature, "export")
    need("faster_coco_eval", feature, "bench")


def _judge(checkpoint: Path, data: str, cache: Path | None, side: int | None, steps: Progress) -> PromptEvaluator:
    from medprompt.data import read_detection_set
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.evaluation.evaluator import PromptEvaluator
    from medprompt.export.evaluation.features import FeatureSet

    labelled = read_detection_set(data)
    steps.step("load checkpoint")
    family = family_from_checkpoint(checkpoint, (side, side) if side else None)
    features = FeatureSet(family, labelled, cache)
    features.prepare(steps)
    return PromptEvaluator(features)


def _ensembles(text: str) -> tuple[Ensemble, ...]:
    from medprompt.export.prompt_tuning.evaluate import ENSEMBLES

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ENSEMBLES]
    if unknown:
        raise PromptError(
            "There is no such ensemble.", where="--ensembles", expected=", ".join(ENSEMBLES), got=", ".join(unknown)
        )
    return tuple(name for name in ENSEMBLES if name in names)


def _print_report(report: PromptEvalReport) -> None:
    from medprompt.core.terminal import print_table

    columns = ["wording", "phrases", "combined", "AP", "AP50", *(f"{label} AP / AP50" for label in report.labels)]
    rows = [[*_wording(row), *(_of_label(row, label) for label in report.labels)] for row in report.rows]
    caption = f"{report.images} images, {report.boxes} boxes, checkpoint {report.checkpoint_sha256[:16]}"
    print_table(f"AP by wording on {short_name(report.data)}", columns, rows, caption)


def _wording(row: PromptEvalRow) -> list[str]:
    return [row.phrase or Path(row.source).name, str(row.phrases), row.ensemble, _number(row.ap), _number(row.ap50)]


def _of_label(row: PromptEvalRow, label: str) -> str:
    if label not in row.ap_by_label:
        return "-"
    return f"{_number(row.ap_by_label[label])} / {_number(row.ap50_by_label[label])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_calibrated(made: Calibrated, out: Path) -> None:
    from medprompt.core.terminal import print_table

    weights = {(e.label, p.text): p.weight for e in made.prompts.classes for p in e.phrases}
    if made.phrases:
        rows = [
            (label, text, f"{p.threshold:.3f}", f"{p.f1:.3f}", weights.get((label, text), "left out"))
            for (label, text), p in made.phrases.items()
        ]
        print_table("Phrases", ["class", "phrase", "best threshold", "F1 there", "weight"], rows)
    if made.classes:
        lines = [
            (label, f"{p.threshold:.4f}", f"{p.f1:.3f}", f"{p.precision:.3f}", f"{p.recall:.3f}", p.boxes)
            for label, p in made.classes.items()
        ]
        print_table("Classes", ["class", "threshold", "F1", "precision", "recall", "boxes"], lines)
    for label, text in made.dropped:
        print(f"warning: {text!r} found no {label} and was left out")
    print(out)
