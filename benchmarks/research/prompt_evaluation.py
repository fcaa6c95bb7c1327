"""Prompts evaluated on a checkpoint: class names, packs, training phrases and their ensembles, as Markdown.

Run it as ``python -m medprompt.benchmarks.research.prompt_evaluation CHECKPOINT --data-root DATA --work FOLDER``.
Weights are calibrated on the training images; AP is measured on the validation images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from medprompt.benchmarks.research.command import run_command
from medprompt.core.errors import DataError, InputError
from medprompt.core.files import write_json
from medprompt.core.progress import Progress
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import checkpoint_sha256
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.prompt_tuning.calibrate import CalibrationRules, calibrated_prompts, prompts_for_labels
from medprompt.export.prompt_tuning.evaluate import (
    ENSEMBLES,
    Ensemble,
    PromptEvalReport,
    PromptEvalRow,
    evaluate_prompts,
)
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.diff import read_either
from medprompt.prompts.file import pack_prompts, prompts_from_yaml, save_prompts
from medprompt.prompts.schema import Prompts

DEMO = Path(str(files("medprompt") / "demo"))
SETS = (("bccd:train", "bccd:val", "bccd"), ("nuclei/train.json", "nuclei/val.json", "cpm17"))
"""Training set, validation set, pack."""


def evaluate_sets(
    checkpoint: Path, data_root: Path, work: Path, also: Sequence[Path], progress: Progress
) -> list[PromptEvalReport]:
    """One report a validation set; files and features go to ``work``.

    Args:
        checkpoint: The model.
        data_root: Folder of the data sets of ``SETS``.
        work: Calibrated prompts files and kept features.
        also: Further prompts files and banks, measured as they stand where they share a class with a set.
        progress: Hears of the steps.
    """
    family, sha256 = family_from_checkpoint(checkpoint), checkpoint_sha256(checkpoint)
    reports = []
    for train, val, pack in SETS:
        evaluators = [
            _judge(family, read_detection_set(str(data_root / name)), work, progress) for name in (train, val)
        ]
        files = [
            _calibrated(evaluators[0], name, prompts, CalibrationRules(checkpoint=sha256, data=train), work, progress)
            for name, prompts in _several_phrases(pack)
        ]
        rows: list[PromptEvalRow] = []
        comparisons: tuple[tuple[list[Path], tuple[Ensemble, ...]], ...] = (
            ([_class_names(work)], ()),
            (files, ENSEMBLES),
            ([path for path in also if _fits(path, evaluators[1].labelled)], ()),
        )
        for paths, ensembles in comparisons:
            report = evaluate_prompts(
                evaluators[1], paths, checkpoint_sha256=sha256, ensembles=ensembles, progress=progress
            )
            rows.extend(report.rows)
        reports.append(PromptEvalReport(tuple(rows), report.labels, val, report.images, report.boxes, sha256))
    return reports


def _judge(family: Family, labelled: DetectionSet, work: Path, progress: Progress) -> PromptEvaluator:
    features = FeatureSet(family, labelled, work / "features")
    features.prepare(progress)
    return PromptEvaluator(features)


def _several_phrases(pack: str) -> Iterator[tuple[str, Prompts]]:
    yield f"pack {pack}", pack_prompts(pack)
    yield "training phrases", prompts_from_yaml(DEMO / "train-prompts.yaml")


def _class_names(work: Path) -> Path:
    """The first training phrase of each class: what its AP in training was measured with."""
    prompts = prompts_from_yaml(DEMO / "train-prompts.yaml")
    classes = tuple(entry.model_copy(update={"phrases": entry.phrases[:1]}) for entry in prompts.classes)
    path = work / "class name.yaml"
    save_prompts(prompts.model_copy(update={"classes": classes}), path)
    return path


def _calibrated(
    evaluator: PromptEvaluator, name: str, prompts: Prompts, rules: CalibrationRules, work: Path, progress: Progress
) -> Path:
    path = work / rules.data.replace("/", "-").replace(":", "-") / f"{name}.yaml"
    save_prompts(calibrated_prompts(evaluator, prompts, rules, progress).prompts, path)
    return path


def _fits(path: Path, labelled: DetectionSet) -> bool:
    read = read_either(path)
    try:
        prompts_for_labels(read.prompts if isinstance(read, PromptBank) else read, labelled)
    except DataError:
        return False
    return True


def markdown_from_report(report: PromptEvalReport) -> str:
    """A table: one row a prompt set, AP and AP50 overall and by class."""
    head = ["prompts", "phrases", "combined", "AP", "AP50", *(f"{label} AP / AP50" for label in report.labels)]
    lines = [
        f"{report.data}, {report.images} images, {report.boxes} boxes, checkpoint `{report.checkpoint_sha256[:16]}`"
    ]
    lines += ["", _line(head), _line(["---"] * len(head))]
    return "\n".join([*lines, *(_line(_cells(row, report.labels)) for row in report.rows)])


def _cells(row: PromptEvalRow, labels: Sequence[str]) -> list[str]:
    by_label = [
        f"{row.ap_by_label[label]:.4f} / {row.ap50_by_label[label]:.3f}" if label in row.ap_by_label else "–"
        for label in labels
    ]
    whole = [f"{row.ap:.4f}", f"{row.ap50:.3f}"] if row.ap is not None and row.ap50 is not None else ["–", "–"]
    return [Path(row.source).stem, str(row.phrases), row.ensemble, *whole, *by_label]


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _main() -> None:
    from medprompt.core.terminal import Steps

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.prompt_evaluation", description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DEMO / "checkpoint")
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds bccd/ and nuclei/")
    parser.add_argument("--work", type=Path, required=True, help="folder for calibrated files and kept features")
    parser.add_argument("--also", type=Path, action="append", default=[], help="further prompts file or bank; repeats")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    args = parser.parse_args()
    if not args.data_root.is_dir():
        raise InputError("There is no such folder.", where=str(args.data_root), fix="pass --data-root FOLDER")
    args.work.mkdir(parents=True, exist_ok=True)
    with Steps("prompt evaluation") as steps:
        reports = evaluate_sets(args.checkpoint, args.data_root, args.work, args.also, steps)
    print("\n\n".join(map(markdown_from_report, reports)))
    write_json(args.json, [report.as_json() for report in reports])


if __name__ == "__main__":
    run_command(_main)
