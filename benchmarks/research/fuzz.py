"""Damaged inputs by the ten thousand: does anything crash, hang, fill the memory, or pass for whole?

Run it as ``python -m medprompt.benchmarks.research.fuzz BUNDLE --count 20000``. Every file is a real one with something
done to it; number and seed say what, so that a finding can be made again (``--only NUMBER``). Reading happens in worker
processes with a limit on memory: a worker that dies is a finding.

What is accepted is judged by a second decoder in its strictest setting, where there is one: ``djpeg -strict`` (Debian:
libjpeg-turbo-progs), ``pngcheck -q``, ``tiffcp`` (libtiff-tools), ``dwebp`` (webp). A format without checksums cannot
tell one grey level from another: such files are accepted by both.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.fuzz_inputs import Original, mutated, originals
from medprompt.bundles.load import load_bundle, write_manifest
from medprompt.core.errors import InputError, MedpromptError
from medprompt.core.files import write_json
from medprompt.images.read import load_picture
from medprompt.images.sources import find_sources
from medprompt.prompts.bank import load_bank
from medprompt.prompts.file import prompts_from_yaml

MAX_SECONDS = 5.0
MEMORY_GIB = 3.0
"""Address space of a worker: decoding and its libraries, at the 250 million pixels that an image may have."""

A_WORKER = 500
"""Files a worker process reads before the next one starts."""

STRICT = {
    ".jpg": ("djpeg", "-strict", "-outfile", "/dev/null"),
    ".png": ("pngcheck", "-q"),
    ".tif": ("tiffcp", "-c", "none"),
    ".webp": ("dwebp", "-quiet", "-o", "/dev/null"),
}
"""The second decoder by suffix."""


@dataclass(frozen=True)
class Reading:
    """What became of one file.

    Attributes:
        number: Of the file; with the seed it makes the file again.
        original: What it was made from.
        done: What was done to it.
        outcome: ``ok``, ``warned``, ``refused`` (an error of ours), ``memory``, or ``fault: TYPE`` (any other error).
        seconds: Of the processor, for reading: a worker that waits for its turn is not slow.
        strict: Whether the second decoder accepts it; None where it was not run.
    """

    number: int
    original: str
    done: str
    outcome: str
    seconds: float
    strict: bool | None = None

    @property
    def finding(self) -> str | None:
        """What is wrong here; None where nothing is."""
        if self.outcome.startswith(("fault", "crashed")):
            return self.outcome
        if self.seconds > MAX_SECONDS:
            return f"{self.seconds:.1f} s"
        return "accepted, and a strict decoder refuses it" if self.strict is False else None


def read(path: Path, kind: str) -> str:
    """Read a file as the product does, and say how it went."""
    try:
        warned = READERS[kind](path)
    except MedpromptError:
        return "refused"
    except MemoryError:
        return "memory"
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return f"fault: {type(error).__name__}: {error}"[:200]
    return "warned" if warned else "ok"


def _read_image(path: Path) -> bool:
    return any(load_picture(source.path, source.frame).warnings for source in find_sources([path])[:3])


def _read_bundle_file(path: Path) -> bool:
    """The file in its bundle, once as it is (its hash is another) and once hashed anew, so that it is parsed.

    A damaged file that is still a file of its kind counts as warned of: its bundle would be refused by its hash.
    """
    folder = path.parent
    try:
        load_bundle(folder)
    except MedpromptError:
        if path.name == "manifest.json":
            raise
    else:
        return False
    write_manifest(folder, _manifest(folder))
    load_bundle(folder)
    return True


def _manifest(folder: Path) -> Any:
    from medprompt.core.manifest import Manifest

    return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


def _read_prompts(path: Path) -> bool:
    prompts_from_yaml(path)
    return False


def _read_bank(path: Path) -> bool:
    load_bank(path)
    return False


READERS: dict[str, Callable[[Path], bool]] = {
    "image": _read_image,
    "prompts": _read_prompts,
    "bank": _read_bank,
    "bundle": _read_bundle_file,
}
"""By kind of original: whether there was something to warn of."""


def read_number(number: int, seed: int, known: Sequence[Original], folder: Path) -> Reading:
    """Make a file, read it, and ask the second decoder where it was accepted."""
    original = known[number % len(known)]
    content, done = mutated(original.content, np.random.default_rng((seed, number)))
    path = original.placed(content, folder)
    began = time.process_time()
    outcome = read(path, original.kind)
    seconds = time.process_time() - began
    strict = _strict(path) if outcome in ("ok", "warned") and original.kind == "image" else None
    return Reading(number, original.name, done, outcome, seconds, strict)


def _strict(path: Path) -> bool | None:
    command = STRICT.get(path.suffix)
    if command is None or shutil.which(command[0]) is None:
        return None
    files = (
        [f"{path},0", str(path.with_suffix(".out"))] if command[0] == "tiffcp" else [str(path)]
    )  # page 1, as is read
    return subprocess.run([*command, *files], capture_output=True, check=False).returncode == 0


def _work(args: argparse.Namespace) -> None:
    """A worker: a line of JSON a file; its number comes first, should the file be the end of the worker."""
    warnings.simplefilter("ignore")
    limit = int(MEMORY_GIB * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    known = originals(args.bundle)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(*map(int, args.work.split(":"))):
            print(number, end=" ", flush=True)
            print(json.dumps(asdict(read_number(number, args.seed, known, Path(folder)))), flush=True)
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def run_range(bundle: Path, seed: int, first: int, last: int) -> tuple[list[Reading], float]:
    """Read files ``first`` … ``last - 1`` in worker processes; one that dies costs one file.

    Returns:
        The readings, and the largest memory of a worker in MiB.
    """
    found: list[Reading] = []
    peak = 0.0
    while first < last:
        words = [sys.executable, "-m", "medprompt.benchmarks.research.fuzz", str(bundle), "--seed", str(seed)]
        words += ["--work", f"{first}:{min(first + A_WORKER, last)}"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=A_WORKER * MAX_SECONDS)
            printed, status = done.stdout, f"crashed: {done.returncode}"
        except subprocess.TimeoutExpired as late:
            printed, status = (late.stdout or b"").decode(), "crashed: hung"
        for line in printed.splitlines():
            number, _, rest = line.partition(" ")
            if number == "peak":
                peak = max(peak, float(rest))
                continue
            first = int(number) + 1
            found.append(Reading(**json.loads(rest)) if rest else Reading(int(number), "", "", status, 0.0))
        if not printed:
            raise MedpromptError("A worker did not start.", got=done.stderr.strip()[-800:])
    return found, peak


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.fuzz", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a small one; images come with the demo and pydicom")
    parser.add_argument("--first", type=int, default=0, help="number to begin with, to read them in portions")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one number, in this process, with its traceback")
    parser.add_argument("--json", type=Path, help="write every finding here")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count < 1:
        raise InputError("There is nothing to read.", where="--count", expected="1 or more", got=str(args.count))
    if args.work:
        _work(args)
        return
    if args.only is not None:
        print(read_number(args.only, args.seed, originals(args.bundle), Path(tempfile.mkdtemp())))
        return
    readings: list[Reading] = []
    peak = 0.0
    with Steps("fuzz") as steps:
        steps.step("read damaged files", args.count)
        end = args.first + args.count
        for first in range(args.first, end, A_WORKER):
            part, max_images = run_range(args.bundle, args.seed, first, min(first + A_WORKER, end))
            readings, peak = readings + part, max(peak, max_images)
            for _ in part:
                steps.advance()
    print_table("Damaged files", *_table(readings), f"largest worker {peak:.0f} MiB; seed {args.seed}")
    findings = [reading for reading in readings if reading.finding]
    for reading in findings[:20]:
        print(f"{reading.number}: {reading.original}, {reading.done}: {reading.finding}")
    write_json(args.json, {"count": len(readings), "peak_mib": peak, "findings": [asdict(one) for one in findings]})
    if findings:
        raise MedpromptError(f"{len(findings)} of {len(readings)} files are findings.", fix="see --only NUMBER")


def _table(readings: Sequence[Reading]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """A row an original: how many of its files ended in what."""
    outcomes = ("ok", "warned", "refused", "memory")
    rows = []
    for name in dict.fromkeys(reading.original for reading in readings):
        mine = [reading for reading in readings if reading.original == name]
        counts = Counter(reading.outcome for reading in mine)
        slowest = max(reading.seconds for reading in mine)
        judged = sum(reading.strict is not None for reading in mine)
        found = sum(reading.finding is not None for reading in mine)
        rows.append((name, *(str(counts[one]) for one in outcomes), str(judged), f"{slowest:.2f}", str(found)))
    return ("made from", *outcomes, "judged twice", "slowest s", "findings"), rows


if __name__ == "__main__":
    run_command(_main)
