"""Who took part in a comparison of contenders, and what was measured of each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import format_machine
from medprompt.benchmarks.latency.timing import LatencyReport, Ratio, ratio_of_rounds
from medprompt.benchmarks.research.contender_steps import Contender, Found, Image
from medprompt.core.terminal import Table

EAGER = "PyTorch eager"

TOO_SLOW = 10.0
"""Times PyTorch in eager mode, by CPU time: one call of such a contender says enough, and rounds would take hours."""


@dataclass
class Runners:
    """Everyone that takes part, and why others do not.

    Attributes:
        contenders: By name; the first is PyTorch in eager mode.
        found: What each found in each image.
        absent: Reason by name.
        too_slow: CPU time of a first call over PyTorch's, by name, of those that are not timed any further.
    """

    contenders: dict[str, Contender] = field(default_factory=dict)
    found: dict[str, list[Found]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    too_slow: dict[str, float] = field(default_factory=dict)
    _eager_s: float | None = None

    def join(self, name: str, load: Callable[[], Contender], images: Sequence[Image]) -> None:
        """Load a contender and let it detect; one that fails is absent, with the first line of its error."""
        began = time.perf_counter()
        try:
            contender = load()
            contender.load_s = time.perf_counter() - began
            began_cpu = time.process_time()
            found = [contender(image) for image in images]
            self._judge(name, contender, time.process_time() - began_cpu)
        except Exception as error:
            self.absent[name] = _reason(error)
        else:
            self.found[name] = found

    def _judge(self, name: str, contender: Contender, seconds: float) -> None:
        """Keep a contender for the rounds, or its first call alone where that took too long; PyTorch comes first."""
        self._eager_s = self._eager_s or seconds
        if (ratio := seconds / self._eager_s) > TOO_SLOW:
            self.too_slow[name] = ratio
            contender.close()
        else:
            contender.run_ms.clear()
            self.contenders[name] = contender

    def close(self) -> None:
        """Free every engine."""
        for contender in self.contenders.values():
            contender.close()


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of an error, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0]
    return f"{type(error).__name__}: {first[:160]}"


@dataclass(frozen=True)
class ContendersReport:
    """What was measured.

    Attributes:
        latency: End to end, in turn.
        run_ms: float64 ``[rounds]`` of the model alone, by contender; none where it cannot be timed apart.
        kept: Share of PyTorch's boxes and scores that a contender finds again.
        runners: Who took part.
        peak_mib: Of the process with all of them loaded.
    """

    latency: LatencyReport
    run_ms: Mapping[str, NDArray[np.float64]]
    kept: Mapping[str, float]
    runners: Runners
    peak_mib: float

    def run_ratio(self, name: str) -> Ratio | None:
        """The model alone over PyTorch's model alone."""
        if name not in self.run_ms:
            return None
        return ratio_of_rounds(self.run_ms[name] / self.run_ms[EAGER], self.latency.seed)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        facts = self.latency.as_json()
        for name, contender in self.runners.contenders.items():
            ratio = self.run_ratio(name)
            facts["rivals"][name] |= {
                "model_ms": [round(float(value), 3) for value in self.run_ms.get(name, ())],
                "model_ratio": vars(ratio) if ratio else None,
                "kept": self.kept[name],
                "load_s": contender.load_s,
                "megabytes": contender.megabytes,
            }
        slow = {
            name: {"first_call_cpu_ratio": ratio, "kept": self.kept[name]}
            for name, ratio in self.runners.too_slow.items()
        }
        return {**facts, "too_slow": slow, "absent": self.runners.absent, "peak_mib_of_process": self.peak_mib}

    def table(self) -> Table:
        """For people: one row a contender, and one for each that is absent."""
        facts = self.latency.context
        title = f"{facts['family']}, {facts['size_hw']}, {facts['phrases']} phrases, {self.latency.rounds} rounds"
        columns = ("", "p50 ms", "× PyTorch (95 %)", "CPU ×", "model alone, ms", "×", "boxes kept", "load s", "MB")
        rows = [self._row(name) for name in self.runners.contenders]
        rows += [
            (name, "-", "-", f"{ratio:.1f}, one call", "-", "-", f"{self.kept[name]:.1%}", "-", "-")
            for name, ratio in self.runners.too_slow.items()
        ]
        rows += [(name, *"-" * 8) for name in self.runners.absent]
        reasons = [f"{name} took no part: {reason}" for name, reason in self.runners.absent.items()]
        return Table(title, columns, rows, "\n".join([format_machine(dict(self.latency.machine)), *reasons]))

    def _row(self, name: str) -> tuple[str, ...]:
        contender, ratio = self.runners.contenders[name], self.run_ratio(name)
        return (
            name,
            f"{np.median(self.latency.series[name].wall_ms):,.0f}",
            str(self.latency.ratio(name)),
            f"{self.latency.cpu_ratio(name).median:.2f}",
            f"{np.median(self.run_ms[name]):,.0f}" if ratio else "-",
            str(ratio) if ratio else "-",
            f"{self.kept[name]:.1%}",
            f"{contender.load_s:.0f}",
            f"{contender.megabytes:,.0f}" if contender.megabytes else "-",
        )
