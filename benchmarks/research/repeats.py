"""Does measuring again say the same? ``bench latency`` in a row, and ``bench regress`` on a bundle that did not change.

Run it as ``python -m medprompt.benchmarks.research.repeats BUNDLE --reference CHECKPOINT --images FOLDER --data
val.json``. Each run is a process of its own, as a user would start it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medprompt.benchmarks.latency.machine import describe_machine, format_machine
from medprompt.benchmarks.latency.processes import OWN_SCRIPT, measured_process
from medprompt.benchmarks.latency.timing import Ratio
from medprompt.benchmarks.research.command import run_command
from medprompt.core.files import write_json
from medprompt.core.progress import Progress, Silent

JUDGED = """
import sys
from medprompt.cli import main
sys.argv = ["medprompt", *{words!r}]
try:
    main()
except SystemExit as end:
    sys.exit(0 if end.code in (None, 0, 1, 4) else end.code)
"""
"""A verdict of any kind is an answer; anything else is an error."""


@dataclass(frozen=True)
class Agreement:
    """Runs in a row, each compared with the one before.

    Attributes:
        pairs: How many.
        overlapping: Whose 95 % intervals of the median overlap.
        expected: In which the second's median lies where the first expected "95 % prediction interval".
    """

    pairs: int
    overlapping: int
    expected: int


def agreement(ratios: Sequence[Ratio]) -> Agreement:
    """Compare each run's ratio with the next one's."""
    pairs = list(pairwise(ratios))
    return Agreement(
        len(pairs),
        sum(a.low <= b.high and b.low <= a.high for a, b in pairs),
        sum(a.again_low <= b.median <= a.again_high for a, b in pairs),
    )


def latency_again(
    bundle: Path, images: Path, device: str, runs: int, reference: Path | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """What ``bench latency --json`` says, run after run.

    Args:
        bundle: The bundle.
        images: See ``--images``.
        device: The engine.
        runs: How many.
        reference: The checkpoint; PyTorch is then what ratios are over.
        progress: Told of each run.

    Raises:
        MedpromptError: A run failed.
    """
    progress = progress or Silent()
    progress.step("bench latency", runs)
    against = ("--reference", reference) if reference else ()
    words = ("bench", "latency", bundle, "--images", images, "--device", device, *against, "--json")
    rest = ("--batches", "none", "--workers", "none")
    said = []
    for _ in range(runs):
        said.append(json.loads(measured_process([OWN_SCRIPT, *map(str, (*words, *rest))], 1)[1]))
        progress.advance()
    return said


def ratios_of(said: Sequence[dict[str, Any]], device: str, clock: str = "ratio") -> list[Ratio]:
    """The engine's ratio in each run; ``cpu_ratio`` is the other clock."""
    return [Ratio(**one["rivals"][f"bundle on {device}"][clock]) for one in said]


def regress_again(
    bundle: Path, data: Sequence[str], device: str, runs: int, progress: Progress | None = None
) -> Counter[str]:
    """Outcomes of ``bench regress`` on a bundle against itself.

    Args:
        bundle: The bundle.
        data: Labelled sets.
        device: The engine.
        runs: How many, after the one that writes the baseline.
        progress: Told of each run.

    Raises:
        MedpromptError: A run failed for another reason than a limit.
    """
    progress = progress or Silent()
    progress.step("bench regress", runs)
    outcomes: Counter[str] = Counter()
    with TemporaryDirectory(prefix="medprompt-") as folder:
        baseline = Path(folder) / "baseline.json"
        sets = [word for name in data for word in ("--data", name)]
        words = ["bench", "regress", str(bundle), "--baseline", str(baseline), *sets, "--device", device]
        measured_process([OWN_SCRIPT, *words, "--update-baseline", "--reason", "unchanged"], 1)
        for _ in range(runs):
            code = JUDGED.format(words=[*words, "--against", str(bundle), "--json"])
            outcomes[json.loads(measured_process([code], 1)[1])["outcome"]] += 1
            progress.advance()
    return outcomes


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.repeats", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, help="the bundle's checkpoint: ratios are then over PyTorch's time")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images, for bench latency")
    parser.add_argument("--data", action="append", required=True, help="a labelled set, for bench regress; repeats")
    parser.add_argument("--device", default="openvino")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of neighbouring runs of bench latency")
    parser.add_argument("--reruns", type=int, default=20, help="runs of bench regress on the unchanged bundle")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    args = parser.parse_args()
    with Steps("repeats") as steps:
        said = latency_again(args.bundle, args.images, args.device, args.pairs + 1, args.reference, steps)
        outcomes = regress_again(args.bundle, args.data, args.device, args.reruns, steps)
    clocks = {clock: agreement(ratios_of(said, args.device, clock)) for clock in ("ratio", "cpu_ratio")}
    rows = [(clock, str(one.pairs), str(one.overlapping), str(one.expected)) for clock, one in clocks.items()]
    caption = format_machine(describe_machine())
    print_table("bench latency, run after run", ("", "pairs", "overlap", "where expected"), rows, caption)
    print_table("bench regress, unchanged", ("outcome", "runs"), [(k, str(v)) for k, v in outcomes.items()])
    facts = {"agreement": {clock: vars(one) for clock, one in clocks.items()}, "regress": dict(outcomes)}
    medians = [ratio.median for ratio in ratios_of(said, args.device)]
    write_json(args.json, {**facts, "medians": medians, "machine": describe_machine()})


if __name__ == "__main__":
    run_command(_main)
