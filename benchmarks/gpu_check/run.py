"""Run the sections, each in a process of its own: one that crashes or hangs ends alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from medprompt.benchmarks.gpu_check.child import STATUS
from medprompt.benchmarks.gpu_check.notes import Subject
from medprompt.benchmarks.gpu_check.sections import MACHINE, ROOM, SECTIONS, Section
from medprompt.bundles.load import load_bundle
from medprompt.core.errors import InputError
from medprompt.core.files import write_json
from medprompt.core.output_kinds import file_kind
from medprompt.core.packages import package_version
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table

SCHEMA_VERSION = 1
GPU_CHECK = file_kind("a GPU check", r'\{\s*"gpu_check": ?\d+,')
"""The file that is written."""

LAST_WORDS = 300
"""Characters of a crashed process's errors that are kept."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONFAULTHANDLER": "1"}


@dataclass(frozen=True)
class Outcome:
    """How a section ended.

    Attributes:
        status: "ok", "failed: …" or "not run: …".
        seconds: It took.
        limit_s: It might have taken.
        facts: What it found, by name; of one that was stopped, as far as it came.
    """

    name: str
    status: str
    seconds: float = 0.0
    limit_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        times = {"seconds": round(self.seconds, 2), "limit_s": self.limit_s}
        return {"status": self.status, **times, "facts": dict(self.facts)}


@dataclass
class GpuCheck:
    """All that was found so far."""

    subject: Subject
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """Sections that failed."""
        return [one.name for one in self.outcomes if one.status.startswith("failed")]

    @property
    def proves_nothing(self) -> bool:
        """Whether no section but the look at the machine ran."""
        return all(one.status.startswith("not run") for one in self.outcomes if one.name != MACHINE)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "gpu_check": SCHEMA_VERSION,
            "medprompt": package_version("medprompt"),
            "bundle": str(self.subject.bundle) if self.subject.bundle else None,
            "checkpoint": str(self.subject.checkpoint) if self.subject.checkpoint else None,
            "seconds": round(sum(one.seconds for one in self.outcomes), 1),
            "sections": {one.name: one.as_json() for one in self.outcomes},
        }

    def tables(self) -> Iterator[Table]:
        """How the sections ended, then their figures."""
        rows = [(one.name, f"{one.seconds:.1f}", one.status) for one in self.outcomes]
        yield Table("GPU check", ("section", "s", "ended"), rows)
        figures = [(one.name, name, text) for one in self.outcomes for name, text in _figures(one.facts)]
        if figures:
            yield Table("What was found", ("section", "", ""), figures)


def run_gpu_check(
    bundle: Path | str | None = None,
    checkpoint: Path | str | None = None,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
) -> GpuCheck:
    """Check a machine with a GPU, in ten minutes at most, without a network.

    Args:
        bundle: A bundle, for the sections that need one.
        checkpoint: The checkpoint that it was made from, for decisions in PyTorch on the GPU.
        out: A JSON file that is written after every section.
        progress: Notified of each section, and of each of its seconds.

    Raises:
        InputError: The bundle cannot be loaded, or there is no such checkpoint, or a checkpoint without its bundle.
    """
    subject = _checked(bundle, checkpoint)
    check, progress = GpuCheck(subject), progress or Silent()
    progress.step(f"{len(SECTIONS)} sections, {sum(one.limit_s for one in SECTIONS.values()):.0f} s at most")
    for name, section in SECTIONS.items():
        progress.step(f"{name}, {section.limit_s:.0f} s at most")
        absent = _no_gpu(check.outcomes)
        check.outcomes.append(
            Outcome(name, absent, limit_s=section.limit_s)
            if absent
            else outcome_of(name, section, subject, progress.advance)
        )
        write_json(out, check.as_json())
    return check


def outcome_of(name: str, section: Section, subject: Subject, each_second: Callable[[], None]) -> Outcome:
    """Run a section in a process of its own, which is ended at its limit."""
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.json"
        words = [name, str(notes), *(str(path or "") for path in (subject.bundle, subject.checkpoint))]
        with Child(words, Path(folder) / "errors") as child:
            in_time = child.wait(section.limit_s, each_second)
        facts = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
        status = facts.pop(STATUS, None) if in_time else f"failed: stopped after {section.limit_s:.0f} s"
        return Outcome(name, status or child.last_words(), time.perf_counter() - began, section.limit_s, facts)


class Child:
    """A process of ours and what it starts; whatever happens here, none of them stays."""

    def __init__(self, words: Sequence[str], errors: Path) -> None:
        self._errors = errors
        # -P: nothing is imported from the folder where the user stands.
        command = [sys.executable, "-P", "-m", f"{ROOM}.child", *words]
        with errors.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=os.environ | OFFLINE,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, limit_s: float, each_second: Callable[[], None]) -> bool:
        """Whether it ended within the limit."""
        until = time.monotonic() + limit_s
        while (left := until - time.monotonic()) > 0:
            try:
                self._process.wait(min(left, 1.0))
            except subprocess.TimeoutExpired:
                each_second()
            else:
                return True
        return False

    def last_words(self) -> str:
        """How it ended where it did not say so itself."""
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = " ".join(self._errors.read_text(encoding="utf-8", errors="replace").split())[-LAST_WORDS:]
        return f"failed: the process ended with {how}{': ' if said else ''}{said}"


def _checked(bundle: Path | str | None, checkpoint: Path | str | None) -> Subject:
    if checkpoint is not None and bundle is None:
        raise InputError(
            "A checkpoint alone cannot be checked: its bundle has the golden images.",
            where="checkpoint",
            fix="name the bundle that was made from it too",
        )
    if checkpoint is not None and not (Path(checkpoint) / "config.json").is_file():
        raise InputError("There is no checkpoint.", where=str(checkpoint), expected="a folder with config.json")
    path = load_bundle(bundle).path.resolve() if bundle is not None else None
    return Subject(path, Path(checkpoint).resolve() if checkpoint is not None else None)


def _no_gpu(outcomes: Sequence[Outcome]) -> str:
    """Why no further section can run: what the first one said."""
    return outcomes[0].status if outcomes and outcomes[0].status.startswith("not run") else ""


def _figures(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Facts that fit into a table: values, alone or by name."""
    for name, fact in facts.items():
        if not isinstance(fact, Mapping | list):
            yield name, _shown(fact)
        elif isinstance(fact, Mapping) and not any(isinstance(value, Mapping | list) for value in fact.values()):
            yield name, "; ".join(f"{key}: {_shown(value)}" for key, value in fact.items() if value not in ("", None))


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
