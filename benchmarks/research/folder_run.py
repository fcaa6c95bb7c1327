"""Folder runs of two installations in turn: images a second, CPU time, and whether the items are the same bytes.

What stands around them in the results, such as engines that were passed over, may differ between versions.

Each run is a process of its own, ``medprompt infer`` from start to exit, so that loading counts too.

Run it as ``python -m medprompt.benchmarks.research.folder_run BUNDLE FOLDER --other PYTHON``: ``PYTHON`` is the
interpreter of the environment in which the other version is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from medprompt.benchmarks.latency.machine import describe_machine, format_machine, usable_cores
from medprompt.benchmarks.latency.processes import OWN_SCRIPT, Process, measured_process
from medprompt.benchmarks.latency.timing import ratio_of_rounds
from medprompt.benchmarks.research.command import run_command
from medprompt.core.errors import ParityError
from medprompt.images.read import find_images


def folder_run(python: str, bundle: Path, folder: Path, device: str, out: Path) -> Process:
    """One run, away from any checkout, whose packages would be imported instead of those that are installed."""
    words = ["infer", str(bundle.resolve()), str(folder.resolve()), "--device", device, "--out", str(out), "--force"]
    return measured_process([OWN_SCRIPT, *words], usable_cores(), python=python, cwd=out.parent)[0]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", required=True, help="Python of the other installation")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sides = {"other": args.other, "this": sys.executable}
    runs: dict[str, list[Process]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as place:
        files = {name: Path(place, f"{name}.json") for name in sides}
        for _ in range(args.rounds):
            for name, python in sides.items():
                runs[name].append(folder_run(python, args.bundle, args.folder, args.device, files[name]))
        same = len({json.dumps(json.loads(file.read_text("utf-8"))["items"]) for file in files.values()}) == 1
    count = len(find_images([args.folder]))
    for name in sides:
        wall, cpu = _median(runs[name], "wall_s"), _median(runs[name], "cpu_s")
        print(f"{name:6s} {count / wall:6.2f} images a second, {cpu / count * 1e3:.1f} ms of CPU time an image")
    for figure in ("wall_s", "cpu_s"):
        ratios = np.array([getattr(a, figure) / getattr(b, figure) for a, b in zip(*runs.values(), strict=True)])
        print(f"{figure}: other / this {ratio_of_rounds(ratios, seed=0)}")
    print(format_machine(describe_machine()))
    if not same:
        raise ParityError("The items differ.", fix="compare the two results files")
    print("items: the same bytes")


def _median(runs: list[Process], figure: str) -> float:
    return float(np.median([getattr(run, figure) for run in runs]))


if __name__ == "__main__":
    run_command(main)
