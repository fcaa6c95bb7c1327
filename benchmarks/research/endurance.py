"""Ten thousand inferences in one process: does memory grow, does the slowest percent get slower?

Run it as ``python -m medprompt.benchmarks.research.endurance BUNDLE --images FOLDER --count 10000``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import check_threads, describe_machine, format_machine
from medprompt.benchmarks.latency.stages import resident_mib
from medprompt.benchmarks.research.command import run_command
from medprompt.core.errors import InputError, MedpromptError
from medprompt.core.files import write_json
from medprompt.images.read import find_images, load_image
from medprompt.runtime import Detector

WARM_UP = 0.1
"""Share of the calls at the start that the slope leaves out: allocators are filling their pools then."""

MAX_MIB_PER_THOUSAND = 1.0
"""A steeper slope is a leak: a night of 30,000 images would grow by more than 30 MiB."""

READ_EVERY = 50


@dataclass(frozen=True)
class Endurance:
    """What a long run was like.

    Attributes:
        wall_ms: float64 ``[N]``, of each call, reading of the file included.
        resident: float64 ``[N // READ_EVERY, 2]``: calls done, resident memory in MiB.
        machine: See ``describe_machine``.
    """

    wall_ms: NDArray[np.float64]
    resident: NDArray[np.float64]
    machine: dict[str, Any] = field(default_factory=describe_machine)

    @property
    def slope(self) -> float:
        """MiB per 1,000 calls, least squares over what follows the warm-up."""
        calls, memory = self.resident[int(len(self.resident) * WARM_UP) :].T
        return float(np.polyfit(calls / 1e3, memory, 1)[0])

    def p99_ms(self) -> list[float]:
        """99th percentile of each quarter of the run."""
        return [float(np.quantile(part, 0.99)) for part in np.array_split(self.wall_ms, 4)]

    def rows(self) -> list[tuple[str, ...]]:
        """A row a quarter of the run."""
        walls, memory = np.array_split(self.wall_ms, 4), np.array_split(self.resident[:, 1], 4)
        return [
            (f"{index + 1}", f"{np.median(wall):.1f}", f"{p99:.1f}", f"{wall.max():.1f}", f"{held.max():.1f}")
            for index, (wall, held, p99) in enumerate(zip(walls, memory, self.p99_ms(), strict=True))
        ]

    def as_json(self) -> dict[str, Any]:
        """Figures, and memory over time."""
        return {
            "calls": len(self.wall_ms),
            "slope_mib_per_thousand": self.slope,
            "p99_ms_by_quarter": self.p99_ms(),
            "resident_mib": self.resident.tolist(),
            "machine": self.machine,
        }


def endure(
    detect: Callable[[Path], object],
    images: Sequence[Path],
    count: int,
    resident: Callable[[], float] = resident_mib,
    after: Callable[[], None] = lambda: None,
) -> Endurance:
    """Call ``detect`` on the images in turn.

    Args:
        detect: Reads a file and detects in it.
        images: At least one.
        count: Calls, 20 times ``READ_EVERY`` or more.
        resident: Memory of the process in MiB.
        after: Called after each call.

    Raises:
        InputError: Too few calls to fit a slope to.
    """
    if count < 20 * READ_EVERY:
        raise InputError("Too few calls.", expected=f"{20 * READ_EVERY} or more", got=str(count))
    walls, memory = [], []
    for done, path in enumerate(itertools.islice(itertools.cycle(images), count), 1):
        began = time.perf_counter()
        detect(path)
        walls.append((time.perf_counter() - began) * 1e3)
        if done % READ_EVERY == 0:
            memory.append((done, resident()))
        after()
    return Endurance(np.array(walls), np.array(memory, dtype=np.float64))


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.endurance", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    check_threads(args.threads)
    images = find_images([args.images])
    with Detector.load(args.bundle, args.device, threads=args.threads) as detector, Steps("endurance") as steps:
        steps.step(f"{args.count:,} images on {detector.choice.device}", args.count)
        report = endure(lambda path: detector(load_image(path)), images, args.count, after=steps.advance)
    columns = ("quarter", "p50 ms", "p99 ms", "slowest ms", "resident MiB")
    caption = f"{report.slope:+.3f} MiB per 1,000 calls after the first tenth; {format_machine(report.machine)}"
    print_table(f"{args.count:,} calls", columns, report.rows(), caption)
    write_json(args.json, report.as_json())
    if report.slope > MAX_MIB_PER_THOUSAND:
        raise MedpromptError(
            "Memory grows.",
            expected=f"{MAX_MIB_PER_THOUSAND} MiB per 1,000 calls at most",
            got=f"{report.slope:.2f}",
            where=f"{args.bundle} on {detector.choice.device}",
        )


if __name__ == "__main__":
    run_command(_main)
