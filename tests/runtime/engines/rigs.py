"""TensorRT engines on doubles."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from medprompt.prompts.assemble import prompt_inputs
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import ModelSource
from medprompt.runtime.engines.machine import Gpu
from medprompt.runtime.engines.tensorrt import TensorRt
from tests.runtime.bundles import SIZE_HW, make_bank, make_manifest
from tests.runtime.engines.cuda_double import CudaDouble
from tests.runtime.engines.doubles import ENGINE_BYTES, TrtDouble, compiled
from tests.runtime.engines.tap_doubles import DriverDouble

DEVICES = ["trt", "trt-rtx"]


@dataclass
class Rig:
    """An engine on doubles."""

    engine: TensorRt
    cuda: CudaDouble
    library: TrtDouble


def install(device: str, monkeypatch: pytest.MonkeyPatch) -> tuple[CudaDouble, TrtDouble]:
    cuda = CudaDouble()
    library = TrtDouble(cuda)
    monkeypatch.setenv("MEDPROMPT_KERNEL_CACHE", "off")
    monkeypatch.setitem(sys.modules, engine_class(device).package, library)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", DriverDouble(cuda))  # type: ignore[arg-type]
    monkeypatch.setattr("medprompt.runtime.engines.rtx_kernels.read_gpus", lambda: ((Gpu("RTX A4000", "sm86"),), ""))
    monkeypatch.setattr("medprompt.runtime.engines.rtx_kernels.driver_version", lambda: "580.65.06")
    for parent in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    return cuda, library


def opened(device: str, folder: Path) -> TensorRt:
    engine = engine_class(device).open(source(folder))
    assert isinstance(engine, TensorRt)
    return engine


def source(folder: Path, content: bytes = ENGINE_BYTES, **changes: Any) -> ModelSource:
    path = folder / "test.engine"
    path.write_bytes(content)
    return ModelSource(path, compiled(**changes), make_manifest().inputs, "polyp.bundle")


def made(device: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Rig:
    cuda, library = install(device, monkeypatch)
    return Rig(opened(device, folder), cuda, library)


def feeds(batch: int = 1, phrases: int = 3, level: int = 255) -> dict[str, np.ndarray]:
    classes = [{"label": "x", "phrases": [f"phrase {i}" for i in range(phrases)]}]
    image = np.full((batch, *SIZE_HW, 3), level, np.uint8)
    return {"image": image, **prompt_inputs(make_bank(classes), make_manifest().inputs)}
