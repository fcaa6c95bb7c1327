"""Planted faults, one at a time, on an engine and a clock that only the tests move; and re-runs that must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from medprompt.benchmarks.latency import timing
from medprompt.benchmarks.regression import reference_workload, regress
from medprompt.benchmarks.regression.baseline import Baseline
from medprompt.benchmarks.regression.reference_workload import ReferenceWorkload, calibrate_repeats
from medprompt.benchmarks.regression.regress import (
    Comparison,
    MeasurementOptions,
    compare_with_baseline,
    measure_baseline,
)
from medprompt.benchmarks.regression.report import junit, markdown
from medprompt.benchmarks.regression.verdict import Outcome
from medprompt.bundles.load import load_bundle
from medprompt.core.errors import DataError, InputError
from medprompt.data import DetectionSet, read_detection_set
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import fake
from medprompt.runtime.engines.fake import Fake
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set
from tests.runtime.bundles import make_bank, make_folder, record

ASKED = MeasurementOptions(device="fake", rounds=12, resamples=50)


class Machine:
    """A clock that the engine and the reference workload move, each round with 3 % noise; and a process.s memory."""

    def __init__(self) -> None:
        self.now, self.engine_ms, self.noise, self.peak_mib = 0.0, 5.0, 0.03, 100.0
        self._random = np.random.default_rng(0)

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter

    def work(self, ms: float) -> None:
        self.now += ms / 1e3 * float(np.exp(self._random.normal(0, self.noise)))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    run = Fake.run

    def slow_run(self: Fake, feeds: Mapping[str, Any]) -> dict[str, Any]:
        made.work(made.engine_ms)
        return run(self, feeds)

    monkeypatch.setattr(timing, "time", made)
    monkeypatch.setattr(Fake, "run", slow_run)
    monkeypatch.setattr(ReferenceWorkload, "__call__", lambda self: made.work(10.0))
    monkeypatch.setattr(regress, "peak_of_infer", lambda *_: made.peak_mib)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> list[DetectionSet]:
    return [read_detection_set(str(write_set(tmp_path_factory.mktemp("data") / "set", LEVELS * 3)))]


@pytest.fixture
def baseline(machine: Machine, folder: Path, labelled: list[DetectionSet]) -> Baseline:
    return measure_baseline(load_bundle(folder), labelled, "first", ASKED)


def failed(found: Comparison) -> set[str]:
    return {check.name.partition(",")[0] for check in found.of(Outcome.failed)}


def test_twenty_of_twenty_unchanged_reruns_pass(baseline: Baseline, folder: Path, labelled: list[DetectionSet]) -> None:
    found = [compare_with_baseline(folder, baseline, labelled, options=replace(ASKED, resamples=5)) for _ in range(20)]
    assert [one.outcome for one in found] == [Outcome.passed] * 20
    assert {check.change for one in found for check in one.checks if "loss" in check.name} == {0.0}


def test_a_category_without_an_object_is_on_both_sides(
    machine: Machine, folder: Path, labelled: list[DetectionSet]
) -> None:
    spare = [replace(labelled[0], labels=(*labelled[0].labels, "cells"))]  # Roboflow's category 0
    first = measure_baseline(load_bundle(folder), spare, "first", ASKED)
    assert compare_with_baseline(folder, first, spare, options=ASKED).outcome is Outcome.passed


@pytest.mark.parametrize(("slower", "outcome"), [(1.2, Outcome.failed), (1.5, Outcome.failed), (0.5, Outcome.passed)])
def test_a_slower_engine(
    slower: float, outcome: Outcome, machine: Machine, baseline: Baseline, folder: Path, labelled: list[DetectionSet]
) -> None:
    machine.engine_ms *= slower
    found = compare_with_baseline(folder, baseline, labelled, options=ASKED)
    assert found.outcome is outcome
    assert failed(found) == ({"latency"} if outcome is Outcome.failed else set())


@pytest.mark.parametrize(("more", "outcome"), [(1.2, Outcome.failed), (1.05, Outcome.passed), (0.5, Outcome.passed)])
def test_a_process_that_takes_more_memory(
    more: float, outcome: Outcome, machine: Machine, baseline: Baseline, folder: Path, labelled: list[DetectionSet]
) -> None:
    machine.peak_mib *= more
    found = compare_with_baseline(folder, baseline, labelled, options=ASKED)
    assert found.outcome is outcome
    assert failed(found) == ({"memory"} if outcome is Outcome.failed else set())


def test_a_noisy_clock_gives_no_verdict_and_says_what_it_would_take(
    machine: Machine, baseline: Baseline, folder: Path, labelled: list[DetectionSet]
) -> None:
    machine.noise, machine.engine_ms = 0.5, 5.3
    found = compare_with_baseline(folder, baseline, labelled, options=ASKED)
    assert found.outcome is Outcome.unclear
    (check,) = found.of(Outcome.unclear)
    assert check.name == "latency"
    assert (check.more or 0) > 0


def test_in_turn_with_the_old_bundle_the_baselines_times_do_not_count(
    machine: Machine, baseline: Baseline, folder: Path, labelled: list[DetectionSet]
) -> None:
    machine.engine_ms *= 3  # the machine is slower today, for both
    options = replace(ASKED, against=folder)
    assert compare_with_baseline(folder, baseline, labelled, options=options).outcome is Outcome.passed
    assert failed(compare_with_baseline(folder, baseline, labelled, options=ASKED)) == {"latency"}


def test_swapped_labels(baseline: Baseline, labelled: list[DetectionSet], tmp_path: Path) -> None:
    swapped = make_bank([{"label": "WBC", "phrases": ["a"]}, {"label": "RBC", "phrases": ["b"]}])
    other = make_folder(tmp_path / "bundle", swapped, engines=(record("fake"),))
    found = compare_with_baseline(other, baseline, labelled, options=ASKED)
    assert failed(found) >= {"AP50 loss", "FROC loss", "decisions lost"}


def reddish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine score redness, where it scores brightness else."""
    brightness = fake._brightness
    monkeypatch.setattr(fake, "_brightness", lambda image: brightness(image[..., :1]))


