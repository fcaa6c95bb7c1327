"""All that we call of TensorRT is there: in TensorRT-RTX as installed, in TensorRT 10.1 to 11.4 on record."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medprompt.runtime.engines.tensorrt import TensorRt
from tests.runtime.engines.cuda_double import CudaDouble
from tests.runtime.engines.doubles import (
    ContextDouble,
    EngineDouble,
    RuntimeCacheDouble,
    RuntimeConfigDouble,
    TrtDouble,
)
from tests.tensorrt_api import (
    ASKED_FIRST,
    BUILD,
    COMMON,
    RECORD,
    all_names,
    can_ask,
    missing,
    names_used,
    renewed,
)

WHEELS = os.environ.get("MEDPROMPT_TENSORRT_WHEELS", "")
"""A folder of the wheels ``tensorrt_cu12_bindings`` that are on record."""

RECORDED = json.loads(RECORD.read_text())


def test_what_we_use_is_read_from_our_code() -> None:
    names = all_names()
    assert {
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_runtime_config",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.is_stream_capturable",
        "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.serialize",
        "DynamicShapesKernelSpecializationStrategy.LAZY",
        "TensorIOMode.INPUT",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
    } <= names
    assert names_used(COMMON) <= names


def test_tensorrt_rtx_has_all_of_it() -> None:
    assert missing(pytest.importorskip("tensorrt_rtx"), all_names()) == []


def test_the_record_knows_all_of_it() -> None:
    """If not: ``python -m tests.tensorrt_api WHEELS…`` renews it."""
    assert all_names() - set(RECORDED["names"]) == set()


@pytest.mark.parametrize("version", RECORDED["tensorrt"])
def test_tensorrt_has_all_that_is_not_of_rtx_alone(version: str) -> None:
    lacks = names_used([*COMMON, *BUILD]) - ASKED_FIRST & set(RECORDED["tensorrt"][version]["missing"])
    served = tuple(map(int, version.split(".")[:2])) >= TensorRt.least_version
    assert (not lacks) == served, lacks


def test_versions_on_record() -> None:
    """The oldest that is served and the one before it, and the newest of the two main versions."""
    assert list(RECORDED["tensorrt"]) == ["10.0.1", "10.1.0", "10.13.3.9", "11.4.0.106"]


@pytest.mark.parametrize("version", RECORDED["tensorrt"])
def test_a_runtime_that_is_null_is_a_type_error_as_in_the_double(version: str) -> None:
    library = TrtDouble(CudaDouble())
    library.refuses.add("Runtime")
    library.says = ""
    with pytest.raises(TypeError) as caught:
        library.Runtime(_Silent())
    assert RECORDED["tensorrt"][version]["null_runtime"] == f"TypeError: {caught.value}"


class _Silent:
    def log(self, severity: Any, message: str) -> None:
        pass


@pytest.mark.parametrize(
    ("double", "real"),
    [
        (EngineDouble, "ICudaEngine"),
        (ContextDouble, "IExecutionContext"),
        (RuntimeConfigDouble, "IRuntimeConfig"),
        (RuntimeCacheDouble, "IRuntimeCache"),
    ],
)
def test_the_doubles_have_no_methods_of_their_own(double: type, real: str) -> None:
    known = {name.split(".")[1] for name in RECORDED["names"] if name.startswith(f"{real}.")}
    assert {name for name, value in vars(double).items() if callable(value) and name[0] != "_"} <= known


@pytest.mark.slow
@pytest.mark.skipif(not WHEELS, reason="MEDPROMPT_TENSORRT_WHEELS names no folder of wheels")
@pytest.mark.skipif(not can_ask(), reason="no C compiler for the stub of the libraries")
def test_the_record_is_what_the_bindings_themselves_say() -> None:
    pytest.importorskip("tensorrt_rtx")
    assert renewed(Path(WHEELS).glob("*.whl")) == RECORDED
