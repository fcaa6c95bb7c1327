"""A Triton model repository that serves a bundle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from medprompt.bundles.external_data import external_locations
from medprompt.bundles.load import MODEL_FILE, Bundle, load_bundle
from medprompt.core.errors import BundleError, InputError
from medprompt.core.files import write_text
from medprompt.core.manifest import EngineRecord
from medprompt.core.outputs import folder_written_aside
from medprompt.runtime.engines import engine_class
from medprompt.runtime.selection.serving_options import check_threads
from medprompt.runtime.serving.contract import BANKS, BUNDLE_SHA256, ENGINE, VERSION
from medprompt.runtime.serving.prompting import banks_by_name
from medprompt.runtime.serving.triton.config import (
    BANK_FOLDER,
    BUNDLE,
    GRAPH,
    PRECISION,
    THREADS,
    detector_config,
    graph_config,
)

Backend = Literal["python", "onnx", "tensorrt"]

MODEL_PY = '''"""Triton's Python backend loads this. It needs medprompt in its environment, and no torch."""

from medprompt.runtime.serving.triton.model import DetectorModel as TritonPythonModel
'''

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
BUNDLE_FOLDER = "bundle"


@dataclass(frozen=True)
class Repository:
    """What was written: the folder, the name that clients ask for, and its banks, the first where they name none."""

    path: Path
    name: str
    banks: tuple[str, ...]
    bundle_sha256: str
    warnings: tuple[str, ...] = ()


def write_repository(
    bundle: Bundle | Path | str,
    out: Path,
    *,
    name: str = "",
    prompts: Sequence[Path | str] = (),
    backend: Backend = "python",
    device: str = "auto",
    threads: int | None = None,
    max_batch: int = 16,
    link: bool = False,
    force: bool = False,
) -> Repository:
    """Write a model repository, whole or not at all.

    Args:
        bundle: The bundle, or its folder; it is copied into the repository.
        out: The repository's folder.
        name: The model's name; of the bundle's folder where empty.
        prompts: Prompt banks that requests may name by their file's name; the first serves where they name none. The
            bundle's own is there as ``bundle``.
        backend: What computes the graph: an engine of ours within Triton's Python backend, or Triton's own backend of
            ONNX Runtime or TensorRT.
        device: Of ``python``: the engine, see ``Detector.load``.
        threads: Of ``python``: its CPU threads; the engine's own choice where None.
        max_batch: Most images in one request.
        link: Name the bundle's folder instead of copying it; it must lie there where Triton runs.
        force: Replace a repository that we wrote.

    Raises:
        InputError: A name that Triton or a file system does not take, two banks of one name, or ``out`` exists.
        BundleError: The bundle cannot be loaded, or has no engine of TensorRT.
        BankError: A bank that does not fit the bundle.
        EngineError: No such device.
    """
    path, files = bundle.path if isinstance(bundle, Bundle) else Path(bundle), [Path(one) for one in prompts]
    chosen = name or re.sub(r"[^A-Za-z0-9_-]+", "-", path.resolve().name.removesuffix(".bundle")).strip("-")
    _check(chosen, backend, device, threads, max_batch)
    with folder_written_aside(Path(out), "a Triton repository", inputs=[path, *files], force=force) as folder:
        loaded = load_bundle(bundle)
        banks = tuple(banks_by_name(loaded, files))
        record = _tensorrt_record(loaded) if backend == "tensorrt" else None
        graph = "" if backend == "python" else f"{chosen}_graph"
        parameters = {
            BUNDLE: str(path.resolve()) if link else BUNDLE_FOLDER,
            BUNDLE_SHA256: loaded.sha256,
            ENGINE: {"python": device, "onnx": "triton-onnxruntime", "tensorrt": "trt"}[backend],
            VERSION: version("medprompt"),
            BANKS: json.dumps(banks, ensure_ascii=False),
            THREADS: str(threads or ""),
            GRAPH: graph,
            PRECISION: record.precision if record else loaded.manifest.precision,
        }
        stated = {key: text for key, text in parameters.items() if text}
        config = detector_config(chosen, max_batch, stated, loaded.manifest)
        _write_detector(folder / chosen, loaded, files, config, copy=not link)
        if graph:
            _write_graph(folder / graph, loaded, record)
    return Repository(Path(out), chosen, banks, loaded.sha256, tuple(_warnings(record)))


def _check(name: str, backend: str, device: str, threads: int | None, max_batch: int) -> None:
    if not NAME.fullmatch(name):
        expected = "letters, digits, and . _ - within"
        raise InputError("The model's name is none that Triton takes.", where="name", expected=expected, got=name)
    if backend != "python" and (device != "auto" or threads is not None):
        raise InputError(
            "Triton's own backend chooses its device.",
            where="device, threads",
            expected="neither, with backend=onnx or backend=tensorrt",
            fix="leave them out, or pass backend=python",
        )
    if device != "auto":
        engine_class(device)
    check_threads(threads)
    check_threads(max_batch, "image", "max_batch")


def _tensorrt_record(bundle: Bundle) -> EngineRecord:
    for record in bundle.manifest.engines:
        one_file = record.compiled is not None and not record.compiled.phrases_path
        if record.device == "trt" and one_file and record.parity and record.parity.passed:
            return record
    raise BundleError(
        "The bundle has no engine of TensorRT that was proven.",
        where=str(bundle.path),
        expected="an engine of device trt",
        fix="medprompt compile BUNDLE --device trt on the GPU that serves, or backend=onnx",
    )


def _write_detector(model: Path, bundle: Bundle, banks: Sequence[Path], config: str, *, copy: bool) -> None:
    write_text(model / "config.pbtxt", config)
    served = model / "1"
    write_text(served / "model.py", MODEL_PY)
    if copy:
        shutil.copytree(bundle.path, served / BUNDLE_FOLDER)
    for path in banks:
        (served / BANK_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(path, served / BANK_FOLDER / path.name)


def _write_graph(model: Path, bundle: Bundle, record: EngineRecord | None) -> None:
    manifest = bundle.manifest
    backend = "tensorrt" if record else "onnxruntime"
    write_text(model / "config.pbtxt", graph_config(model.name, backend, manifest.inputs, manifest.outputs))
    served = model / "1"
    served.mkdir()
    if record and record.compiled:
        shutil.copyfile(bundle.path / record.compiled.path, served / "model.plan")
        return
    for name in (MODEL_FILE, *external_locations(bundle.model)):
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, served / name)


def _warnings(record: EngineRecord | None) -> list[str]:
    if record is None or record.compiled is None:
        return []
    compiled = record.compiled
    where = ", ".join(compiled.gpu_names or compiled.gpus)
    return [f"the engine loads on {where} with TensorRT {compiled.builder_version} only: take a Triton that has it"]
