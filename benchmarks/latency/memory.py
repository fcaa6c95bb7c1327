"""How much memory serving a bundle takes: the peak of a whole ``medprompt infer``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from medprompt.benchmarks.latency.processes import OWN_SCRIPT, measured_process


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
