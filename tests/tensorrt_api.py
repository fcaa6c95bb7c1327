"""Which names of TensorRT's bindings we call, read from our code; which of them each version has, on record.

``python -m tests.tensorrt_api WHEELS…`` renews the record of wheels such as ``tensorrt_cu12_bindings``. Each is
imported over a stub of the libraries, which are not on PyPI, so that every class can be asked. Needs ``cc``.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORD = HERE / "tensorrt_api.json"

COMMON = ["runtime/engines/tensorrt.py", "runtime/engines/tensorrt_plan.py", "runtime/engines/tensorrt_slot.py"]
RTX_ONLY = ["runtime/engines/rtx_kernels.py"]
BUILD = sorted(path.relative_to(HERE.parent).as_posix() for path in (HERE.parent / "export/compile").glob("*.py"))

RUNTIME_NAMES = {
    "library": "",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "handle": "IExecutionContext",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig",
    "_eager": "IRuntimeConfig",
    "_cache": "IRuntimeCache",
    "strategies": "DynamicShapesKernelSpecializationStrategy",
}
BUILD_NAMES = {
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
}
"""What a variable of that name holds: a class of the bindings, or the bindings themselves."""

OURS = {"IExecutionContext": {"lazy", "handle", "sizes", "outputs", "workspace", "generation"}}
"""Attributes of our own class whose variables are called alike."""

OPTIONS = {"BuilderFlag", "HardwareCompatibilityLevel", "PreviewFeature"}
"""Classes whose members are switched on where there are such."""

ASKED_FIRST = {"ComputeCapability", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
"""Called only where the bindings have them."""

STUB = """
void *createInferBuilder_INTERNAL(void) { return 0; }
void *createInferRefitter_INTERNAL(void) { return 0; }
void *createInferRuntime_INTERNAL(void) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return 0; }
void *createNvOnnxParser_INTERNAL(void) { return 0; }
void *getBuilderPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void *getPluginRegistry(void) { return 0; }
int initLibNvInferPlugins(void) { return 0; }
"""
"""Every factory answers NULL, which is also what a real library answers where CUDA does not start."""


def names_used(files: Iterable[str]) -> set[str]:
    """``Class.attribute`` of everything that the files ask of TensorRT's bindings."""
    return {name for file in files for name in _names_of(file)}


def _names_of(file: str) -> Iterator[str]:
    roles = BUILD_NAMES if file in BUILD else RUNTIME_NAMES
    for node in ast.walk(ast.parse((HERE.parent / file).read_text())):
        parts = _dotted(node)
        if parts is None:
            continue
        for place, owner in ((place, roles[part]) for place, part in enumerate(parts[:-1]) if part in roles):
            asked = parts[place + 1 :]
            if asked[0] in OURS.get(owner, ()) or asked[0].startswith("__"):
                continue
            yield ".".join(filter(None, [owner, *(asked if not owner else asked[:1])]))
            break


def _dotted(node: ast.AST) -> list[str] | None:
    """``a.b.c`` as its parts; None for what is no such expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if not isinstance(node, ast.Attribute):
        return None
    before = _dotted(node.value)
    return None if before is None else [*before, node.attr]


def missing(bindings: Any, names: Iterable[str]) -> list[str]:
    """Those names that the bindings do not have."""
    return sorted(name for name in names if not _has(bindings, name))


def _has(bindings: Any, name: str) -> bool:
    try:
        reduce(getattr, name.split("."), bindings)
    except AttributeError:
        return False
    return True


def all_names() -> set[str]:
    """What we use of full TensorRT and of TensorRT-RTX."""
    return names_used([*COMMON, *RTX_ONLY, *BUILD])


def ask_wheel(wheel: Path, names: Iterable[str]) -> dict[str, Any]:
    """Import a wheel of bindings in a process of its own: its version, and the names it lacks."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        (root / "stub.c").write_text(STUB)
        major = wheel.name.split("-")[1].split(".")[0]
        for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            target = root / f"lib{library}.so.{major}"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", target, root / "stub.c"], check=True)
        here = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": os.pathsep.join([folder, str(HERE.parent)])}
        code = f"from tests.tensorrt_api import say; say('tensorrt_bindings', {sorted(names)!r})"
        done = subprocess.run([sys.executable, "-c", code], env=here, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def say(package: str, names: Iterable[str]) -> None:
    """For ``ask_wheel``: print what a package lacks, and how it says that a factory answered NULL."""
    bindings = importlib.import_module(package)
    try:
        bindings.Runtime(bindings.Logger())
        null = ""
    except Exception as error:
        null = f"{type(error).__name__}: {error}"
    found = {"version": bindings.__version__, "missing": missing(bindings, names), "null_runtime": null}
    sys.stdout.write(json.dumps(found))


def can_ask() -> bool:
    """Whether there is a C compiler for the stub."""
    return shutil.which("cc") is not None


def known_names() -> set[str]:
    """What we use, and what else TensorRT-RTX has in those classes and in those of options that we may take up."""
    rtx = importlib.import_module("tensorrt_rtx")
    used = all_names()
    classes = {name.split(".")[0] for name in used if isinstance(getattr(rtx, name.split(".")[0]), type)} | OPTIONS
    return used | {f"{one}.{name}" for one in classes for name in dir(getattr(rtx, one)) if not name.startswith("_")}


def renewed(wheels: Iterable[Path]) -> dict[str, Any]:
    """The record: names that TensorRT-RTX has, and which of them each version of TensorRT lacks."""
    names = sorted(known_names())
    asked = sorted(
        (ask_wheel(wheel, names) for wheel in wheels), key=lambda one: [*map(int, one["version"].split("."))]
    )
    return {"names": names, "tensorrt": {one.pop("version"): one for one in asked}}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(renewed(map(Path, sys.argv[1:])), indent=1) + "\n")
