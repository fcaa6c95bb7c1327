"""ONNX to a compiled engine, with either of TensorRT's Python packages: their builders have one interface.

The model's types are the engine's types (strongly typed): precision is chosen in the ONNX file, never by the builder.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from medprompt.core.errors import EngineError, missing_extra
from medprompt.core.files import atomic_write
from medprompt.core.manifest import AxisRange, TensorSpec
from medprompt.core.output_kinds import file_kind
from medprompt.core.packages import install_command
from medprompt.core.progress import Progress, Silent
from medprompt.export.compile.monitor import Build, monitor_of_build, run_cancellable
from medprompt.export.compile.options import CompileOptions
from medprompt.export.compile.profiles import add_profiles
from medprompt.runtime.engines.engine_files import BUILDERS
from medprompt.runtime.engines.machine import package_version, read_gpus

ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
"""The builder states it in its log only; the engine itself can be asked on a GPU alone."""

MIB = 1 << 20


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in memory.

    Attributes:
        data: Its bytes (a buffer that the builder's library owns).
        gpu_names: The model of GPU that it was built on, where it is for that one only; see ``CompiledEngine``.
        seconds: Build time, parsing included.
        activation_bytes: GPU memory for one context's activations at each profile's largest sizes, as the builder
            states it; empty where it says nothing.
    """

    data: memoryview
    gpus: tuple[str, ...]
    version: str
    seconds: float
    activation_bytes: tuple[int, ...] = ()
    gpu_names: tuple[str, ...] = ()


def load_builder(device: str) -> Any:
    """Import the package that compiles for a device.

    Raises:
        EngineError: No such device, not installed, or its libraries cannot be loaded.
    """
    if device not in BUILDERS:
        raise EngineError(
            "Nothing is compiled for this device.",
            expected=", ".join(BUILDERS),
            got=device,
            fix="pass one of these as engine=",
        )
    package = BUILDERS[device]
    version, problem = package_version(package)
    if problem:
        raise EngineError(
            f"{package} cannot be used: its libraries do not load.",
            got=problem,
            fix=f"{install_command(device, '--force-reinstall')}, or set LD_LIBRARY_PATH to where libnvinfer lies",
        )
    if not version:
        raise missing_extra(f"engine={device}", package, device)
    return import_module(package)


def known_gpus(trt: Any) -> tuple[str, ...]:
    """Compute capabilities that a package compiles for without such a GPU; empty where it needs the GPU itself."""
    capabilities = getattr(trt, "ComputeCapability", None)
    names = [name for name in dir(capabilities) if re.fullmatch(r"SM\d+", name)]
    if not hasattr(trt.IBuilderConfig, "set_compute_capability"):
        return ()
    return tuple(name.lower() for name in sorted(names, key=lambda name: int(name[2:])))


