"""Sections "ort-cuda" and "latency": engines as their users run them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from medprompt.benchmarks.gpu_check.gpu import bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, NotRun, Subject, expect
from medprompt.benchmarks.gpu_check.real_engine import golden_images
from medprompt.benchmarks.latency.measure import LatencyOptions
from medprompt.benchmarks.latency.run import LatencyRun, run_latency
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import EngineError, in_one_line
from medprompt.runtime.engines import ENGINES, engine_class
from medprompt.runtime.selection.order import engine_order
from medprompt.runtime.selection.selftest import describe_self_test
from medprompt.runtime.verify import verify_on_device

ROUNDS = 30
SECONDS = 40.0
"""Of the rounds in turn."""


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
    """The section: every engine of the bundle that runs here, PyTorch beside it where the checkpoint is given."""
    bindings_of_gpu()
    if subject.bundle is None:
        raise NotRun("no bundle was given")
    bundle = load_bundle(subject.bundle)
    devices = _devices(bundle, notes)
    if not devices:
        raise NotRun("no engine of the bundle runs here")
    options = LatencyOptions(devices, rounds=ROUNDS, max_seconds=SECONDS, batches=(), workers=())
    with TemporaryDirectory() as folder:
        run = run_latency(bundle.path, _files(bundle, Path(folder)), options, checkpoint=_reference(subject))
    notes.add("report", run.as_json())
    _summarise(run, notes)
    expect(not run.failures, "; ".join(f"{name}: {in_one_line(why)}" for name, why in run.failures.items()))


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


def _reference(subject: Subject) -> Path | None:
    """The checkpoint, where PyTorch can compute beside an engine on the GPU."""
    try:
        import torch

        return subject.checkpoint if torch.cuda.is_available() else None
    except ImportError:
        return None


def _files(bundle: Bundle, folder: Path) -> list[Path]:
    """The golden images as files."""
    paths = []
    for index, image in enumerate(golden_images(bundle)):
        paths.append(folder / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def _summarise(run: LatencyRun, notes: Notes) -> None:
    for name, series in run.latency.series.items():
        notes.add(name, {"p50 ms": round(float(np.median(series.wall_ms)), 2), "rounds": len(series.wall_ms)})
    for engine in run.engines:
        if engine.gpu:
            energy = engine.gpu.as_json(run.latency.rounds)
            notes.add(f"energy, {engine.stages.device}", _energy(energy))


def _energy(use: dict[str, Any]) -> dict[str, Any]:
    return {"J an image": use["joules_per_image"], "°C": use["celsius"], "slowed down by": ", ".join(use["reasons"])}
