"""A builder's package that compiles, or the reason to skip; small bundles; a double of ``tensorrt``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medprompt.export.compile.options import CompileOptions
from tests.export.compile.double import TensorRtDouble
from tests.runtime.bundles import make_folder


@pytest.fixture
def rtx() -> None:
    """Skip where TensorRT-RTX is absent."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'medprompt[trt-rtx]'")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "bundle")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> TensorRtDouble:
    """``tensorrt`` as a double, on a machine with one RTX A4000."""
    double = TensorRtDouble()
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    return double


def options(
    *gpus: str, device: str = "trt-rtx", precision: str = "fp32", max_phrases: int | None = None
) -> CompileOptions:
    return CompileOptions(device, precision, gpus, max_phrases=max_phrases)
