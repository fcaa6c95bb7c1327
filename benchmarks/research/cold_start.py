"""Whole processes, cold: ``medprompt infer`` on one image against transformers' pipeline.

The checkpoint is the same, the image is the same, and files are in the page cache.

Run it as ``python -m medprompt.benchmarks.research.cold_start BUNDLE --reference CHECKPOINT --image FILE``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.latency.machine import check_threads, describe_machine, format_machine
from medprompt.benchmarks.latency.processes import OWN_SCRIPT, Process, measured_process
from medprompt.benchmarks.latency.timing import Ratio, ratio_of_rounds
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import load_bundle
from medprompt.core.files import write_json

PIPELINE_SCRIPT = """
import sys
from PIL import Image
from transformers import pipeline
detector = pipeline("zero-shot-object-detection", model=sys.argv[1])
print(detector(Image.open(sys.argv[2]), candidate_labels=sys.argv[4:], threshold=float(sys.argv[3])))
"""
"""transformers' documentation, as short as it gets."""

OWN = "medprompt infer"
RIVAL = "transformers pipeline"


@dataclass(frozen=True)
class ColdStartReport:
    """Processes measured in turn.

    Attributes:
        runs: By name, one entry a round; the contender first.
        threads: Threads of each.
        machine: See ``describe_machine``.
    """

    runs: dict[str, tuple[Process, ...]]
    threads: int
    machine: dict[str, Any] = field(default_factory=describe_machine)

    def values(self, name: str, figure: str) -> Any:
        """float64 ``[rounds]`` of one figure."""
        return np.array([getattr(run, figure) for run in self.runs[name]])

    def share(self, figure: str) -> Ratio:
        """Ours over the contender's, round by round."""
        return ratio_of_rounds(self.values(OWN, figure) / self.values(RIVAL, figure), seed=0)

    def rows(self) -> list[tuple[str, ...]]:
        """One row a process, then ours over the contender's."""
        figures = ("wall_s", "cpu_s", "peak_mib")
        medians = [
            (name, *(f"{float(np.median(self.values(name, figure))):.2f}" for figure in figures)) for name in self.runs
        ]
        return [*medians, ("ours / theirs (95 %)", *(str(self.share(figure)) for figure in figures))]

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {
            "runs": {name: [vars(run) for run in runs] for name, runs in self.runs.items()},
            "share": {figure: vars(self.share(figure)) for figure in ("wall_s", "cpu_s", "peak_mib")},
            "threads": self.threads,
            "machine": self.machine,
        }


def measure_cold_start(
    bundle: Path, checkpoint: Path, image: Path, *, rounds: int = 5, threads: int = 2, device: str = "auto"
) -> ColdStartReport:
    """Start each program ``rounds`` times in turn, after one start of each that does not count.

    Files are in the page cache then: what is cold is the process, not the disk.

    Args:
        bundle: The bundle's folder.
        checkpoint: The checkpoint that it was made from.
        image: An image file.
        rounds: Starts of each.
        threads: CPU threads of each.
        device: The bundle's engine.

    Raises:
        InputError: See ``load_bundle`` and ``check_threads``.
        MedpromptError: A program failed.
    """
    check_threads(threads)
    loaded = load_bundle(bundle)
    threshold = str(loaded.manifest.default_threshold)
    own = [OWN_SCRIPT, "infer", str(bundle), str(image), "--json", "--threads", str(threads)]
    commands = {
        RIVAL: [PIPELINE_SCRIPT, str(checkpoint), str(image), threshold, *loaded.bank.prompts.texts],
        OWN: [*own, "--device", device],
    }
    for arguments in commands.values():
        measured_process(arguments, threads)
    runs: dict[str, list[Process]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(commands)[:: 1 if number % 2 else -1]:
            runs[name].append(measured_process(commands[name], threads)[0])
    return ColdStartReport({name: tuple(entries) for name, entries in runs.items()}, threads)


def _main() -> None:
    from medprompt.core.terminal import print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.cold_start", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="the checkpoint it was made from")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    args = parser.parse_args()
    report = measure_cold_start(
        args.bundle,
        args.reference,
        args.image,
        rounds=args.rounds,
        threads=args.threads,
        device=args.device,
    )
    columns = ("whole process, one image", "wall s", "CPU s", "peak MiB")
    print_table("Cold start", columns, report.rows(), format_machine(report.machine))
    write_json(args.json, report.as_json())


if __name__ == "__main__":
    run_command(_main)
