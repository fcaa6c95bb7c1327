"""Every family with trained weights: made small, trained, exported, and measured in every precision on two engines.

Run it as ``python -m medprompt.benchmarks.research.trained_families --data-root DATA --out FOLDER``; again after a
kill, and it goes on. Random heads saturate, and agreement on them proves little; these find cells, weakly.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from medprompt.benchmarks.accuracy.predictions import own_labels, short_name
from medprompt.benchmarks.demo import DEMO
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.precision import compare_precisions
from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.files import write_json
from medprompt.core.manifest import Tolerance
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.finetune.recipe import Recipe, recipe_from_yaml
from medprompt.export.finetune.small_models.nanos import Kind, nano
from medprompt.export.finetune.trainer import finetune
from medprompt.export.precision.choose import Precision
from medprompt.images.read import load_image
from medprompt.metrics.agreement import check_decisions
from medprompt.metrics.coco import measure_accuracy
from medprompt.prompts.file import prompts_from_yaml
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class
from medprompt.runtime.selection.order import EngineChoice

RECIPE = Path(__file__).parent / "small_recipe.yaml"
ENGINES = (("openvino", "fp32"), ("openvino-bf16", "bf16"))
"""Beside ONNX Runtime, on which the precisions are measured."""

COLUMNS = ("family", "data", "model", "AP", "AP50", "ΔAP", "decisions", "kept", "max Δscore", "holds")


@dataclass(frozen=True)
class FamilyRow:
    """One family in one precision on one engine and data set; deltas and decisions are against fp32 on ONNX Runtime."""

    family: str
    data: str
    model: str
    ap: float
    ap50: float
    delta_ap: float
    decisions: int
    kept: float
    max_score_delta: float
    passed: bool

    def row(self) -> tuple[str, ...]:
        """For tables, see ``COLUMNS``."""
        return (
            *(self.family, short_name(self.data), self.model, f"{self.ap:.4f}", f"{self.ap50:.4f}"),
            *(f"{self.delta_ap:+.4f}", str(self.decisions), f"{self.kept:.2%}", f"{self.max_score_delta:.4f}"),
            "yes" if self.passed else "no",
        )


def run_family(
    kind: Kind,
    data_root: Path,
    out: Path,
    recipe: Recipe,
    *,
    progress: Progress | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[FamilyRow]:
    """Make, train, export and measure one family; what is there already is taken as it is.

    Args:
        kind: ``model_type`` of its config.
        data_root: Folder that the recipe's data paths start from.
        out: Folder of all families.
        recipe: How it is trained.
        progress: Told about the steps of export and measurement.
        report: Notified of each training row.
    """
    progress = progress or Silent()
    prompts = prompts_from_yaml(DEMO / "train-prompts.yaml")
    start, checkpoint, bundle = (out / f"{kind}-{part}" for part in ("start", "trained", "bundle"))
    if not checkpoint.is_dir():
        if not start.is_dir():
            nano(kind, start, prompts.texts, recipe.seed)
        finetune(start, prompts, recipe, checkpoint, data_root=data_root, report=report)
    if not bundle.is_dir():
        bundle_from_checkpoint(checkpoint, DEMO / "prompts.yaml", bundle, ExportOptions(images=DEMO / "images"))
    validation = [read_detection_set(str(data_root / entry.val)) for entry in recipe.data if entry.val]
    choose = [read_detection_set(str(data_root / entry.train)) for entry in recipe.data]
    precisions: tuple[Precision, ...] = ("fp16", "auto", "bf16")
    measured = compare_precisions(bundle, checkpoint, validation, choose, precisions=precisions, progress=progress)
    rows = [
        FamilyRow(
            *(kind, one.data, f"{one.variant.name}, ONNX Runtime", one.accuracy.ap, one.accuracy.ap50, one.delta_ap),
            *(one.parity.decisions, one.parity.kept, one.parity.max_score_delta, one.parity.passed),
        )
        for one in measured
    ]
    tolerances = family_from_checkpoint(checkpoint).tolerances
    for labelled in validation:
        rows.extend(_on_engines(kind, bundle, labelled, tolerances, progress))
    return rows


def _on_engines(
    kind: str, folder: Path, labelled: DetectionSet, tolerances: Any, progress: Progress
) -> Sequence[FamilyRow]:
    bundle = load_bundle(folder)
    labels = own_labels(bundle.bank, labelled)
    progress.step(f"engines on {short_name(labelled.name)}", 1 + len(ENGINES))
    exact = _answers(folder, "ort-cpu", labels, labelled)
    ap = measure_accuracy(labelled, exact).ap
    progress.advance()
    rows = []
    for device, precision in ENGINES:
        found = _answers(folder, device, labels, labelled)
        accuracy = measure_accuracy(labelled, found)
        tolerance: Tolerance = tolerances[precision]
        threshold = bundle.manifest.default_threshold
        pairs = list(zip(exact, found, strict=True))
        parity = check_decisions(pairs, threshold, tolerance, labelled.name, bundle.manifest.postprocess.top_k)
        rows.append(
            FamilyRow(
                *(kind, labelled.name, f"{precision}, OpenVINO", accuracy.ap, accuracy.ap50, accuracy.ap - ap),
                *(parity.decisions, parity.kept, parity.max_score_delta, parity.passed),
            )
        )
        progress.advance()
    return rows


def _answers(folder: Path, device: str, labels: Sequence[str], labelled: DetectionSet) -> list[Detections]:
    # An engine that failed its parity at export is measured all the same: that it fails is a row of the table.
    bundle = load_bundle(folder)
    engine = engine_class(device).open(bundle.model)
    with Detector(bundle, engine, bundle.bank.subset(labels), EngineChoice(device, "asked for"), 0.0) as detector:
        return [detector(load_image(image.path)) for image in labelled.images]


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table, training_reporter

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.trained_families", description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of all families")
    parser.add_argument("--families", default=",".join(get_args(Kind)))
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--json", type=Path, help="write everything measured here")
    args = parser.parse_args()
    recipe = recipe_from_yaml(args.recipe)
    rows: list[FamilyRow] = []
    for kind in args.families.split(","):
        with Steps(kind) as steps:
            rows += run_family(kind, args.data_root, args.out, recipe, progress=steps, report=training_reporter())
        print_table(f"Trained {kind}", COLUMNS, [row.row() for row in rows if row.family == kind])
        write_json(args.json, {"rows": [asdict(row) for row in rows], "machine": describe_machine()})


if __name__ == "__main__":
    run_command(_main)
