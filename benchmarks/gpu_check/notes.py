"""What a section finds: it is written down as it is found, so that a crash or a time limit loses none of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprompt.core.errors import MedpromptError, in_one_line
from medprompt.core.files import write_json


@dataclass(frozen=True)
class Subject:
    """What is checked besides the machine; either may be absent.

    Attributes:
        bundle: A bundle's folder.
        checkpoint: The checkpoint that it was made from.
    """

    bundle: Path | None = None
    checkpoint: Path | None = None


class NotRun(Exception):
    """A section, or a part of one, has no ground here; the text says why."""


class Notes:
    """Facts by name, in order. A figure's name ends in its unit."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.facts: dict[str, Any] = {}
        self.failures: list[str] = []

    def add(self, name: str, fact: Any) -> None:
        """Write down a fact: any JSON value. Numbers and texts, alone or by name, are shown in the table too."""
        self.facts[name] = fact
        write_json(self._path, self.facts)

    def check(self, name: str, run: Callable[[], Mapping[str, Any]]) -> None:
        """Run one of several checks, and write down how it ended and its facts; the next one may follow."""
        self.add(name, {"status": "running"})
        status, facts = ended(run)
        self.add(name, {"status": status, **facts})
        if status.startswith("failed"):
            self.failures.append(f"{name}: {status.removeprefix('failed: ')}")

    @property
    def failed(self) -> str:
        """The checks that failed, each with its reason; empty where none did."""
        return "; ".join(self.failures)


def ended(run: Callable[[], Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    """How it ended ("ok", "failed: …", "not run: …"), and its facts."""
    try:
        return "ok", run()
    except NotRun as reason:
        return f"not run: {reason}", {}
    except MedpromptError as error:
        return f"failed: {in_one_line(str(error))}", {}
    except Exception as error:  # of any library: a check reports, it does not end the others
        return f"failed: {type(error).__name__}: {error}", {}


def expect(truth: bool, wrong: str) -> None:
    """Let a check fail, with what is wrong.

    Raises:
        MedpromptError: It is not true.
    """
    if not truth:
        raise MedpromptError(wrong)
