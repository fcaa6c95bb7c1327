"""The sections of the check, in their order. Each runs in a process of its own, for a limited time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name

from medprompt.benchmarks.gpu_check.notes import Notes, Subject

ROOM = "medprompt.benchmarks.gpu_check"


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        function: Where it is, as ``module:name`` of this package; imported by the process that runs it.
        limit_s: Seconds that it may take. All together are ten minutes.
    """

    function: str
    limit_s: float

    def load(self) -> Callable[[Subject, Notes], None]:
        """Import it."""
        found: Callable[[Subject, Notes], None] = resolve_name(f"{ROOM}.{self.function}")
        return found


MACHINE = "machine"

SECTIONS: dict[str, Section] = {
    MACHINE: Section("machine:check_machine", 30),
    "worker": Section("worker:check_worker", 100),
    "host path": Section("host_path:check_host_path", 40),
    "taps": Section("taps:check_taps", 80),
    "decisions": Section("decisions:check_decisions_on_gpu", 150),
    "ort-cuda": Section("engines:check_ort_cuda", 60),
    "latency": Section("engines:check_latency", 135),
}
"""By name."""
