"""Precision stands in the ONNX: nothing here asks a builder for weak typing, which TensorRT 11 has dropped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REMOVED = re.compile(
    r"BuilderFlag\.(FP16|BF16|INT8|FP8|INT4|OBEY_PRECISION_CONSTRAINTS|PREFER_PRECISION_CONSTRAINTS)"
    r"|IInt8\w*Calibrator|int8_calibrator|set_calibration_profile|trtexec[^\n]*--(fp16|bf16|int8|best)\b"
    r"|EXPLICIT_BATCH|\.set_dynamic_range\("
)
FILES = sorted(
    path for room in ("medprompt", "export", "runtime", "benchmarks") for path in (ROOT / room).rglob("*.py")
)


@pytest.mark.parametrize(
    ("text", "removed"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", True),
        ("class Calibrator(trt.IInt8EntropyCalibrator2):", True),
        ("trtexec --onnx=m.onnx --fp16", True),
        ("config.set_flag(trt.BuilderFlag.TF32)", False),
        ("medprompt export --precision fp16", False),
    ],
)
def test_the_pattern_finds_what_it_is_for(text: str, removed: bool) -> None:
    assert bool(REMOVED.search(text)) == removed


def test_no_source_uses_a_removed_flag() -> None:
    assert len(FILES) > 60
    found = {
        str(path.relative_to(ROOT)): hit.group()
        for path in FILES
        if (hit := REMOVED.search(path.read_text(encoding="utf-8")))
    }
    assert not found
