"""Interleaved timing: contenders take turns in one process, so that what slows the machine slows all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.core.errors import MedpromptError

RESAMPLES = 2000
"""Bootstrap samples of a ratio: its interval then moves by less than its last printed digit."""

QUARTILES = (25, 75)

NORMAL_95 = 1.959964

BETWEEN_PROCESSES = 0.03
"""Relative scatter of a ratio from process to process, beyond what the rounds of one show: memory lies elsewhere, and
others use the machine. Twenty-one runs of the demo bundle in a row on a busy core scattered by 0.029.
"""

PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}


@dataclass(frozen=True)
class Ratio:
    """How many times as long as the baseline a contender takes, over rounds in which both ran.

    Attributes:
        median: Median of the rounds' ratios.
        low, high: 95 % interval of that median (bootstrap over blocks of rounds).
        again_low, again_high: 95 % prediction interval of the median of a further run: wider, for that
            run has an error of its own.
    """

    median: float
    low: float
    high: float
    again_low: float
    again_high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} … {self.high:.2f})"


@dataclass(frozen=True)
class Series:
    """The times of one contender.

    Attributes:
        wall_ms: float64 ``[rounds]``.
        cpu_ms: float64 ``[rounds]``: CPU time of the whole process in each call, all threads together. On a
            shared machine it says more than wall time does about the work itself.
        first_ms: The first call of all, which is not among the rounds.
        load_ms: What came before the first call, where that was measured.
    """

    wall_ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]
    first_ms: float
    load_ms: float | None = None

    @property
    def relative_iqr(self) -> float:
        """Interquartile range over the median."""
        low, high = np.percentile(self.wall_ms, QUARTILES)
        return float((high - low) / np.median(self.wall_ms))

    def as_json(self) -> dict[str, Any]:
        """Percentiles, mean, max, relative IQR, and all the times."""
        cuts = {name: float(np.percentile(self.wall_ms, cut)) for name, cut in PERCENTILES.items()}
        return {
            **cuts,
            "max_ms": float(self.wall_ms.max()),
            "mean_ms": float(self.wall_ms.mean()),
            "jitter": self.relative_iqr,
            "cpu_p50_ms": float(np.median(self.cpu_ms)),
            "first_ms": self.first_ms,
            "load_ms": self.load_ms,
            "wall_ms": [round(float(value), 3) for value in self.wall_ms],
        }


@dataclass(frozen=True)
class LatencyReport:
    """Contenders measured in turn.

    Attributes:
        series: By contender; the first one is the baseline.
        seed: Of the bootstrap.
        context: What was measured, as JSON values.
        machine: See ``describe_machine``.
        failures: Error of each contender that failed on the way and is not in ``series``.
    """

    series: Mapping[str, Series]
    seed: int = 0
    context: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The contender that the others are compared with."""
        return next(iter(self.series))

    @property
    def rounds(self) -> int:
        """How many timed rounds there were."""
        return len(self.series[self.baseline].wall_ms)

    def ratio(self, name: str, baseline: str | None = None) -> Ratio:
        """Wall time of a contender over that of the baseline, round by round."""
        return ratio_of_rounds(self.series[name].wall_ms / self.series[baseline or self.baseline].wall_ms, self.seed)

    def cpu_ratio(self, name: str, baseline: str | None = None) -> Ratio:
        """The same of CPU time."""
        return ratio_of_rounds(self.series[name].cpu_ms / self.series[baseline or self.baseline].cpu_ms, self.seed)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        contenders = {
            name: entry.as_json() | {"ratio": vars(self.ratio(name)), "cpu_ratio": vars(self.cpu_ratio(name))}
            for name, entry in self.series.items()
        }
        return {
            **self.context,
            "baseline": self.baseline,
            "rounds": self.rounds,
            "seed": self.seed,
            "rivals": contenders,
            "died": dict(self.failures),
            "machine": dict(self.machine),
        }

    def columns(self) -> tuple[str, ...]:
        """Headings of ``rows``."""
        times = ("p50 ms", "p90 ms", "p99 ms", "max ms", "first ms", "load ms")
        return ("", *times, "relative IQR", "wall, × the first (95 %)", "95 % prediction interval", "CPU, × the first")

    def rows(self) -> list[tuple[str, ...]]:
        """One row a contender, for tables."""
        return [self._row(name, entry.as_json()) for name, entry in self.series.items()]

    def _row(self, name: str, figures: dict[str, Any]) -> tuple[str, ...]:
        times = [figures[key] for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms", "first_ms", "load_ms")]
        shown = ("-" if value is None else f"{value:.1f}" for value in times)
        wall = self.ratio(name)
        again = f"{wall.again_low:.2f} … {wall.again_high:.2f}"
        return (name, *shown, f"{figures['jitter']:.1%}", str(wall), again, f"{self.cpu_ratio(name).median:.2f}")


def measure_latency(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    *,
    seed: int = 0,
    load_ms: Mapping[str, float] | None = None,
    context: Mapping[str, Any] | None = None,
    max_seconds: float | None = None,
    pause_s: float = 0.0,
    go_on: bool = False,
    after_round: Callable[[], None] = lambda: None,
) -> LatencyReport:
    """Call contenders in turn; the order rotates by one each round, so that none always follows the same one.

    Args:
        contenders: By name; the first is the baseline.
        rounds: Timed calls of each.
        warmup: Calls of each before them, at least one: the first call is reported apart.
        seed: Of the bootstrap that gives the ratios' intervals.
        load_ms: What loading each took.
        context: Kept in the report, as JSON values.
        max_seconds: Begin no further round once the rounds have taken this long.
        pause_s: Rest after each round, in seconds.
        go_on: Leave out a contender that fails, and say so in the report, as long as another one is left.
        after_round: Called after each timed round.

    Raises:
        ValueError: No contender, no round or no warm-up.
    """
    if not contenders or rounds < 1 or warmup < 1:
        raise ValueError(f"expected a contender, a round and a warm-up, got {len(contenders)}, {rounds}, {warmup}")
    machine = describe_machine()
    turns = _Turns(dict(contenders), go_on)
    first = {name: wall for name, (wall, _) in turns.round().items()}
    for _ in range(warmup - 1):
        turns.round()
    times: list[dict[str, tuple[float, float]]] = []
    began = time.perf_counter()
    for number in range(rounds):
        times.append(turns.round(number))
        after_round()
        if max_seconds is not None and time.perf_counter() - began >= max_seconds:
            break
        if pause_s:
            time.sleep(pause_s)
    loads = load_ms or {}
    series = {}
    for name in turns.alive:
        wall_ms, cpu_ms = np.array([one[name] for one in times]).T
        series[name] = Series(wall_ms, cpu_ms, first[name], loads.get(name))
    return LatencyReport(series, seed, context or {}, machine, turns.failures)


class _Turns:
    """Contenders that are called one after another; those that fail are recorded and called no more."""

    def __init__(self, contenders: dict[str, Callable[[], object]], go_on: bool) -> None:
        self.alive, self.go_on = contenders, go_on
        self.failures: dict[str, str] = {}

    def round(self, number: int = 0) -> dict[str, tuple[float, float]]:
        """Wall and CPU milliseconds of each, beginning with another one in every round."""
        times, names = {}, list(self.alive)
        start = number % len(names)
        for name in [*names[start:], *names[:start]]:
            try:
                times[name] = _timed(self.alive[name])
            except (MedpromptError, RuntimeError) as error:
                if not self.go_on or len(self.alive) == 1:
                    raise
                self.failures[name] = str(error)
                del self.alive[name]
        return times


def ratio_of_rounds(ratios: NDArray[np.float64], seed: int) -> Ratio:
    """Median and bootstrap interval of the ratios of single rounds: float64 ``[rounds]``."""
    medians = _medians_of_blocks(ratios, round(len(ratios) ** (1 / 3)), seed)
    low, high = (float(value) for value in np.percentile(medians, [2.5, 97.5]))
    median, again = float(np.median(ratios)), _reach_of_another_run(ratios, seed)
    if ratios.std():  # a contender over itself is 1 in every process
        again = float(np.hypot(again, NORMAL_95 * 2**0.5 * BETWEEN_PROCESSES * median))
    return Ratio(median, low, high, median - again, median + again)


def _medians_of_blocks(ratios: NDArray[np.float64], block: int, seed: int) -> NDArray[np.float64]:
    """Bootstrapped medians: blocks of rounds are drawn, for neighbours resemble each other."""
    count = len(ratios)
    starts = np.random.default_rng(seed).integers(0, count, (RESAMPLES, -(-count // block)))
    drawn = (starts[..., None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count] % count
    medians: NDArray[np.float64] = np.median(ratios[drawn], axis=1)
    return medians


def _reach_of_another_run(ratios: NDArray[np.float64], seed: int) -> float:
    """How far from this median another run's may lie: t · √2 · standard error, of as many degrees as there are blocks.

    Simulated (normal and heavy-tailed rounds, each like the one before by 0 … 0.6): 30 rounds reach 90 … 97 of 100
    further runs, 60 rounds 91 … 96. The interval of the median alone reaches 63 … 80.
    """
    block = round(len(ratios) ** 0.5)
    degrees = max(1.0, len(ratios) / block - 1)
    return _t95(degrees) * 2**0.5 * float(_medians_of_blocks(ratios, block, seed).std())


def _t95(degrees: float) -> float:
    """Student's t at 97.5 %, from the normal one by its expansion (Abramowitz and Stegun 26.7.5)."""
    z = NORMAL_95
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
