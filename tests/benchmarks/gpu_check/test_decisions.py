"""Decisions by precision, and engines one by one, on the CPU in the GPU's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from medprompt.benchmarks.gpu_check import decisions, engines, machine, real_engine, worker
from medprompt.benchmarks.gpu_check.notes import Notes, NotRun, Subject
from medprompt.benchmarks.latency.reference_pipeline import reference_family
from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import MedpromptError
from medprompt.runtime.detector import Detector
from tests.benchmarks.conftest import TinyDemo


def test_every_precision_is_judged_and_the_switches_are_set_back(
    tiny_demo: TinyDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "CALLS", 1)
    bundle = load_bundle(tiny_demo.report.out / "bundle")
    family = reference_family(bundle, tiny_demo.checkpoint)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    notes = Notes()
    decisions.decisions(bundle, family, "cpu", notes)
    assert list(notes.facts) == ["fp32", "TF32", "bf16", "fp16"]
    assert (notes.failures, notes.facts["fp32"]["kept"]) == ([], 1.0)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_fp32_that_decides_otherwise_fails(tiny_demo: TinyDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "CALLS", 1)
    monkeypatch.setattr(decisions, "PRECISIONS", {"fp32": decisions.PRECISIONS["fp32"]})
    bundle = load_bundle(tiny_demo.report.out / "bundle")
    family = reference_family(bundle, tiny_demo.checkpoint)
    with torch.no_grad():
        for parameter in family.model.parameters():
            parameter.mul_(1.5)
    notes = Notes()
    decisions.decisions(bundle, family, "cpu", notes)
    assert "kept" in notes.failed


def test_engines_are_timed_one_by_one(tiny_demo: TinyDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CPU_ROUNDS", 2)
    monkeypatch.setattr("medprompt.benchmarks.latency.run.roofline_of_bundle", lambda *_: None)
    notes = Notes()
    engines.time_engines(load_bundle(tiny_demo.report.out / "bundle"), None, notes)
    assert notes.failures == []
    assert notes.facts["ort-cpu"]["bundle on ort-cpu, p50 ms"] > 0
    assert notes.facts["ort-cpu, report"]["rounds"] == 2
    assert notes.facts["trt"].startswith("not run: ")


def test_a_real_engine_that_is_not_there_is_not_run(tiny_demo: TinyDemo) -> None:
    notes = Notes()
    real_engine.check_real_engines(Subject(tiny_demo.report.out / "bundle"), notes)
    assert set(notes.facts) == {"real trt", "real trt-rtx"}
    assert all("no engine file" in fact["status"] for fact in notes.facts.values())


class AnotherInThreads:
    """A detector whose shares find one detection fewer."""

    def __init__(self, found: Detections) -> None:
        self.found = found

    def __call__(self, image: object) -> Detections:
        return self.found

    @contextmanager
    def share(self) -> Iterator[AnotherInThreads]:
        yield AnotherInThreads(self.found[np.arange(len(self.found) - 1)])


def test_threads_of_a_real_engine_have_to_answer_alike(tiny_demo: TinyDemo) -> None:
    bundle = load_bundle(tiny_demo.report.out / "bundle")
    images = real_engine.golden_images(bundle)[:1]
    with Detector.load(bundle, "ort-cpu", threshold=0.0) as detector:
        real_engine._check_threads(detector, images)
        found = detector(images[0])
    with pytest.raises(MedpromptError, match="answers otherwise"):
        real_engine._check_threads(AnotherInThreads(found), images)  # type: ignore[arg-type]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
@pytest.mark.parametrize(
    "section",
    [
        machine.check_machine,
        worker.check_worker,
        decisions.check_decisions_on_gpu,
        engines.check_ort_cuda,
        engines.check_latency,
    ],
)
def test_without_a_gpu_no_section_runs_on_the_cpu(section: object) -> None:
    with pytest.raises(NotRun):
        section(Subject(), Notes())  # type: ignore[operator]