def test_red_and_blue_swapped(
    machine: Machine, folder: Path, labelled: list[DetectionSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    reddish(monkeypatch)
    tinted: Callable[[Any], Any] = lambda image: np.stack([image[..., 0], image[..., 1], 255 - image[..., 2]], axis=2)  # noqa: E731
    feeds = Detector.image_feeds
    monkeypatch.setattr(Detector, "image_feeds", lambda self, images: feeds(self, [tinted(one) for one in images]))
    before = measure_baseline(load_bundle(folder), labelled, "first", ASKED)
    assert compare_with_baseline(folder, before, labelled, options=ASKED).outcome is Outcome.passed
    monkeypatch.setattr(
        Detector, "image_feeds", lambda self, images: feeds(self, [tinted(one)[..., ::-1] for one in images])
    )
    found = compare_with_baseline(folder, before, labelled, options=ASKED)
    assert failed(found) >= {"AP50 loss", "FROC loss", "decisions lost"}


def test_a_stale_bank(labelled: list[DetectionSet], tmp_path: Path) -> None:
    """The same phrases with other vectors: scores move, which decisions show before AP does. Time is the real one."""
    bank = make_bank()
    bank = replace(bank, tensors={"vectors": bank.tensors["vectors"] * np.float32(0.5)})  # scores under 1
    stale = replace(bank, tensors={"vectors": bank.tensors["vectors"] * np.float32(0.8)})
    options = replace(ASKED, device="ort-cpu")
    bundle = load_bundle(make_folder(tmp_path / "bundle", bank, engines=(record("ort-cpu"),)))
    before = measure_baseline(bundle, labelled, "first", options)
    found = compare_with_baseline(bundle, before, labelled, options=replace(options, bank=stale))
    assert "decisions lost" in failed(found)


def test_a_raised_threshold(baseline: Baseline, labelled: list[DetectionSet], tmp_path: Path) -> None:
    """Nothing else changes: a class is reported from 0.85, where it was from the bundle's own threshold."""
    raised = make_bank(
        [
            {"label": "RBC", "phrases": ["red cell", "pale disc"]},
            {"label": "WBC", "phrases": ["white cell"], "threshold": 0.85},
        ]
    )
    other = make_folder(tmp_path / "bundle", raised, engines=(record("fake"),))
    assert failed(compare_with_baseline(other, baseline, labelled, options=ASKED)) == {"decisions lost"}
    old = baseline.model_copy(update={"thresholds": {}})  # written by another version, which did not keep them
    assert failed(compare_with_baseline(other, old, labelled, options=ASKED)) == set()


def test_a_grown_bundle(baseline: Baseline, folder: Path, labelled: list[DetectionSet]) -> None:
    smaller = baseline.model_copy(update={"bundle_bytes": baseline.bundle_bytes // 2})
    assert failed(compare_with_baseline(folder, smaller, labelled, options=ASKED)) == {"bundle size"}


def test_other_hardware_is_refused_unless_forced(
    baseline: Baseline, folder: Path, labelled: list[DetectionSet]
) -> None:
    elsewhere = baseline.model_copy(update={"environment": baseline.environment.model_copy(update={"cpu": "Z80"})})
    with pytest.raises(InputError, match="different hardware"):
        compare_with_baseline(folder, elsewhere, labelled, options=ASKED)
    forced = compare_with_baseline(folder, elsewhere, labelled, options=ASKED, allow_mismatch=True)
    assert "other hardware: then Z80" in forced.notes[0]


def test_what_does_not_compare_is_refused(
    baseline: Baseline, folder: Path, labelled: list[DetectionSet], tmp_path: Path
) -> None:
    def changed(**fields: Any) -> Baseline:
        return baseline.model_copy(update={"environment": baseline.environment.model_copy(update=fields)})

    with pytest.raises(InputError, match="another engine"):
        compare_with_baseline(folder, changed(device="openvino"), labelled, options=ASKED)
    with pytest.raises(InputError, match="different threads"):
        compare_with_baseline(folder, changed(threads=7), labelled, options=ASKED)
    with pytest.raises(DataError, match="not the baseline's data sets"):
        compare_with_baseline(folder, baseline, labelled * 2, options=ASKED)
    other = [read_detection_set(str(write_set(tmp_path / "other", LEVELS)))]
    with pytest.raises(InputError, match="not the one that the baseline was measured on"):
        compare_with_baseline(folder, baseline, other, options=ASKED)
    latency = baseline.latency.model_copy(update={"reference": "PyTorch fp32"})
    with pytest.raises(InputError, match="a different reference"):
        compare_with_baseline(folder, baseline.model_copy(update={"latency": latency}), labelled, options=ASKED)


def test_reports(machine: Machine, baseline: Baseline, folder: Path, labelled: list[DetectionSet]) -> None:
    machine.engine_ms *= 2
    odd = baseline.model_copy(update={"reason": "a | b\nc"})
    found = compare_with_baseline(folder, odd, labelled, options=ASKED)
    text = markdown(found)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(found.checks)
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert "❌ Bundle against baseline: failed" in text
    suite = ElementTree.fromstring(ElementTree.tostring(junit(found)))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (str(len(found.checks)), "1", "0")
    (case,) = [case for case in suite if len(case)]
    assert (case.get("name"), case[0].tag) == ("latency", "failure")


def test_the_reference_workload_works_about_as_long_as_what_it_measures(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.noise = 0.0  # a call of the reference workload takes 10 ms
    monkeypatch.setattr(reference_workload, "time", machine)
    assert calibrate_repeats(lambda: machine.work(52.0)) == 5
    assert calibrate_repeats(lambda: machine.work(1.0)) == 1


def test_the_reference_workload_repeats_its_work() -> None:
    made = ReferenceWorkload(2)
    made()
    assert np.allclose(made._product, made._left @ made._right, rtol=1e-4)