def target_gpus(trt: Any, device: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Settle which GPUs to build for: the wanted compute capabilities, or else the GPU of this machine.

    Raises:
        EngineError: A GPU the builder does not know, or none requested and none here.
    """
    names = tuple(dict.fromkeys(name.strip().lower().replace("sm_", "sm") for name in wanted if name.strip()))
    known = known_gpus(trt)
    if known and names:
        _refuse_unknown(names, known, device)
        return names
    here, why = read_gpus()
    if not here:
        fix = f"name the GPUs to build for: gpu={','.join(known[-3:])}" if known else "run this on the GPU that serves"
        raise EngineError(f"engine={device} finds no GPU to build for.", got=why, fix=fix)
    if names and names != (here[0].sm,):
        raise EngineError(
            f"engine={device} builds for the GPU of this machine only.",
            where="gpu",
            expected=here[0].sm,
            got=", ".join(names),
            fix="run this on such a GPU, or use engine=trt-rtx, which builds for GPUs that are not here",
        )
    if known:
        _refuse_unknown((here[0].sm,), known, device)
    return (here[0].sm,)


def _refuse_unknown(names: Sequence[str], known: Sequence[str], device: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise EngineError(
            f"engine={device} does not build for this GPU.",
            where="gpu",
            expected=", ".join(known),
            got=", ".join(unknown),
            fix="choose from these",
        )


def engine_from_onnx(
    model: Path,
    inputs: Sequence[TensorSpec],
    axes: Mapping[str, AxisRange],
    options: CompileOptions,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Compile an ONNX file, typed as the engine is to be, with a range for every dynamic axis.

    Raises:
        EngineError: The package is absent, the GPU unknown, or the builder refuses the model.
        KeyboardInterrupt: Ctrl-C; the builder was told to stop, and did.
    """
    try:
        return _built(model, inputs, axes, options, progress)
    except EngineError as error:
        if AFTER_A_STOP not in error.got:
            raise
    return _built(model, inputs, axes, options, progress)


AFTER_A_STOP = "is not found in the accelerator list"
"""What tensorrt_rtx 1.7 says of some builds that follow one that was stopped, in the same process: it still has that
one's GPUs in mind. The next build is right (4 of 52 stopped ones here)."""


def _built(
    model: Path,
    inputs: Sequence[TensorSpec],
    axes: Mapping[str, AxisRange],
    options: CompileOptions,
    progress: Progress | None,
) -> BuiltEngine:
    device, progress, began = options.engine, progress or Silent(), time.perf_counter()
    trt = load_builder(device)
    gpus = target_gpus(trt, device, options.gpu)
    progress.step(f"{device}: read model")
    build = Build(progress, device)
    logger = _logger(trt, build)
    builder = _builder(trt, device, logger, build)
    network = _parsed(trt, builder, logger, model)
    config = builder.create_builder_config()
    monitor = monitor_of_build(trt, build)
    config.progress_monitor = monitor
    _configure(trt, config, options, gpus)
    add_profiles(builder, config, inputs, axes)
    cache = _opened_cache(config, options.timing_cache) if device == "trt" else None
    data = run_cancellable(lambda: builder.build_serialized_network(network, config), build)
    if data is None:
        raise _refusal(device, model, build)
    if cache is not None and options.timing_cache:
        _write_cache(cache, options.timing_cache)
    found = tuple(int(hit[1]) for hit in map(ACTIVATIONS.search, build.notes) if hit)
    seconds = time.perf_counter() - began
    # Engines of a package that names compute capabilities are for all their GPUs; the others, for the model here.
    names = () if known_gpus(trt) else (read_gpus()[0][0].name,)
    return BuiltEngine(memoryview(data), gpus, trt.__version__, seconds, found, names)


def _builder(trt: Any, device: str, logger: Any, build: Build) -> Any:
    """The package's builder; where CUDA does not start it answers NULL, which its bindings make a TypeError."""
    try:
        return trt.Builder(logger)
    except TypeError as error:
        raise EngineError(
            f"{BUILDERS[device]} cannot start its builder.",
            got="; ".join(build.errors[-3:]) or str(error),
            fix="medprompt doctor says what is missing: most often the NVIDIA driver is older than the package's CUDA",
        ) from error


def _logger(trt: Any, build: Build) -> Any:
    """A logger that keeps what the builder says instead of printing it."""
    grave = {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}

    class Keeper(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            if severity in grave:
                build.errors.append(message)
            elif "Activation Memory" in message:
                build.notes.append(message)

    return Keeper()


def _parsed(trt: Any, builder: Any, logger: Any, model: Path) -> Any:
    """The network of an ONNX file, its types kept as they are."""
    # TensorRT 11 knows no other kind of network, so that the flag may be gone there.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(model)):
        return network
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    first = errors[0] if errors else None
    node = f", node {first.node_name()} ({first.node_operator()})" if first and first.node_operator() else ""
    raise EngineError(
        f"{trt.__name__} cannot read the model.",
        where=f"{model}{node}",
        got=first.desc() if first else "no reason given",
        fix="export the bundle again; if it stays, report the node",
    )


def _configure(trt: Any, config: Any, options: CompileOptions, gpus: Sequence[str]) -> None:
    # On by default, and then an "fp32" product has operands of 10 bits of mantissa, as fp16's.
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    # A context's memory then follows the sizes of its requests; from TensorRT 10.10 on.
    resize = getattr(trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if resize is not None:
        config.set_preview_feature(resize, True)
    # TensorRT-RTX: large workspaces come from us too, never from an allocation at run time that no CUDA graph can hold.
    user = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user is not None:
        config.set_flag(user)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if not known_gpus(trt):
        return
    config.num_compute_capabilities = len(gpus)
    for index, name in enumerate(gpus):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)


CACHE_BEGINS = b"medprompt timing cache\n"
"""Before TensorRT's own bytes, which do not say what they are: another's file must not be replaced."""

TIMING_CACHE = file_kind("a timing cache", CACHE_BEGINS.decode())


def _opened_cache(config: Any, path: Path | None) -> Any:
    """The timing cache of a file; a new one where the file is absent, another machine's, or none is requested."""
    content = path.read_bytes().removeprefix(CACHE_BEGINS) if path and path.is_file() else b""
    cache = config.create_timing_cache(content)
    # Timings of another GPU or version would mislead the choice of kernels.
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _write_cache(cache: Any, path: Path) -> None:
    with atomic_write(path) as aside:
        aside.write_bytes(CACHE_BEGINS + bytes(cache.serialize()))


def _refusal(device: str, model: Path, build: Build) -> EngineError:
    said = "; ".join(build.errors[-3:]) or "no reason given"
    fix = (
        "choose another precision or smaller sizes (max_batch, max_phrases, max_source), or, for Grounding DINO, "
        "export with one image size (image_size=HEIGHTxWIDTH); report it if it stays"
    )
    if "FP32 GEMM" in said:  # the resize in the graph is an FP32 product too
        fix = "export with precision=fp16 resize=host: this GPU's builder takes no FP32 product"
    return EngineError(f"{BUILDERS[device]} cannot compile the model.", where=str(model), got=said, fix=fix)
