"""An engine of our own in TensorRT's place: its execution context resizes by medprompt's shipped kernels.

It does what the worker asks of TensorRT's: shapes, addresses, a workspace of its caller's, and work that is queued in a
stream and may be captured. What it computes is known to the last bit, so that the worker's mistakes are seen.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.manifest import Preprocess
from medprompt.images.resize import model_hw, resize_on_host
from medprompt.runtime.engines.cuda_buffers import Cuda
from medprompt.runtime.engines.device_step import DeviceStep
from medprompt.runtime.engines.feeds import fixed
from medprompt.runtime.engines.loaded_engine import LoadedEngine
from medprompt.runtime.engines.tap_kernel import IMAGE, TapPass, axis_tables, loaded_kernels, passes_of_source

SPEC = Preprocess(size_hw=(64, 64), resample="bilinear")
"""What the stand-in computes: exact in fixed point, the same on the host."""

RESIZED = "resized"
OWN = "own_"
"""Begins the names of the stand-in's tables: those of a step before it have the plain ones."""

TABLES = tuple(f"{OWN}{axis}_{part}" for axis in ("rows", "cols") for part in ("starts", "weights"))


class StandInContext:
    """``IExecutionContext`` as far as the worker uses it."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._workspace = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the shape is taken."""
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Of an input that was set, or of the output."""
        batch, height, width, _ = self._shapes[IMAGE]
        return (batch, *model_hw((height, width), SPEC), 3) if name == RESIZED else self._shapes[name]

    def update_device_memory_size_for_shapes(self) -> int:
        """Bytes of workspace: what lies between the passes."""
        return self._passes()[0].bytes_written

    def set_device_memory(self, address: int, size: int) -> None:
        """Take a workspace."""
        self._workspace = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Whether the address is taken."""
        self._addresses[name] = address
        return address % 16 == 0

    def execute_async_v3(self, stream: int) -> bool:
        """Queue both passes; whether the workspace is large enough."""
        first, last = self._passes()
        between, size = self._workspace
        if size < first.bytes_written:
            return False
        kernels = loaded_kernels(self._driver)
        tables = {name.removeprefix(OWN): self._addresses[name] for name in TABLES}
        first.launch(kernels, self._addresses[IMAGE], between, tables, stream)
        last.launch(kernels, between, self._addresses[RESIZED], tables, stream)
        return True

    def _passes(self) -> tuple[TapPass, TapPass]:
        batch, height, width, _ = self._shapes[IMAGE]
        return passes_of_source(batch, (height, width), SPEC, "uint8")


def stand_in(cuda: Cuda, driver: Any, step: DeviceStep | None = None) -> LoadedEngine:
    """The engine, for ``Workers``; with a step before it where one is given."""
    kinds: dict[str, np.dtype[Any]] = {IMAGE: np.dtype(np.uint8), **{name: np.dtype(np.int32) for name in TABLES}}
    return LoadedEngine(
        cuda=cuda,
        inputs=kinds,
        outputs={RESIZED: np.dtype(np.uint8)},
        new_context=lambda: StandInContext(driver),
        captures=True,
        check=lambda shapes: None,
        messages=lambda: "",
        step=step,
        most_workspace=1,
    )


def feeds_of(images: NDArray[np.uint8], source_hw: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """What the stand-in is fed for a batch ``[B, H, W, 3]``; ``source_hw`` is what a step makes of it."""
    rows, cols = axis_tables(source_hw or (images.shape[1], images.shape[2]), SPEC)
    tables = {**rows.arrays(f"{OWN}rows"), **cols.arrays(f"{OWN}cols")}
    return {IMAGE: images, **{name: fixed(table) for name, table in tables.items()}}


def answer_of(images: NDArray[np.uint8]) -> NDArray[Any]:
    """What the host computes."""
    return np.stack([resize_on_host(image, SPEC) for image in images])


def noise(shape_hw: tuple[int, int], seed: int, batch: int = 1) -> NDArray[np.uint8]:
    """A batch of images, each level as likely."""
    shape = (batch, *shape_hw, 3)
    return np.random.default_rng(seed).integers(0, 256, math.prod(shape), dtype=np.uint8).reshape(shape)
