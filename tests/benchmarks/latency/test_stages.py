"""Stages by the runtime's own steps, on a clock that only they move."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.benchmarks.latency import stages
from medprompt.benchmarks.latency.measure import LatencyOptions
from medprompt.benchmarks.latency.run import run_latency
from medprompt.benchmarks.latency.stages import STAGES, StageReport, measure_stages, peak_mib
from medprompt.core.errors import EngineError, ImageError, InputError
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.engines.ort import OnnxRuntime
from tests.benchmarks.conftest import TinyDemo
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_image

COST_MS = {"load_image": 1.0, "image_feeds": 2.0, "outputs": 30.0, "detections": 4.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / f"{n}.png", levels) for n, levels in enumerate(LEVELS[:3])]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each step costs what ``COST_MS`` says, and is written down."""
    clock, log = [0.0], []

    def costing(name: str, call: object) -> object:
        def costly(*given: object) -> object:
            log.append(name)
            clock[0] += COST_MS[name] / 1e3
            return call(*given)  # type: ignore[operator]

        return costly

    monkeypatch.setattr(stages.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(stages, "load_image", costing("load_image", stages.load_image))
    for name in ("image_feeds", "outputs", "detections"):
        monkeypatch.setattr(Detector, name, costing(name, getattr(Detector, name)))
    return log


def test_each_stage_has_the_time_of_its_step(bundle: Path, paths: list[Path], calls: list[str]) -> None:
    report = measure_stages(partial(Detector.load, bundle, "fake", self_test=False), paths, rounds=4, warmup=2)
    assert report.device == "fake"
    assert calls == list(COST_MS) * 6
    for name, cost in zip(STAGES, COST_MS.values(), strict=True):
        assert report.wall_ms[name] == pytest.approx([cost] * 4)
    content = json.loads(json.dumps(report.as_json()))
    assert content["first_ms"] == pytest.approx(37.0)
    assert content["stages"]["engine"] == pytest.approx({"p50_ms": 30.0, "p90_ms": 30.0, "share": 30 / 37})
    assert report.row() == ("fake", "1.00", "2.00", "30.00", "4.00")


def test_percentiles_are_of_the_rounds() -> None:
    times = {name: np.array([1.0, 2.0, 9.0]) for name in STAGES}
    stage = StageReport("x", 1.0, 2.0, times).as_json()["stages"]["decode"]
    assert stage == pytest.approx({"p50_ms": 2.0, "p90_ms": 7.6, "share": 0.25})


def test_nothing_to_time_is_refused(bundle: Path, paths: list[Path]) -> None:
    load = partial(Detector.load, bundle, "fake")
    for files, rounds, warmup in (([], 1, 1), (paths, 0, 1), (paths, 1, 0)):
        with pytest.raises(ValueError, match="expected a file, a round and a warm-up"):
            measure_stages(load, files, rounds, warmup)


HOLD = """
from medprompt.benchmarks.latency.stages import peak_mib
before = peak_mib()
held = bytearray(b"1") * (64 * 2**20)
print(before, peak_mib())
"""


def test_memory_grows_with_what_is_held() -> None:
    """In a process of its own: the tests' own peak may lie far over what it holds now."""
    done = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True, timeout=60)
    before, after = map(float, done.stdout.split())
    assert 0 < before < before + 32 < after < before + 64 + 512
    assert peak_mib() > 0


def test_without_a_checkpoint_the_first_engine_is_the_baseline(bundle: Path, paths: list[Path]) -> None:
    run = run_latency(bundle, paths, LatencyOptions(["fake"], rounds=3))
    content = json.loads(json.dumps(run.as_json()))
    assert content["baseline"] == "bundle on fake"
    assert (content["images"], content["rounds"], len(content["stages"])) == (3, 3, 1)
    assert set(content["peak_mib_of_process_so_far"]) == {"fake", "with all rivals"}
    assert content["floor"]["ms"] > 0
    tables = list(run.tables())
    assert [table.title for table in tables][1:] == ["Where the time goes", "Throughput", "How far from the limit"]
    assert list(content["throughput"][0]["by_batch"]) == ["1", "2", "4"]
    for table in tables:
        assert [len(row) for row in table.rows] == [len(table.columns)]


