"""A bundle against what a user would pick instead: everyone on a tiny checkpoint, and who cannot take part."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from medprompt.benchmarks.latency.reference_pipeline import ReferencePipeline
from medprompt.benchmarks.research import contenders_report
from medprompt.benchmarks.research.contender_steps import (
    Contender,
    bundle_contender,
    hub_pipeline_contender,
    pytorch_contender,
)
from medprompt.benchmarks.research.contenders import WHOLE_MODEL_ON, measure_contenders
from medprompt.benchmarks.research.contenders_report import EAGER, ContendersReport, Runners
from medprompt.bundles.load import load_bundle
from medprompt.core.errors import InputError
from medprompt.export.bundle import bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.parity.images import drawn_image
from medprompt.prompts.schema import Prompts
from medprompt.runtime.detector import Detector

SIZE_HW = (48, 64)
TEXTS = ["red cell", "white disc"]
PROMPTS = Prompts.model_validate({"classes": [{"label": text, "phrases": [text]} for text in TEXTS]})
NOTHING = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
SLOW = "torch.compile"
"""Minutes of a compiler, even for a tiny model."""


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("contenders") / "tiny.bundle"
    bundle_from_checkpoint(tiny_checkpoint("owlvit"), PROMPTS, out)
    return load_bundle(out)


@pytest.fixture(scope="module")
def images():
    return [drawn_image(SIZE_HW, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def report(bundle, images, tiny_checkpoint, tmp_path_factory) -> ContendersReport:
    work = tmp_path_factory.mktemp("whole")
    return measure_contenders(
        bundle, tiny_checkpoint("owlvit"), images, work, threads=1, rounds=2, without=(SLOW, "autocast", "whole")
    )


def test_everyone_takes_part_and_agrees(report):
    assert report.runners.absent == {}
    assert set(report.kept) == {EAGER, "Hub pipeline", "medprompt, ort-cpu", "medprompt, openvino"}
    assert all(share == 1.0 for name, share in report.kept.items() if name != "Hub pipeline")
    assert 0 <= report.kept["Hub pipeline"] <= 1  # it rounds boxes to whole pixels, which tiny ones do not survive


def test_the_model_alone_is_part_of_the_whole(report):
    assert set(report.run_ms) == set(report.kept) - {"Hub pipeline"}
    for name, alone in report.run_ms.items():
        assert len(alone) == report.latency.rounds == 2
        assert (alone <= report.latency.series[name].wall_ms).all()
    assert report.run_ratio("Hub pipeline") is None
    assert report.run_ratio(EAGER).median == 1.0


def test_table_and_json_say_the_same(report):
    table, facts = report.table(), report.as_json()
    assert [row[0] for row in table.rows] == list(report.kept)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert facts["rivals"][EAGER]["kept"] == 1.0
    assert facts["rivals"]["medprompt, ort-cpu"]["megabytes"] > 0
    assert facts["rivals"]["Hub pipeline"]["model_ratio"] is None


WHOLE = """
import json, sys
from pathlib import Path
from medprompt.benchmarks.research.contenders import measure_contenders
from medprompt.bundles.load import load_bundle
from medprompt.export.parity.images import drawn_image
bundle, checkpoint, work = sys.argv[1:]
without = ("torch.compile", "autocast", "Hub", "medprompt", "bf16")
image = drawn_image((48, 64), 0)
loaded = load_bundle(bundle)
found = measure_contenders(loaded, Path(checkpoint), [image], Path(work), threads=1, rounds=1, without=without)
print(json.dumps(found.as_json()))
"""


def test_the_whole_model_takes_part_and_agrees(bundle, tiny_checkpoint, tmp_path):
    """In a process of its own, as a user runs it: after OpenVINO ran it, TensorRT-RTX crashed in the same one."""
    words = [sys.executable, "-c", WHOLE, str(bundle.path), str(tiny_checkpoint("owlvit")), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["absent"] == {}
    assert set(facts["rivals"]) == {EAGER, *WHOLE_MODEL_ON} - {"OpenVINO bf16, whole model"}
    assert {contender["kept"] for contender in facts["rivals"].values()} == {1.0}
    assert facts["rivals"]["ONNX Runtime, whole model"]["megabytes"] > 0


def test_one_that_fails_is_named_with_its_reason(report):
    def load():
        raise RuntimeError("the top") from ValueError("\x1b[96mthe bottom\x1b[0m of it\nand more")

    runners = Runners(dict(report.runners.contenders))
    runners.join("broken", load, [np.zeros((4, 4, 3), np.uint8)])
    assert runners.absent == {"broken": "ValueError: the bottom of it"}
    shown = ContendersReport(report.latency, report.run_ms, report.kept, runners, 1.0).table()
    assert shown.rows[-1][0] == "broken"
    assert "broken took no part: ValueError: the bottom of it" in shown.caption


def test_one_call_of_a_very_slow_one_is_enough(report, monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 12.0, 12.0, 21.0])  # a call of one second, of eleven, of nine
    monkeypatch.setattr(contenders_report.time, "process_time", lambda: next(clock))
    closed: list[str] = []

    def one(name: str) -> Contender:
        contender = Contender(lambda image: image, lambda image: image, lambda *_: NOTHING)
        contender.close = lambda: closed.append(name)
        return contender

    runners = Runners()
    for name in (EAGER, "eleven times", "nine times"):
        runners.join(name, lambda name=name: one(name), [np.zeros((4, 4, 3), np.uint8)])
    assert list(runners.contenders) == [EAGER, "nine times"]
    assert runners.too_slow == {"eleven times": 11.0}
    assert closed == ["eleven times"]

    runners = Runners(dict(report.runners.contenders), too_slow={"slow": 11.04})
    shown = ContendersReport(report.latency, report.run_ms, {**report.kept, "slow": 0.5}, runners, 1.0)
    assert shown.table().rows[-1][:4] == ("slow", "-", "-", "11.0, one call")
    assert shown.as_json()["too_slow"] == {"slow": {"first_call_cpu_ratio": 11.04, "kept": 0.5}}


def test_what_cannot_run_omdet_turbo_is_said(tiny_checkpoint, images):
    runners = Runners()
    family = family_from_checkpoint(tiny_checkpoint("omdet-turbo"))
    runners.join("Hub pipeline", lambda: hub_pipeline_contender(family, TEXTS, 0.2), images)
    assert "missing 5 required positional arguments" in runners.absent["Hub pipeline"]


def test_a_bundle_s_steps_are_the_detector_s_call(bundle, images):
    with Detector.load(bundle, "ort-cpu", threshold=0.0, threads=1) as detector:
        boxes, scores = bundle_contender(detector)(images[0])
        whole = detector(images[0])
    np.testing.assert_array_equal(boxes, whole.boxes_xyxy)
    np.testing.assert_array_equal(scores, whole.scores)


def test_pytorch_s_steps_are_the_pipeline_s_call(tiny_checkpoint, images):
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    pipeline = ReferencePipeline(family, TEXTS, 0.0)
    boxes, scores = pytorch_contender(pipeline)(images[0])
    whole = pipeline(images[0])
    np.testing.assert_array_equal(boxes, whole["boxes"].numpy())
    np.testing.assert_array_equal(scores, whole["scores"].numpy())


def test_what_stands_in_the_model_s_place_is_asked(tiny_checkpoint, images):
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    asked = []

    def forward(**inputs):
        asked.append(sorted(inputs))
        return family.model(**inputs)

    ReferencePipeline(family, TEXTS, 0.0, forward=forward)(images[0])
    assert asked == [["attention_mask", "input_ids", "pixel_values"]]


def test_images_of_several_sizes_are_refused(bundle, images, tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="one size of image"):
        other = [images[0], drawn_image((32, 32), 0)]
        measure_contenders(bundle, tiny_checkpoint("owlvit"), other, tmp_path, threads=1, rounds=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler imports it
def test_torch_compile_takes_part(bundle, images, tiny_checkpoint, tmp_path):
    found = measure_contenders(
        bundle, tiny_checkpoint("owlvit"), images, tmp_path, threads=1, rounds=1, without=("whole", "Hub", "medprompt")
    )
    assert SLOW in found.kept, found.runners.absent
    assert found.kept[SLOW] == 1.0
    torch.compiler.reset()
