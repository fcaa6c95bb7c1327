"""The clock's arithmetic, on a clock that only the contenders move."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from medprompt.benchmarks.latency import timing
from medprompt.benchmarks.latency.machine import check_threads, describe_machine, format_machine, usable_cores
from medprompt.benchmarks.latency.timing import LatencyReport, Series, measure_latency, ratio_of_rounds
from medprompt.core.errors import InputError


class Clock:
    """Stands in for the ``time`` module; the CPU's time runs at half speed."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def contender(clock: Clock, log: list[str], name: str, seconds: list[float]) -> Callable[[], object]:
    """Takes the next of ``seconds`` each time it is called, the last one for ever."""

    def call() -> None:
        log.append(name)
        clock.now += seconds.pop(0) if len(seconds) > 1 else seconds[0]

    return call


def test_ratios_and_percentiles_are_those_of_the_timed_rounds(clock: Clock) -> None:
    log: list[str] = []
    calls = {"a": contender(clock, log, "a", [9.0, 0.002]), "b": contender(clock, log, "b", [8.0, 0.006])}
    report = measure_latency(calls, rounds=4, warmup=1, load_ms={"b": 70.0}, context={"threads": 1})
    assert report.series["a"].first_ms == pytest.approx(9000)
    assert report.series["a"].load_ms is None
    figures = report.as_json()["rivals"]["b"]
    assert {name: figures[name] for name in ("p50_ms", "p99_ms", "max_ms", "mean_ms", "cpu_p50_ms")} == {
        "p50_ms": pytest.approx(6),
        "p99_ms": pytest.approx(6),
        "max_ms": pytest.approx(6),
        "mean_ms": pytest.approx(6),
        "cpu_p50_ms": pytest.approx(3),
    }
    assert figures["load_ms"] == 70.0
    assert report.ratio("b").median == pytest.approx(3)
    assert report.ratio("a", baseline="b").median == pytest.approx(1 / 3)
    assert report.cpu_ratio("b").median == pytest.approx(3)


def test_the_order_rotates_so_that_none_always_follows_the_same(clock: Clock) -> None:
    log: list[str] = []
    ended: list[int] = []
    calls = {name: contender(clock, log, name, [0.001]) for name in "abc"}
    measure_latency(calls, rounds=3, warmup=2, after_round=lambda: ended.append(len(log)))
    assert "".join(log) == "abcabcabcbcacab"
    assert ended == [9, 12, 15]


@pytest.mark.parametrize("max_seconds, rounds", [(None, 9), (0.0, 1), (0.009, 3), (60.0, 9)])
def test_no_round_begins_after_the_time_is_up(clock: Clock, max_seconds: float | None, rounds: int) -> None:
    calls = {"a": contender(clock, [], "a", [0.003])}
    report = measure_latency(calls, rounds=9, max_seconds=max_seconds)
    assert report.as_json()["rounds"] == len(report.series["a"].wall_ms) == rounds


@pytest.mark.parametrize("rounds, warmup, names", [(0, 1, "a"), (1, 0, "a"), (1, 1, "")])
def test_nothing_to_measure_is_refused(clock: Clock, rounds: int, warmup: int, names: str) -> None:
    with pytest.raises(ValueError, match="expected a contender"):
        measure_latency({name: lambda: None for name in names}, rounds, warmup)


@pytest.mark.parametrize(
    "ratios, median",
    [([2.0], 2.0), ([1.0, 3.0], 2.0), ([0.5, 0.5, 0.5, 0.5, 40.0], 0.5)],
)
def test_ratio_is_a_median_within_its_interval(ratios: list[float], median: float) -> None:
    ratio = ratio_of_rounds(np.array(ratios), seed=0)
    assert ratio.median == pytest.approx(median)
    assert min(ratios) <= ratio.low <= ratio.median <= ratio.high <= max(ratios)
    assert ratio == ratio_of_rounds(np.array(ratios), seed=0)


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_another_runs_median_lies_where_it_is_expected(alike: float) -> None:
    rng = np.random.default_rng(3)

    def rounds() -> np.ndarray:
        noise = rng.standard_normal(40)
        for number in range(1, 40):
            noise[number] = alike * noise[number - 1] + (1 - alike**2) ** 0.5 * noise[number]
        return 0.45 * (1 + 0.05 * noise)

    pairs = [(ratio_of_rounds(rounds(), 0), float(np.median(rounds()))) for _ in range(60)]
    inside = sum(ratio.again_low <= other <= ratio.again_high for ratio, other in pairs)
    assert inside >= 52
    assert all(ratio.again_low <= ratio.low and ratio.high <= ratio.again_high for ratio, _ in pairs[:10])


def test_one_freak_round_does_not_move_the_ratio() -> None:
    steady = ratio_of_rounds(np.full(21, 0.5), 0)
    freak = ratio_of_rounds(np.array([*np.full(20, 0.5), 99.0]), 0)
    assert (freak.median, freak.high) == (steady.median, steady.high)


def test_report_is_json_and_rows_fit_the_columns() -> None:
    series = Series(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]), first_ms=9.0)
    report = LatencyReport({"only": series})
    assert json.loads(json.dumps(report.as_json()))["rivals"]["only"]["p50_ms"] == 2.0
    assert [len(row) for row in report.rows()] == [len(report.columns())]
    assert report.rows()[0][:2] == ("only", "2.0")


def test_machine_names_hardware_and_libraries() -> None:
    machine = describe_machine()
    assert machine["cores_usable"] >= 1
    assert machine["libraries"]["numpy"] == np.__version__
    assert machine["libraries"]["medprompt"] != "not installed"
    assert machine["cpu"] in format_machine(machine)


@pytest.mark.parametrize("load, busy", [(0.5, False), (2.0, False), (2.1, True), (None, False)])
def test_a_busy_machine_is_said_to_be_busy(load: float | None, busy: bool) -> None:
    machine = describe_machine() | {"cores_usable": 2, "load_1min": load}
    assert ("was busy" in format_machine(machine)) == busy


def test_more_threads_than_cores_or_none_are_refused() -> None:
    check_threads(usable_cores())
    for threads in (0, usable_cores() + 1):
        with pytest.raises(InputError, match="more threads than cores"):
            check_threads(threads)


def test_another_process_may_differ_even_where_rounds_do_not() -> None:
    steady = ratio_of_rounds(np.array([0.5, 0.5, 0.5001] * 10), seed=0)
    assert steady.high - steady.low < 0.001
    assert steady.again_high - steady.median == pytest.approx(0.5 * 0.03 * 1.96 * 2**0.5, rel=0.01)
    itself = ratio_of_rounds(np.ones(30), seed=0)
    assert (itself.again_low, itself.again_high) == (1.0, 1.0)