def test_pytorch_is_the_baseline_where_its_checkpoint_is_given(tiny_demo: TinyDemo, paths: list[Path]) -> None:
    bundle = tiny_demo.report.out / "bundle"
    run = run_latency(bundle, paths, LatencyOptions(["ort-cpu"], rounds=2), checkpoint=tiny_demo.checkpoint)
    assert list(run.latency.series) == ["PyTorch fp32", "bundle on ort-cpu"]


def test_the_parts_on_a_device_are_shown_where_there_are_some(
    bundle: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "on_gpu", True)
    assert measure_stages(partial(Detector.load, bundle, "fake"), paths, 2).device_ms == {}
    parts = {"host to device": 0.25, "compute": 3.0, "device to host": 0.5}
    monkeypatch.setattr(Fake, "device_stages_ms", lambda engine, feeds: parts)
    run = run_latency(bundle, paths, LatencyOptions(["fake"], rounds=3, batches=(), workers=()))
    table = next(table for table in run.tables() if "CUDA events" in table.title)
    assert (table.columns, table.rows) == (("", *parts), [("fake", "0.25", "3.00", "0.50")])
    assert run.as_json()["stages"][0]["on_device"]["compute"] == {"p50_ms": 3.0}
    assert run.stages[0].as_json()["on_device"]["host to device"] == {"p50_ms": 0.25}


class Mortal:
    """An engine that runs so many times."""

    def __init__(self, lives: int) -> None:
        self.lives, self.run = lives, OnnxRuntime.run

    def __call__(self, engine: OnnxRuntime, feeds: Mapping[str, Any]) -> dict[str, Any]:
        if not self.lives:
            raise EngineError("The engine died.", fix="restart it")
        self.lives -= 1
        return self.run(engine, feeds)


@pytest.mark.parametrize(("lives", "name"), [(1, "ort-cpu"), (6, "bundle on ort-cpu")], ids=["alone", "in turn"])
def test_an_engine_that_dies_is_told_and_the_others_go_on(
    lives: int, name: str, tiny_demo: TinyDemo, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, mortal = tiny_demo.report.out / "bundle", Mortal(lives)
    monkeypatch.setattr(OnnxRuntime, "run", lambda engine, feeds: mortal(engine, feeds))
    ways = LatencyOptions(["ort-cpu", "openvino"], rounds=3, warmup=2, batches=(), workers=())
    run = run_latency(bundle, paths, ways)
    assert list(run.latency.series) == ["bundle on openvino"]
    assert {key: value.splitlines()[0] for key, value in run.failures.items()} == {name: "The engine died."}
    assert run.as_json()["died"] == dict(run.failures)


def test_the_only_engine_that_dies_ends_the_run(
    tiny_demo: TinyDemo, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal = Mortal(1)
    monkeypatch.setattr(OnnxRuntime, "run", lambda engine, feeds: mortal(engine, feeds))
    with pytest.raises(EngineError, match="The engine died"):
        run_latency(tiny_demo.report.out / "bundle", paths, LatencyOptions(["ort-cpu"]))


def test_an_engine_that_does_not_exist_is_refused_before_anything(tiny_demo: TinyDemo, paths: list[Path]) -> None:
    with pytest.raises(EngineError, match="no such device"):
        run_latency(tiny_demo.report.out / "bundle", paths, LatencyOptions(["ort-cpu", "warp"]))


def test_bad_input(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more threads than cores"):
        run_latency(bundle, [], LatencyOptions(threads=999))
    with pytest.raises(ImageError):
        run_latency(bundle, [tmp_path / "none.png"], LatencyOptions(["fake"]))
