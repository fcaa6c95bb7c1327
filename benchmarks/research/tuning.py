"""What embedding tuning brings: one checkpoint, several numbers of shots and seeds, measured on other images.

Run it as ``python -m medprompt.benchmarks.research.tuning CHECKPOINT --prompts P.yaml --data FOLDER:train --report
FOLDER:val``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.files import write_json
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import checkpoint_sha256
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.prompt_tuning.tune import TuneOptions
from medprompt.export.prompt_tuning.tune_report import Comparison, TuningReport, tune_prompts
from medprompt.export.shots import with_classes
from medprompt.images.read import load_image
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import prompts_from_yaml
from medprompt.runtime.detector import Detector

COLUMNS = (
    "shots",
    "seed",
    "images",
    "seconds",
    "AP start",
    "AP tuned",
    "AP bundle",
    "AP50 start",
    "AP50 tuned",
    "kept",
)


@dataclass(frozen=True)
class TuningRun:
    """One draw, tuned and measured.

    Attributes:
        shots: Images a class; None for all.
        seed: Of the draw and of the order.
        made: The run.
        report: Start and tuned bank on the report's images.
        bundle: The tuned bank on the same images through a finished bundle, where one was given.
    """

    shots: int | None
    seed: int
    made: TuningReport
    report: Comparison
    bundle: Accuracy | None

    def row(self) -> tuple[str, ...]:
        """For tables, see ``COLUMNS``."""
        images = f"{len(self.made.tuned_on)} + {len(self.made.held_back)}"
        start, tuned = self.report.start, self.report.tuned
        return (
            "all" if self.shots is None else str(self.shots),
            str(self.seed),
            images,
            f"{sum(self.made.seconds.values()):.1f}",
            f"{start.ap:.4f}",
            f"{tuned.ap:.4f}",
            "-" if self.bundle is None else f"{self.bundle.ap:.4f}",
            f"{start.ap50:.4f}",
            f"{tuned.ap50:.4f}",
            f"step {self.made.tuned.step}" if self.made.tuned.improved else "the start",
        )

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        bundle = None if self.bundle is None else {"ap": self.bundle.ap, "ap50": self.bundle.ap50}
        return {"shots": self.shots or "all", "seed": self.seed, "bundle": bundle, **self.made.as_json()}


def tuning_runs(
    family: Family,
    start: PromptBank,
    data: DetectionSet,
    report: DetectionSet,
    shots: Sequence[int | None],
    seeds: Sequence[int],
    *,
    options: TuneOptions,
    cache: Path | None = None,
    bundle: Bundle | None = None,
    progress: Progress | None = None,
) -> Iterator[TuningRun]:
    """Yield a run for every number of shots and seed; all images are drawn once a seed, too, for their held-back part.

    Args:
        family: The model.
        start: The bank to start from.
        data: Images to draw from.
        report: Images to measure on.
        shots: Images a class; None for all.
        seeds: Draws.
        options: See ``TuneOptions``; the seed is replaced.
        cache: Folder that keeps image features.
        bundle: A finished bundle of the same checkpoint, to serve every tuned bank through ONNX Runtime.
        progress: Notified of each image and step.

    Raises:
        DataError: See ``tune_prompts``.
    """
    known = with_classes(report, start.labels)
    for count in shots:
        for seed in seeds:
            seeded = replace(options, seed=seed)
            made = tune_prompts(
                family, start, data, report, shots=count, options=seeded, cache=cache, progress=progress or Silent()
            )
            if made.report is not None:
                served = served_accuracy(bundle, made.tuned.bank, known) if bundle else None
                yield TuningRun(count, seed, made, made.report, served)


def served_accuracy(bundle: Bundle, bank: PromptBank, labelled: DetectionSet) -> Accuracy:
    """AP of a bank in a finished bundle, on ONNX Runtime's CPU, without a threshold."""
    with Detector.load(bundle, "ort-cpu", prompts=bank, threshold=0.0, threads=1) as detector:
        return measure_accuracy(labelled, [detector(load_image(entry.path)) for entry in labelled.images])


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    args = _arguments()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    family = family_from_checkpoint(args.checkpoint)
    bank = bank_from_prompts(family, prompts_from_yaml(args.prompts))
    start = bank.subset(args.labels.split(",")) if args.labels else bank
    options = TuneOptions(
        steps=args.steps, learning_rate=args.learning_rate, anchor=args.anchor, min_gain=args.min_gain
    )
    with Steps("tuning") as steps:
        runs = list(
            tuning_runs(
                family,
                start,
                read_detection_set(args.data),
                read_detection_set(args.report),
                [None if text == "all" else int(text) for text in args.shots],
                args.seeds,
                options=options,
                cache=args.cache,
                bundle=load_bundle(args.bundle) if args.bundle else None,
                progress=steps,
            )
        )
    print_table("Tuned banks on the report's images", COLUMNS, [run.row() for run in runs])
    checkpoint = checkpoint_sha256(args.checkpoint)
    rows = [run.as_json() for run in runs]
    write_json(args.json, {"checkpoint_sha256": checkpoint, "machine": describe_machine(), "runs": rows})


def _arguments() -> argparse.Namespace:
    defaults = TuneOptions()
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.tuning", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--labels", help="tune these classes alone, by commas")
    parser.add_argument("--data", required=True, help="FILE.json or FOLDER:SPLIT to draw from")
    parser.add_argument("--report", required=True, help="FILE.json or FOLDER:SPLIT to measure on")
    parser.add_argument("--shots", nargs="+", default=["1", "5", "10", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--anchor", type=float, default=defaults.anchor)
    parser.add_argument("--min-gain", type=float, default=defaults.min_gain)
    parser.add_argument("--cache", type=Path, help="folder that keeps image features between runs")
    parser.add_argument("--bundle", type=Path, help="a finished bundle of the checkpoint, to serve the tuned banks")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write everything measured here")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(_main)
