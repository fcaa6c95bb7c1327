"""A Python program as a whole process: its time, its CPU time, its largest memory, and what it printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from medprompt.core.errors import MedpromptError

OWN_SCRIPT = "from medprompt.cli import main; main()"
"""What the installed ``medprompt`` script does."""

LAUNCHER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(sys.argv[1:])
wall = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / unit}))
sys.exit(code)
"""
"""A small process that starts the measured one: Linux counts the starter's own memory into a child's peak."""


@dataclass(frozen=True)
class Process:
    """One process from start to end.

    Attributes:
        wall_s: From before the start until it was gone.
        cpu_s: CPU time of all its threads.
        peak_mib: Largest resident memory.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float


def measured_process(
    arguments: Sequence[str], threads: int, *, python: str = sys.executable, cwd: Path | None = None
) -> tuple[Process, str]:
    """Run ``python -c`` with arguments and no network, and measure the whole process.

    Args:
        arguments: Code, and what it is given.
        threads: OpenMP's.
        python: The interpreter.
        cwd: Where it runs; here where None.

    Returns:
        The figures, and what it printed on stdout.

    Raises:
        MedpromptError: It failed; the end of its error text is shown.
    """
    limits = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, python, "-c", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | limits,
        check=False,
    )
    if done.returncode:
        raise MedpromptError(
            "A measured program failed.", where=" ".join(arguments[1:3]), got=done.stderr.strip()[-800:]
        )
    printed, _, figures = done.stdout.rstrip("\n").rpartition("\n")
    return Process(**json.loads(figures)), printed


def peak_of_infer(bundle: Path, device: str, images: Sequence[Path], threads: int) -> float:
    """Largest resident memory, in MiB, of a process of its own that detects in images and writes the results.

    Memory of a GPU does not count.

    Args:
        bundle: The bundle's folder.
        device: Its engine.
        images: Image files, at least one; copied, so that equal names in several folders do not matter.
        threads: CPU threads.

    Raises:
        MedpromptError: The process failed.
    """
    with TemporaryDirectory(prefix="medprompt-") as name:
        folder = Path(name)
        for number, image in enumerate(images):
            shutil.copy(image, folder / f"{number}{image.suffix}")
        options = ("--device", device, "--threads", str(threads), "--out", str(folder / "results.json"))
        process, _ = measured_process([OWN_SCRIPT, "infer", str(bundle), str(folder), *options], threads)
    return process.peak_mib
