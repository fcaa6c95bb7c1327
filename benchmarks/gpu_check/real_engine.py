"""The worker on real TensorRT: the engines of the bundle that load here, against PyTorch and against themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.gpu_check.gpu import bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, NotRun, Subject, expect
from medprompt.bundles.load import GOLDEN_FILE, Bundle, load_bundle, load_golden
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import ENGINES, engine_class
from medprompt.runtime.engines.cuda_buffers import Cuda
from medprompt.runtime.selection.order import engine_order
from medprompt.runtime.selection.selftest import check_golden, describe_self_test, tolerance_of_device

ROUNDS, THREADS = 3, 4
SAME = 1e-5
"""Largest difference of a score between two runs of one engine on one image."""


def check_real_engines(subject: Subject, notes: Notes) -> None:
    """A check for each device with engine files."""
    for device in (name for name in ENGINES if engine_class(name).needs_compiled):
        notes.check(f"real {device}", partial(_check_device, subject, device))


def golden_images(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """The bundle's golden images, each uint8 ``[H, W, 3]``."""
    return [item.image_rgb for item in load_golden(bundle.path / GOLDEN_FILE, bundle.bank)]


def _check_device(subject: Subject, device: str) -> Mapping[str, Any]:
    if subject.bundle is None:
        raise NotRun("no bundle was given")
    bundle = load_bundle(subject.bundle)
    try:
        next(engine_order(bundle.manifest, device, bundle=bundle.path))
    except EngineError as error:
        raise NotRun(f"{error.problem} {error.got}".strip()) from error
    before = _free_mib()
    with Detector.load(bundle, device, threshold=0.0, self_test=False) as detector:
        parity = check_golden(bundle, detector, tolerance_of_device(bundle, device))
        expect(parity.passed, describe_self_test(parity))
        _check_threads(detector, golden_images(bundle))
        notes = "; ".join(detector.engine.notes)
    return {"decisions": describe_self_test(parity), "notes": notes, "not given back MiB": round(before - _free_mib())}


def _check_threads(detector: Detector, images: Sequence[NDArray[np.uint8]]) -> None:
    """Threads that answer at once answer what one alone does, whatever sizes come in turn."""
    wanted = [detector(image) for image in images]

    def work(thread: int) -> None:
        with detector.share() as own:
            for index in range(ROUNDS * len(images)):
                place = (thread + index) % len(images)
                expect(_alike(own(images[place]), wanted[place]), f"thread {thread} answers otherwise on an image")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


def _alike(found: Detections, wanted: Detections) -> bool:
    """Equal scores may swap ranks, so they are compared in order."""
    if len(found) != len(wanted):
        return False
    return np.allclose(np.sort(found.scores), np.sort(wanted.scores), rtol=0, atol=SAME)


def _free_mib() -> float:
    """Memory of the GPU that is free."""
    return float(Cuda(bindings_of_gpu().runtime)("cudaMemGetInfo")) / 2**20
