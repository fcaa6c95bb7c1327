"""``medprompt prompts eval`` and ``calibrate``: what prompts are worth on labelled images, and how to scale them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError, PromptError
from medprompt.core.terminal import Steps, print_table

if TYPE_CHECKING:
    from medprompt.export.prompt_tuning.calibrate import Calibrated
    from medprompt.export.prompt_tuning.evaluate import Ensemble, PromptEvalReport, PromptEvalRow


def evaluate(
    checkpoint: common.Checkpoint,
    prompts: Annotated[list[Path], typer.Option(help=f"{common.EITHER} Repeat for several.")],
    data: common.OneData,
    ensembles: Annotated[
        list[str] | None,
        typer.Option(
            help="How to combine the phrases of a class: max, mean, embedding or calibrated. Repeat for several. As "
            "the prompts file says by default.",
            show_default=False,
        ),
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Also evaluate each phrase on its own.")] = False,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    cache: common.Cache = None,
    image_size: common.ImageSize = None,
    as_json: common.AsJson = False,
) -> None:
    """Measure the average precision (AP) of prompts with PyTorch; image features are computed once.

    Example: `medprompt prompts eval CKPT --prompts A.yaml --prompts B.yaml --data val.json`
    """
    common.need("torch", "Evaluating prompts", "export")
    from medprompt.export.checkpoint_files import checkpoint_sha256
    from medprompt.export.evaluation.evaluator import evaluator_of_checkpoint
    from medprompt.export.prompt_tuning.evaluate import evaluate_prompts

    requested = _ensembles(ensembles)
    (labelled,) = common.labelled_sets([data], images, allow)
    with Steps("eval") as steps:
        evaluator = evaluator_of_checkpoint(checkpoint, labelled, cache, common.size_hw(image_size), steps)
        report = evaluate_prompts(
            evaluator,
            prompts,
            checkpoint_sha256=checkpoint_sha256(checkpoint),
            ensembles=requested,
            each=each,
            progress=steps,
        )
    common.print_warnings(report.left_out)
    if as_json:
        common.print_json(report.as_json())
    else:
        _print_report(report)


def calibrate(
    checkpoint: common.Checkpoint,
    prompts: common.PromptsPath,
    data: common.OneData,
    out: common.OutPrompts,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="Set a weight for each phrase.")] = True,
    thresholds: Annotated[bool, typer.Option("--thresholds", help="Set a score threshold for each class.")] = False,
    nms_iou: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="IoU threshold of non-maximum suppression, as the bundle has it."),
    ] = None,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    cache: common.Cache = None,
    image_size: common.ImageSize = None,
    force: common.Force = False,
) -> None:
    """Set phrase weights that bring the phrases of a class to one scale, and class thresholds.

    Use training images, not test images.

    Example: `medprompt prompts calibrate CKPT --prompts P.yaml --data train.json --thresholds --out Q.yaml`
    """
    common.need("torch", "Calibrating prompts", "export")
    from medprompt.export.checkpoint_files import checkpoint_sha256
    from medprompt.export.evaluation.evaluator import evaluator_of_checkpoint
    from medprompt.export.prompt_tuning.calibrate import CalibrationRules, calibrated_prompts
    from medprompt.prompts.file import PROMPTS_FILE, prompts_from_yaml, save_prompts

    if not weights and not thresholds:
        raise InputError(
            "There is nothing to calibrate.", where="weights", got="--no-weights", fix="pass thresholds=True"
        )
    common.reserve({"out": (out, PROMPTS_FILE)}, [checkpoint, prompts], common.data_paths(data), force=force)
    before = prompts_from_yaml(prompts)
    rules = CalibrationRules(
        weights, thresholds, nms_iou, checkpoint_sha256(checkpoint), short_name(data), common.today()
    )
    (labelled,) = common.labelled_sets([data], images, allow)
    with Steps("calibrate") as steps:
        evaluator = evaluator_of_checkpoint(checkpoint, labelled, cache, common.size_hw(image_size), steps)
        made = calibrated_prompts(evaluator, before, rules, steps)
    save_prompts(made.prompts, out)
    _print_calibrated(made, out)


def short_name(data: str) -> str:
    """The last two parts of a data set's name: enough to tell sets apart, and no machine's own path."""
    return "/".join(Path(data).parts[-2:])


def _ensembles(values: list[str] | None) -> tuple[Ensemble, ...]:
    from medprompt.export.prompt_tuning.evaluate import ENSEMBLES

    names = common.split_list(values)
    unknown = [name for name in names if name not in ENSEMBLES]
    if unknown:
        raise PromptError(
            "There is no such ensemble.", where="ensembles", expected=", ".join(ENSEMBLES), got=", ".join(unknown)
        )
    return tuple(name for name in ENSEMBLES if name in names)


def _print_report(report: PromptEvalReport) -> None:
    columns = ["prompts", "phrases", "combined", "AP", "AP50", *(f"{label} AP / AP50" for label in report.labels)]
    rows = [_cells(row, report.labels) for row in report.rows]
    caption = f"{report.images} images, {report.boxes} boxes, checkpoint {report.checkpoint_sha256[:16]}"
    print_table(f"AP of prompts on {short_name(report.data)}", columns, rows, caption)


def _cells(row: PromptEvalRow, labels: Iterable[str]) -> list[object]:
    pairs = {label: f"{_number(ap)} / {_number(row.ap50_by_label[label])}" for label, ap in row.ap_by_label.items()}
    figures = [_number(row.ap), _number(row.ap50), *(pairs.get(label, "-") for label in labels)]
    return [row.phrase or Path(row.source).name, row.phrases, row.ensemble, *figures]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_calibrated(made: Calibrated, out: Path) -> None:
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
    common.print_warnings(f"{text!r} found no {label} and was left out" for label, text in made.dropped)
    unfound = [label for label, point in made.classes.items() if not point.f1]
    common.print_warnings(f"no {label} was found: its threshold stays as it was" for label in unfound)
    print(out)
