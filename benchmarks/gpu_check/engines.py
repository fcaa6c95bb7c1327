"""Sections "ort-cuda" and "latency": engines as their users run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from medprompt.benchmarks.gpu_check.gpu import bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, NotRun, Subject, expect
from medprompt.benchmarks.gpu_check.real_engine import golden_images
from medprompt.benchmarks.latency.machine import usable_cores
from medprompt.benchmarks.latency.measure import LatencyOptions
from medprompt.benchmarks.latency.run import LatencyRun, run_latency
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import EngineError, in_one_line
from medprompt.runtime.engines import ENGINES, engine_class
from medprompt.runtime.selection.order import engine_order
from medprompt.runtime.selection.selftest import describe_self_test
from medprompt.runtime.verify import verify_on_device

GPU_ROUNDS, CPU_ROUNDS = 50, 5
MAX_SECONDS = 15.0
"""No further round begins after it."""


def check_ort_cuda(subject: Subject, notes: Notes) -> None:
    """The section: ONNX Runtime's CUDA provider on the golden images."""
    bindings_of_gpu()
    absent = engine_class("ort-cuda").available()
    if absent:
        raise NotRun(absent)
    if subject.bundle is None:
        raise NotRun("no bundle was given")
    found = verify_on_device(subject.bundle, "ort-cuda")
    notes.add("golden images", describe_self_test(found.parity))
    expect(found.parity.passed, describe_self_test(found.parity))


def check_latency(subject: Subject, notes: Notes) -> None:
    """The section: every engine of the bundle that runs here; beside those on the GPU, PyTorch on it where it can."""
    bindings_of_gpu()
    if subject.bundle is None:
        raise NotRun("no bundle was given")
    time_engines(load_bundle(subject.bundle), subject.checkpoint if _torch_has_gpu() else None, notes)


def time_engines(bundle: Bundle, checkpoint: Path | None, notes: Notes) -> None:
    """Each engine by itself, so that one that takes too long costs no other's figures.

    Raises:
        NotRun: No engine of the bundle runs here.
    """
    devices = sorted(_devices(bundle, notes), key=lambda device: not engine_class(device).on_gpu)
    if not devices:
        raise NotRun("no engine of the bundle runs here")
    with TemporaryDirectory() as folder:
        files = _files(bundle, Path(folder))
        for device in devices:
            notes.check(device, partial(_timed, bundle, checkpoint, device, files, notes))


def _timed(
    bundle: Bundle, checkpoint: Path | None, device: str, files: Sequence[Path], notes: Notes
) -> Mapping[str, Any]:
    on_gpu = engine_class(device).on_gpu
    options = LatencyOptions(
        [device],
        threads=1 if on_gpu else usable_cores(),
        rounds=GPU_ROUNDS if on_gpu else CPU_ROUNDS,
        max_seconds=MAX_SECONDS,
        batches=(),
        workers=(),
    )
    run = run_latency(bundle.path, files, options, checkpoint=checkpoint if on_gpu else None)
    notes.add(f"{device}, report", run.as_json())
    expect(not run.failures, "; ".join(f"{name}: {in_one_line(why)}" for name, why in run.failures.items()))
    times = {f"{name}, p50 ms": float(np.median(series.wall_ms)) for name, series in run.latency.series.items()}
    return times | _energy(run)


def _energy(run: LatencyRun) -> dict[str, Any]:
    """What the GPU drew for an image, from file to boxes, and how it fared."""
    uses = [engine.gpu.as_json(run.latency.rounds) for engine in run.engines if engine.gpu]
    return {
        name: value
        for use in uses
        for name, value in {
            "J an image": use["joules_per_image"],
            "°C": use["celsius"],
            "slowed down by": ", ".join(use["reasons"]) or "nothing",
        }.items()
    }


def _devices(bundle: Bundle, notes: Notes) -> list[str]:
    """Devices that the bundle can be served on here; why the others are not is noted."""
    found = []
    for device in (name for name in ENGINES if name != "fake"):
        try:
            next(engine_order(bundle.manifest, device, bundle=bundle.path))
            found.append(device)
        except EngineError as error:
            notes.add(device, f"not run: {in_one_line(str(error))}")
    return found


def _torch_has_gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _files(bundle: Bundle, folder: Path) -> list[Path]:
    """The golden images as files."""
    images = golden_images(bundle)
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths
