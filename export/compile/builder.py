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
from medprompt.core.install import install_command
from medprompt.core.manifest import AxisRange, TensorSpec
from medprompt.core.outputs import file_kind
from medprompt.core.progress import Progress, Silent
from medprompt.export.compile.monitor import Build, monitor_of_build, run_cancellable
from medprompt.export.compile.options import CompileOptions
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
        seconds: Build time, parsing included.
        activation_bytes: GPU memory for one context's activations at the largest sizes, as the builder states it.
    """

    data: memoryview
    gpus: tuple[str, ...]
    version: str
    seconds: float
    activation_bytes: int | None


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
    device, progress, began = options.engine, progress or Silent(), time.perf_counter()
    trt = load_builder(device)
    gpus = target_gpus(trt, device, options.gpu)
    progress.step(f"{device}: read model")
    build = Build(progress, device)
    logger = _logger(trt, build)
    builder = trt.Builder(logger)
    network = _parsed(trt, builder, logger, model)
    config = builder.create_builder_config()
    monitor = monitor_of_build(trt, build)
    config.progress_monitor = monitor
    _set_limits(trt, config, options, gpus)
    _add_profile(builder, config, inputs, axes)
    cache = _opened_cache(config, options.timing_cache) if device == "trt" else None
    data = run_cancellable(lambda: builder.build_serialized_network(network, config), build)
    if data is None:
        raise _refusal(device, model, build)
    if cache is not None and options.timing_cache:
        _write_cache(cache, options.timing_cache)
    found = [int(hit[1]) for hit in map(ACTIVATIONS.search, build.notes) if hit]
    seconds = time.perf_counter() - began
    return BuiltEngine(memoryview(data), gpus, trt.__version__, seconds, max(found, default=None))


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


def _set_limits(trt: Any, config: Any, options: CompileOptions, gpus: Sequence[str]) -> None:
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if not known_gpus(trt):
        return
    config.num_compute_capabilities = len(gpus)
    for index, name in enumerate(gpus):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)


def _add_profile(builder: Any, config: Any, inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange]) -> None:
    profile = builder.create_optimization_profile()
    for spec in inputs:
        profile.set_shape(spec.name, *profile_shapes(spec, axes))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            "The builder refuses the sizes.",
            got=str({name: str(axis) for name, axis in axes.items()}),
            fix="choose a smaller max_batch, max_phrases, max_tokens or max_source",
        )


def profile_shapes(
    spec: TensorSpec, axes: Mapping[str, AxisRange]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Minimum, typical and maximum shape of an input.

    Raises:
        EngineError: A dynamic axis that has no range.
    """
    ranges = []
    for size in spec.shape:
        if isinstance(size, str) and size not in axes:
            raise EngineError(
                "An axis has no range.",
                where=spec.name,
                expected=", ".join(axes),
                got=size,
                fix="export the bundle again: its manifest does not fit its model",
            )
        ranges.append(axes[size] if isinstance(size, str) else AxisRange(least=size, typical=size, most=size))
    return tuple(r.least for r in ranges), tuple(r.typical for r in ranges), tuple(r.most for r in ranges)


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
