"""Section "taps": the resize kernels against the host's resize: equal to the last bit, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.gpu_check.gpu import Bindings, Clock, bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, Subject, expect
from medprompt.benchmarks.gpu_check.stand_in import noise
from medprompt.bundles.load import load_bundle
from medprompt.core.manifest import Preprocess
from medprompt.images.resize import resize_on_host
from medprompt.runtime.engines.cuda_buffers import Cuda, TensorMemory
from medprompt.runtime.engines.device_step import StepAddresses, StepPlan
from medprompt.runtime.engines.tap_kernel import IMAGE, TapStep, axis_tables

SOURCES_HW = {"480p": (480, 640), "1080p": (1080, 1920), "4K": (2160, 3840)}

SPECS: dict[str, Preprocess] = {
    "bicubic": Preprocess(size_hw=(960, 960), resample="bicubic"),
    "bilinear": Preprocess(size_hw=(640, 640), resample="bilinear"),
    "lanczos": Preprocess(size_hw=(768, 768), resample="lanczos"),
    "nearest": Preprocess(size_hw=(640, 640), resample="nearest"),
    "torchvision bicubic": Preprocess(size_hw=(768, 768), resample="bicubic", backend="torchvision"),
    "zoom": Preprocess(
        size_hw=(960, 960), resample="zoom", backend="torchvision", pad="square", pad_value=127.5, rounds=False
    ),
}
"""Resizes that are checked besides the bundle's own."""

LAUNCHES = 100
FLOAT = 1e-2
"""Grey levels that a float kernel may differ from the host, which sums in another order."""


def check_taps(subject: Subject, notes: Notes) -> None:
    """The section. See ``notes.Notes``."""
    bindings = bindings_of_gpu()
    own = {"the bundle's": load_bundle(subject.bundle).manifest.preprocess} if subject.bundle else {}
    for size, source_hw in SOURCES_HW.items():
        for name, spec in {**own, **SPECS}.items():
            notes.check(f"{name}, {size}", partial(resize, bindings, source_hw, spec))


def resize(bindings: Bindings, source_hw: tuple[int, int], spec: Preprocess) -> Mapping[str, Any]:
    """One source through the kernels: how far it is from the host's, and the time of both."""
    image = noise(source_hw, seed=source_hw[0])
    wanted = resize_on_host(image[0], spec)
    began = time.perf_counter()
    resize_on_host(image[0], spec)  # again: its tables are there now
    host_us = (time.perf_counter() - began) * 1e6
    cuda = Cuda(bindings.runtime)
    with Clock(cuda) as clock:  # which makes the context that the kernels are loaded into
        plan = TapStep(spec, wanted.dtype.name, bindings.driver).plan({IMAGE: image.shape})
        with _placed(cuda, clock, plan, image, wanted.nbytes) as (memory, addresses):
            us = clock.us(lambda: plan.launch(addresses, int(clock.stream)), LAUNCHES)
            memory.download(wanted.nbytes, clock.stream)
            clock.wait()
            made = memory.view(wanted.shape, wanted.dtype).copy()
    worst = float(np.abs(made.astype(np.float64) - wanted).max())
    expect(worst <= allowed(source_hw, spec), f"up to {worst:g} grey levels from the host's")
    return {"us": round(us, 1), "host us": round(host_us), "largest difference": worst}


def allowed(source_hw: tuple[int, int], spec: Preprocess) -> float:
    """Grey levels that the kernels may differ from the host by; none in fixed point."""
    if axis_tables(source_hw, spec)[0].bits is not None:
        return 0
    return 1 if spec.rounds else FLOAT


@contextmanager
def _placed(
    cuda: Cuda, clock: Clock, plan: StepPlan, image: NDArray[np.uint8], made_size: int
) -> Iterator[tuple[TensorMemory, StepAddresses]]:
    """Memory of what a step makes, and all addresses; its source and tables are sent."""
    with ExitStack() as freed:

        def block(size: int) -> TensorMemory:
            memory = TensorMemory(cuda)
            freed.callback(memory.free)
            memory.reserve(size)
            return memory

        def sent(array: NDArray[Any]) -> TensorMemory:
            memory = block(array.nbytes)
            np.copyto(memory.view(array.shape, array.dtype), array)
            memory.upload(array.nbytes, clock.stream)
            return memory

        source, made = sent(image), block(made_size)
        tables = {name: sent(table).device.address for name, table in plan.tables.items()}
        scratch = block(plan.scratch).device.address
        yield made, StepAddresses({IMAGE: source.device.address}, tables, {IMAGE: made.device.address}, scratch)
        clock.wait()
