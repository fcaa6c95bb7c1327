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


@dataclass
class Runners:
    """Everyone that takes part, and why others do not.

    Attributes:
        contenders: By name; the first is PyTorch in eager mode.
        found: What each found in each image.
        absent: Reason by name.
    """

    contenders: dict[str, Contender] = field(default_factory=dict)
    found: dict[str, list[Found]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def join(self, name: str, load: Callable[[], Contender], images: Sequence[Image]) -> None:
        """Load a contender and let it detect; one that fails is absent, with the first line of its error."""
        began = time.perf_counter()
        try:
            contender = load()
            contender.load_s = time.perf_counter() - began
            found = [contender(image) for image in images]
        except Exception as error:
            self.absent[name] = _reason(error)
        else:
            contender.run_ms.clear()
            self.contenders[name], self.found[name] = contender, found

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
        return {**facts, "absent": self.runners.absent, "peak_mib_of_process": self.peak_mib}

    def table(self) -> Table:
        """For people: one row a contender, and one for each that is absent."""
        facts = self.latency.context
        title = f"{facts['family']}, {facts['size_hw']}, {facts['phrases']} phrases, {self.latency.rounds} rounds"
        columns = ("", "p50 ms", "× PyTorch (95 %)", "CPU ×", "model alone, ms", "×", "boxes kept", "load s", "MB")
        rows = [self._row(name) for name in self.runners.contenders]
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
