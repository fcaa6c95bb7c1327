"""May a compiled engine be loaded here? It holds machine code: another GPU, version or system must not try.

The answers are sentences, since ``doctor`` and the choice of a device print them; an empty one means yes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medprompt.core.errors import EngineError
from medprompt.core.files import resolve_within, sha256_of_file
from medprompt.core.manifest import CompiledEngine, EngineRecord, Manifest, TensorSpec
from medprompt.core.packages import install_command
from medprompt.runtime.engines.machine import Machine

BUILDERS = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
"""Python package that compiles and loads the engines of a device."""


def check_compiled(record: EngineRecord, found: Machine, bundle: Path | str = "BUNDLE") -> str:
    """Say why an engine must not be loaded on a machine; empty if it may.

    Returns:
        What it was built for, what was found, and the exact command that builds one for this machine. The file
        itself is ``check_engine_file``'s business.
    """
    compiled = record.compiled
    if compiled is None:
        return f"the bundle has no engine file for {record.device}: {_make_command(record, found, bundle)}"
    rebuild = rebuild_command(compiled, bundle, tuple(dict.fromkeys(gpu.sm for gpu in found.gpus)))
    return _package_problem(compiled, found, record.device, rebuild) or _machine_problem(compiled, found, rebuild)


def check_engine_file(folder: Path, manifest: Manifest, compiled: CompiledEngine) -> str:
    """Say why a file of an engine must not be loaded: absent, cut short or changed; empty if all may.

    ``load_bundle`` checks the same at the start; this is for the moment of loading.
    """
    problem = next(filter(None, (_file_problem(folder, manifest, name) for name in compiled.files)), "")
    return f"{problem}; rebuild it: {rebuild_command(compiled, folder)}" if problem else ""


def _file_problem(folder: Path, manifest: Manifest, name: str) -> str:
    entry, path = manifest.files.get(name), resolve_within(folder, name)
    if entry is None or path is None:
        return f"the manifest does not list {name}"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"{name} is not whole: expected {entry.bytes} bytes, found {size}"
    digest = sha256_of_file(path)
    return "" if digest == entry.sha256 else f"{name} has changed: expected sha256 {entry.sha256}, found {digest}"


def check_request(
    compiled: CompiledEngine,
    inputs: Sequence[TensorSpec],
    shapes: Mapping[str, Sequence[int]],
    bundle: Path | str = "BUNDLE",
) -> None:
    """Refuse sizes that the engine was not compiled for.

    Raises:
        EngineError: A size outside its axis' range; it names profile and request.
    """
    for spec in inputs:
        for axis, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            bounds = compiled.axes.get(axis) if isinstance(axis, str) else None
            if bounds is None or bounds.least <= size <= bounds.most:
                continue
            raise EngineError(
                "The request exceeds the sizes that the engine was compiled for.",
                where=f"{compiled.path}: {spec.name}, axis {axis} ({AXIS_WORDS.get(str(axis), axis)})",
                expected=f"{bounds.least} … {bounds.most} (the engine's profile)",
                got=str(size),
                fix=_widen(compiled, str(axis), size, bundle),
            )


AXIS_WORDS = {
    "B": "images a batch",
    "P": "phrases",
    "T": "text tokens",
    "L": "tokens of the longest phrase or task",
    "C": "classes",
    "H": "source height",
    "W": "source width",
}
"""What the axis names of ``TensorSpec.shape`` count."""


def rebuild_command(
    compiled: CompiledEngine,
    bundle: Path | str = "BUNDLE",
    gpus: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> str:
    """The command line that compiles an engine again.

    ``gpus`` are compute capabilities instead of its own, ``sizes`` new upper ends by axis name.
    """
    device = next(name for name, package in BUILDERS.items() if package == compiled.builder)
    parts = ["medprompt compile", shlex.quote(str(bundle)), f"--engine {device}"]
    if device == "trt-rtx":  # tensorrt compiles for the GPU it runs on, and knows no other
        parts.append(f"--gpu {','.join(gpus or compiled.gpus)}")
    parts += [f"--precision {compiled.precision}", *(["--tf32"] if compiled.tf32 else [])]
    upper = {axis: bounds.most for axis, bounds in compiled.axes.items()} | dict(sizes or {})
    for option, axis in (("--max-batch", "B"), ("--max-phrases", "P"), ("--max-tokens", "T")):
        parts += [f"{option} {upper[axis]}"] if axis in upper else []
    parts += [f"--max-source {upper['H']}x{upper['W']}"] if {"H", "W"} <= set(upper) else []
    return " ".join(parts)


def _make_command(record: EngineRecord, found: Machine, bundle: Path | str) -> str:
    gpu = f" --gpu {found.gpus[0].sm}" if record.device == "trt-rtx" and found.gpus else ""
    return f"medprompt compile {shlex.quote(str(bundle))} --engine {record.device}{gpu} --precision {record.precision}"


def _package_problem(compiled: CompiledEngine, found: Machine, device: str, rebuild: str) -> str:
    problem = found.problems.get(compiled.builder, "")
    if problem:
        return problem
    version = found.packages.get(compiled.builder)
    if version is None:
        return f"{compiled.builder} is not installed: {install_command(device)}"
    if version == compiled.builder_version:
        return ""
    built = f"built with {compiled.builder} {compiled.builder_version}, found {version}"
    return f"{built}; install that version, or rebuild: {rebuild}"


def _machine_problem(compiled: CompiledEngine, found: Machine, rebuild: str) -> str:
    if not _same_system(compiled, found.system):
        return f"built for {compiled.system}, found {found.system}; rebuild on such a system: {rebuild}"
    if not found.gpus:
        return f"no GPU: {found.no_gpu}"
    here = found.gpus[0]
    if here.sm not in compiled.gpus:
        return f"built for {', '.join(compiled.gpus)}, found {here}; rebuild: {rebuild}"
    if compiled.builder == ONE_MODEL and here.name not in compiled.gpu_names:
        built = ", ".join(compiled.gpu_names) or "a GPU whose model was not recorded"
        return f"built on {built}, found {here}: such an engine is for one model of GPU; rebuild: {rebuild}"
    return ""


ONE_MODEL = "tensorrt"
"""The builder whose engines are for the model of GPU that they were built on: it times kernels there. TensorRT's own
``SAME_COMPUTE_CAPABILITY`` would lift that, for slower kernels and not in every version."""


def _same_system(compiled: CompiledEngine, found: str) -> bool:
    """TensorRT-RTX's engines are for Windows and Linux alike, as its manual says; another processor is another."""
    if compiled.builder == ONE_MODEL:
        return compiled.system == found
    built, here = (name.rpartition("-")[2].replace("amd64", "x86_64") for name in (compiled.system, found))
    return built == here


def validity_problem(library: Any, runtime: Any, data: bytes) -> str:
    """What TensorRT-RTX has against an engine's bytes on this machine, in its own names; empty where it cannot say.

    They are ``EngineInvalidityDiagnostics``: an old driver, too little memory, another compute capability or version.
    """
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return ""
    validity, found = ask(data)
    if validity != library.EngineValidity.INVALID:
        return ""
    names = library.EngineInvalidityDiagnostics.__members__.items()
    return ", ".join(name for name, bit in names if found & bit.value)


def _widen(compiled: CompiledEngine, axis: str, size: int, bundle: Path | str) -> str:
    """What helps against one size out of range."""
    if size < compiled.axes[axis].least:
        return "a larger image" if axis in "HW" else "at least one image, class and phrase"
    less = {"B": "smaller batches", "H": "a smaller image", "W": "a smaller image"}.get(
        axis, "fewer or shorter phrases"
    )
    if axis == "L":  # it follows from the bank that is compiled for
        return f"{less}, or a bundle exported with such phrases"
    return f"{less}, or {rebuild_command(compiled, bundle, sizes={'P' if axis == 'C' else axis: size})}"
