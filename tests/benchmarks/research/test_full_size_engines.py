"""Engines of published sizes: the steps on a small model, and which there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from medprompt.benchmarks.research import full_size_checkpoints
from medprompt.benchmarks.research.full_size_engines import FAMILIES, compile_for, detect, make_bundle, steps
from medprompt.bundles.load import load_bundle
from medprompt.export.finetune.small_models.nanos import nano


def test_the_steps() -> None:
    names = list(steps())
    assert len(names) == 5 * len(FAMILIES)
    assert names[:3] == ["owlvit, export", "owlvit, ort-cpu", "owlvit, openvino"]


def test_a_small_model_goes_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(full_size_checkpoints, "full_size_checkpoint", nano)
    made = make_bundle(tmp_path, "owlvit")
    assert made["nodes"] > 100 and made["megabytes"] > made["fp16 megabytes"] > 0
    assert not (tmp_path / "owlvit-checkpoint").exists()
    asked = [detect(tmp_path, "owlvit", device)["detections"] for device in ("ort-cpu", "openvino")]
    assert asked[0] == asked[1] > 0
    exact, half = (compile_for(tmp_path, "owlvit", precision) for precision in ("fp32", "fp16"))
    assert exact["megabytes"] > half["megabytes"] > 0
    assert exact["MiB, 8 images"] > exact["MiB, 1 images"] > 0
    engines = load_bundle(tmp_path / "owlvit.bundle").manifest.engines
    assert [one.compiled.precision for one in engines if one.compiled] == ["fp32", "fp16"]
