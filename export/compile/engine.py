"""A compiled engine into a bundle: at export, or into one that exists, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medprompt.bundles.bill import list_engine
from medprompt.bundles.load import MODEL_FILE, load_bundle, write_manifest
from medprompt.core.errors import EngineError, InputError
from medprompt.core.files import real_path
from medprompt.core.manifest import AxisRange, CompiledEngine, EngineProfile, EngineRecord, Manifest
from medprompt.core.outputs import Output, lock_outputs, replaced_whole, reserve_outputs
from medprompt.core.progress import Progress, Silent
from medprompt.export.compile.axes import axes_of_bundle, phrases_in_all
from medprompt.export.compile.builder import TIMING_CACHE, BuiltEngine, engine_from_onnx, load_builder, target_gpus
from medprompt.export.compile.options import CompileOptions
from medprompt.export.compile.profiles import BATCH, profiles_of_axes
from medprompt.export.graph.parts import features_of_part, part_paths
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.engines.engine_files import BUILDERS
from medprompt.runtime.engines.machine import system_name

ENGINES_FOLDER = "engines"

NOT_RUN = "compiled here without being run: medprompt verify BUNDLE --device {device} proves it on its GPU"

HALF_ONLY = ("sm75",)
"""GPUs whose builder refuses FP32 matrix products (seen with TensorRT-RTX 1.7): every block must be FP16."""


def check_compile(options: CompileOptions) -> CompileOptions:
    """Refuse what cannot be compiled, before any work is done.

    Returns:
        The options with the GPUs settled.

    Raises:
        EngineError: The package is absent or broken, a GPU is unknown, or its builder needs another precision.
    """
    trt = load_builder(options.engine)
    gpus = target_gpus(trt, options.engine, options.gpu)
    halves = [gpu for gpu in gpus if gpu in HALF_ONLY]
    if halves and options.precision != "fp16":
        raise EngineError(
            f"{', '.join(halves)} (Turing) needs a model that is FP16 throughout: its builder refuses FP32 products.",
            where="gpu",
            expected="precision=fp16",
            got=str(options.precision),
            fix="export with precision=fp16, then compile that; or leave this GPU out",
        )
    return replace(options, gpu=gpus)


def compile_engine(bundle: Path | str, options: CompileOptions, progress: Progress | None = None) -> CompiledEngine:
    """Compile an engine and add it to a bundle, in place of one for the same GPUs and precision.

    The bundle is made anew beside the old one and renamed, its files linked and not copied where the disk allows it:
    whoever has the old one open keeps it, and a compile that fails or is stopped leaves it as it was.

    Raises:
        BundleError: Not a bundle, or a changed one.
        EngineError: See ``check_compile``; also a precision that the bundle lacks, or a model that is refused.
        InputError: A limit below the bundle's own prompts, a folder that cannot be written to, another process at the
            bundle, or a timing cache that is none of ours.
        KeyboardInterrupt: Ctrl-C; nothing was changed.
    """
    folder, progress = real_path(Path(bundle)), progress or Silent()
    options = check_compile(replace(options, precision=options.precision or _default_precision(folder)))
    with reserve_outputs(_cache_outputs(options), [folder]), lock_outputs([folder]):
        progress.step("verify bundle")
        loaded = load_bundle(folder)
        compiled, files = _built(folder, loaded.manifest, loaded.bank, options, progress)
        progress.step("write bundle")
        with replaced_whole(folder) as aside:
            shutil.copytree(folder, aside, copy_function=_link, dirs_exist_ok=True)
            manifest = _with_engine(aside, loaded.manifest, options.engine, compiled, files)
            list_engine(aside, compiled)
            write_manifest(aside, manifest)
    return compiled


def _cache_outputs(options: CompileOptions) -> dict[str, Output | None]:
    """The timing cache, which is read and written."""
    cache = options.timing_cache
    return {"timing_cache": Output(cache, TIMING_CACHE, force=True) if cache else None}


def add_engine(
    folder: Path, manifest: Manifest, bank: PromptBank, options: CompileOptions, progress: Progress | None = None
) -> Manifest:
    """Compile an engine into a bundle in the making, whose models are written.

    Returns:
        The manifest with the engine's record; the caller writes it.

    Raises:
        EngineError: See ``compile_engine``.
    """
    options = check_compile(options)
    return _with_engine(
        folder, manifest, options.engine, *_built(folder, manifest, bank, options, progress or Silent())
    )


def model_of_precision(folder: Path, precision: str) -> Path:
    """The bundle's ONNX file of a precision.

    Raises:
        EngineError: The bundle was not exported with it.
    """
    path = folder / model_name(precision)
    if path.is_file():
        return path
    there = sorted(other.stem.removeprefix("model-") for other in folder.glob("model-*.onnx"))
    raise EngineError(
        "The bundle has no model of this precision.",
        where="precision",
        expected=", ".join(["fp32", *there]),
        got=precision,
        fix=f"export with precision={precision}, or choose one that is there",
    )


def _default_precision(folder: Path) -> str:
    """What parity chose where the bundle has it: engines are fastest in 16 bits, and these keep the decisions."""
    return "auto" if (folder / model_name("auto")).is_file() else "fp32"


def model_name(precision: str) -> str:
    """Name of the ONNX file of a precision."""
    return MODEL_FILE if precision == "fp32" else f"model-{precision}.onnx"


def engine_name(
    device: str, gpus: Sequence[str], precision: str, *, tf32: bool = False, gpu_names: Sequence[str] = ()
) -> str:
    """Path of an engine in its bundle; another for each that serves other machines, or computes otherwise."""
    models = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in gpu_names]
    parts = [device, *gpus, *models, precision, *(["tf32"] if tf32 else [])]
    return f"{ENGINES_FOLDER}/{'-'.join(parts)}.engine"


def _built(
    folder: Path, manifest: Manifest, bank: PromptBank, options: CompileOptions, progress: Progress
) -> tuple[CompiledEngine, dict[str, memoryview]]:
    """What the manifest says of the engine, and the bytes of its files."""
    precision = options.precision or _default_precision(folder)
    model = model_of_precision(folder, precision)
    if options.tf32:
        _check_tf32(manifest, precision)
    axes, models = axes_of_bundle(manifest, bank, options), {model: manifest.inputs}
    wanted, most = phrases_in_all(manifest, bank, options), manifest.postprocess.phrases_at_once
    if most is not None and wanted > most and part_paths(model)[1].is_file():
        image, phrases = part_paths(model)
        models = {image: manifest.inputs[:1], phrases: (*features_of_part(image), *manifest.inputs[1:])}
    parts = [engine_from_onnx(part, inputs, axes, options, progress) for part, inputs in models.items()]
    if len(parts) > 1:  # what a command that compiles it anew has to ask for
        axes = {**axes, "P": axes["P"].model_copy(update={"most": wanted})}
    path = engine_name(options.engine, parts[0].gpus, precision, tf32=options.tf32, gpu_names=parts[0].gpu_names)
    compiled = _described(parts, path, precision, axes, options)
    return compiled, dict(zip(compiled.files, (part.data for part in parts), strict=True))


def _described(
    parts: Sequence[BuiltEngine], path: str, precision: str, axes: Mapping[str, AxisRange], options: CompileOptions
) -> CompiledEngine:
    built = parts[0]
    activation_bytes = [sum(stated) for stated in zip(*(part.activation_bytes for part in parts), strict=False)]
    return CompiledEngine.model_validate(
        {
            "path": path,
            "phrases_path": path.replace(".engine", "-phrases.engine") if len(parts) > 1 else "",
            "builder": BUILDERS[options.engine],
            "builder_version": built.version,
            "gpus": built.gpus,
            "gpu_names": built.gpu_names,
            "system": system_name(),
            "precision": precision,
            "tf32": options.tf32,
            "model": model_name(precision),
            "axes": axes,
            "profiles": _profiles(axes, activation_bytes),
            "seconds": round(sum(part.seconds for part in parts), 1),
            "activation_bytes": max(activation_bytes, default=None),
        }
    )


def _profiles(axes: Mapping[str, AxisRange], activation_bytes: Sequence[int]) -> tuple[EngineProfile, ...]:
    """What the manifest says of each profile; the builder states their memory in order, or not at all."""
    batches = [ranges[BATCH] for ranges in profiles_of_axes(axes) if BATCH in ranges]
    stated = activation_bytes if len(activation_bytes) == len(batches) else [None] * len(batches)
    return tuple(EngineProfile(batch=batch, activation_bytes=size) for batch, size in zip(batches, stated, strict=True))


def _check_tf32(manifest: Manifest, precision: str) -> None:
    """Refuse TF32 where the export did not show that decisions hold with it.

    Raises:
        EngineError: Not simulated, or it failed.
    """
    record = manifest.tf32.get(precision)
    if record is None or not record.passed:
        raise EngineError(
            "This model's decisions with TF32 products are not proven.",
            where="tf32",
            expected="a bundle exported with tf32=True, whose decisions hold under it",
            got="not simulated at export" if record is None else f"{record.kept:.2%} of the decisions kept",
            fix=f"export with tf32=True precision={precision}, or compile without tf32",
        )


def _with_engine(
    folder: Path, manifest: Manifest, device: str, compiled: CompiledEngine, files: Mapping[str, memoryview]
) -> Manifest:
    """Write the engine's files; return the manifest with its record, and with its axes if it had none."""
    made = [record.compiled for record in manifest.engines if record.compiled]
    # A manifest's word alone names no file to remove: what it lists was verified to lie in the bundle.
    replaced = [n for other in made if other.path == compiled.path for n in other.files if n in manifest.files]
    try:
        (folder / compiled.path).parent.mkdir(exist_ok=True)
        for name in (*replaced, *files):  # they may be links to files of the bundle that is being replaced
            (folder / name).unlink(missing_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise InputError(
            "The engine cannot be written.",
            where=compiled.path,
            got=str(error),
            fix="free space on the disk, or check who may write to the bundle",
        ) from error
    record = EngineRecord(
        device=device, precision=compiled.precision, reason=NOT_RUN.format(device=device), compiled=compiled
    )
    others = [other for other in manifest.engines if other.compiled is None or other.compiled.path != compiled.path]
    return manifest.model_copy(update={"engines": (*others, record), "axes": manifest.axes or compiled.axes})


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
