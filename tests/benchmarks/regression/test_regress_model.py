"""Faults planted in the demo checkpoint's own bundle, each of which verifies and runs: only its answers tell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from medprompt.benchmarks.demo import CHECKPOINT, IMAGES, PROMPTS
from medprompt.benchmarks.regression.baseline import Baseline
from medprompt.benchmarks.regression.regress import (
    Comparison,
    MeasurementOptions,
    compare_with_baseline,
    measure_baseline,
)
from medprompt.benchmarks.regression.verdict import Outcome
from medprompt.bundles.load import MODEL_FILE, load_bundle, write_manifest
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.families.omdet_turbo import OmDetTurbo
from medprompt.export.precision.blocks import blocks_of_model
from medprompt.export.precision.cast import naive_model

pytestmark = (
    pytest.mark.slow
)  # the demo checkpoint is exported for it, a minute or more; .ci/run has it in its slow part

ASKED = MeasurementOptions(device="ort-cpu", rounds=2, warmup=1, resamples=50)
Change = Callable[[Any], Any]
Judge = Callable[[Change], Comparison]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("regress") / "bundle"
    return bundle_from_checkpoint(CHECKPOINT, PROMPTS, out, ExportOptions(images=IMAGES / "bccd")).path


@pytest.fixture(scope="module")
def labelled() -> list[DetectionSet]:
    return [read_detection_set(str(IMAGES / "bccd" / "labels.json"))]


@pytest.fixture(scope="module")
def baseline(bundle: Path, labelled: list[DetectionSet]) -> Baseline:
    return measure_baseline(load_bundle(bundle), labelled, "first", ASKED)


@pytest.fixture
def judged(bundle: Path, baseline: Baseline, labelled: list[DetectionSet], tmp_path: Path) -> Judge:
    """Copy the bundle, change its model, sign it anew, and compare."""

    def judge(change: Change) -> Comparison:
        copy = shutil.copytree(bundle, tmp_path / "copy", dirs_exist_ok=True)
        onnx.save(change(onnx.load(str(copy / MODEL_FILE))), str(copy / MODEL_FILE))
        write_manifest(copy, load_bundle(bundle).manifest)
        return compare_with_baseline(copy, baseline, labelled, options=ASKED)

    return judge


def failed(found: Comparison) -> set[str]:
    """Of the accuracy checks: time is the real one here, and no fault's business."""
    return {check.name.partition(",")[0] for check in found.of(Outcome.failed)} - {"latency"}


def test_nothing_changed(judged: Judge) -> None:
    assert failed(judged(lambda model: model)) == set()


def weights_of(model: Any, part: str) -> list[Any]:
    """The constants of the nodes whose name says ``part``, each once."""
    named = {tensor.name: tensor for tensor in model.graph.initializer}
    places = [name for node in model.graph.node if part in node.name for name in node.input]
    return [named[name] for name in dict.fromkeys(places) if name in named]


def changed(tensor: Any, array: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))


def shifted(model: Any) -> Any:
    """What the proposals' norm gets, larger by 512, which it takes out again: in fp32 the same function."""
    named = {tensor.name: tensor for tensor in model.graph.initializer}
    bias = named["core.model.decoder.encoder_vision_features.0.bias"]
    changed(bias, numpy_helper.to_array(bias) + 512)
    return model


def naive_fp16(model: Any) -> Any:
    return naive_model(model, blocks_of_model(model, OmDetTurbo.blocks))


def corrupted(model: Any) -> Any:
    """One layer's weights reordered: finite, of the same mean and spread, and wrong."""
    (weight,) = weights_of(model, "decoder.layers.1.linear2/MatMul")
    array = numpy_helper.to_array(weight)
    changed(weight, np.random.default_rng(0).permutation(array.ravel()).reshape(array.shape))
    return model


def test_naive_fp16_damage(judged: Judge) -> None:
    """At 512 half precision counts in halves. The same model in fp32 passes."""
    assert failed(judged(shifted)) == set()
    assert "decisions lost" in failed(judged(lambda model: naive_fp16(shifted(model))))


def test_a_corrupted_weight_block(judged: Judge) -> None:
    assert "decisions lost" in failed(judged(corrupted))


def test_bicubic_for_bilinear(bundle: Path, baseline: Baseline, labelled: list[DetectionSet]) -> None:
    loaded = load_bundle(bundle)
    assert loaded.manifest.preprocess.resample == "bilinear"
    preprocess = loaded.manifest.preprocess.model_copy(update={"resample": "bicubic"})
    wrong = replace(loaded, manifest=loaded.manifest.model_copy(update={"preprocess": preprocess}))
    assert "decisions lost" in failed(compare_with_baseline(wrong, baseline, labelled, options=ASKED))
