"""Has a figure passed its limit? Yes, no, or the noise is too large to tell, with how much more it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.timing import RESAMPLES
from medprompt.metrics.curves import number


class Outcome(StrEnum):
    """What a check says."""

    passed = "passed"
    failed = "failed"
    unclear = "no verdict"


@dataclass(frozen=True)
class Check:
    """A change for the worse against its limit.

    Attributes:
        change: How much worse; what is better counts negative, or under 1 for ratios.
        low, high: 95 % interval of the change; both the change itself where it has no noise.
        limit: The maximum that is allowed.
        count: Images or rounds that it was measured on.
        unit: ``images`` or ``rounds``.
    """

    name: str
    change: float
    low: float
    high: float
    limit: float
    count: int
    unit: str

    @property
    def outcome(self) -> Outcome:
        """Passed where the whole interval is within the limit, failed where none of it is.

        What could not be measured at all is no verdict.
        """
        if not math.isfinite(self.change + self.low + self.high):
            return Outcome.unclear
        if self.high <= self.limit:
            return Outcome.passed
        return Outcome.failed if self.low > self.limit else Outcome.unclear

    @property
    def more(self) -> int | None:
        """How many more images or rounds would tell, if the change stays what it is.

        An interval narrows with the root of the count. None where there is a verdict, or where no count would do: the
        change lies on the limit, or could not be measured.
        """
        distance = abs(self.change - self.limit)
        if self.outcome is not Outcome.unclear or not distance > 0 or not math.isfinite(self.high - self.low):
            return None
        half = self.high - self.change if self.change < self.limit else self.change - self.low
        return max(1, math.ceil(self.count * (half / distance) ** 2) - self.count)

    @property
    def advice(self) -> str:
        """What to do about it; empty where it passed or failed."""
        if self.outcome is not Outcome.unclear:
            return ""
        if not math.isfinite(self.change):
            return "it could not be measured: nothing is labelled, or nothing was decided"
        return f"about {self.more} more {self.unit} would tell" if self.more else "it lies on the limit"

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "outcome": str(self.outcome),
            **{name: number(getattr(self, name)) for name in ("change", "low", "high")},
            "limit": self.limit,
            self.unit: self.count,
            "more": self.more,
        }


def exact(name: str, change: float, limit: float, count: int, unit: str) -> Check:
    """A check without noise."""
    return Check(name, change, change, change, limit, count, unit)


def latency_check(ratios: NDArray[np.float64], before: Sequence[float] | None, limit: float, seed: int = 0) -> Check:
    """How much longer the bundle takes, with the interval that both sides' rounds give.

    ``ratios``, float64 ``[rounds]``, are of now over the reference, ``before`` the baseline's over the same one; None
    where the reference is the old bundle itself.
    """
    random = np.random.default_rng(seed)
    median, draws = _medians(ratios, random)
    if before is not None:
        then, then_draws = _medians(np.array(before), random)
        median, draws = median / then, draws / then_draws
    low, high = np.percentile(draws, [2.5, 97.5])
    return Check("latency", float(median), float(low), float(high), limit, len(ratios), "rounds")


def _medians(ratios: NDArray[np.float64], random: np.random.Generator) -> tuple[float, NDArray[np.float64]]:
    drawn = random.integers(0, len(ratios), (RESAMPLES, len(ratios)))
    return float(np.median(ratios)), np.median(ratios[drawn], axis=1)
