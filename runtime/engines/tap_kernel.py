"""The resize of source images on a GPU: two passes over tables of taps, by kernels of this package.

A source becomes the graph's ``image`` as on the host: the same taps, the same order of passes, the same rounding after
each. Fixed point is equal to the last bit; the float kernels sum in another order than the host does. See ``taps.cu``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.core.manifest import Preprocess
from medprompt.images.resampling import ResampleWeights
from medprompt.images.resize import model_hw, resize_taps, starts_with_rows
from medprompt.runtime.engines.device_step import StepAddresses, StepPlan
from medprompt.runtime.engines.loaded_engine import library_error
from medprompt.video.nv12 import Nv12Colours, colours_of_height

PTX = Path(__file__).with_name("taps.ptx")
"""What ``.ci/ptx.py`` makes of ``taps.cu``; the driver compiles it for its GPU, once a process."""

IMAGE = "image"
THREADS = 256
"""Of a block; ``taps.cu`` is bounded to it."""

MOST_LINES = 65535
"""Blocks of a grid along y, CUDA's limit; the kernels go on from there."""

ALIGNMENT = 256

KERNELS = {
    ("fixed", "uint8", "uint8"): "fixed_u8_u8",
    ("fixed", "uint8", "float32"): "fixed_u8_f32",
    ("float", "uint8", "float32"): "float_u8_f32",
    ("float", "float32", "float32"): "float_f32_f32",
    ("float", "float32", "uint8"): "float_f32_u8",
}
"""By arithmetic, type read and type written."""

MADE = frozenset({"uint8", "float32"})
"""Types of an image that can be made."""

FIXES = {
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "install a newer NVIDIA driver; medprompt doctor says which one was found",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "a GPU of sm75 (Turing) or newer is needed; another device",
    "CUDA_ERROR_INVALID_PTX": "install medprompt again: its file taps.ptx is not whole",
}


class Kernels:
    """The package's kernels, loaded into the CUDA context of this thread.

    ``driver`` is ``cuda.bindings.driver``, or a double of it.

    Raises:
        EngineError: The driver refuses them.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._context = self._call("cuCtxGetCurrent")
        module = self._call("cuModuleLoadData", PTX.read_bytes() + b"\0")
        names = (*KERNELS.values(), "nv12_rgb")
        self._functions = {name: self._call("cuModuleGetFunction", module, name.encode()) for name in names}

    def launch(self, name: str, threads: int, lines: int, arguments: Sequence[Any], stream: int) -> None:
        """Queue a kernel: ``threads`` along x, ``lines`` along y.

        Args:
            name: Of the kernel.
            threads: At least so many.
            lines: Of the array it makes.
            arguments: ctypes values in the order of ``taps.cu``.
            stream: The number of a ``cudaStream_t``.

        Raises:
            EngineError: The driver refuses it.
        """
        # A thread that has made no call of CUDA's runtime yet has no context.
        self._call("cuCtxSetCurrent", self._context)
        grid = (-(-threads // THREADS), min(lines, MOST_LINES), 1)
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._call(
            "cuLaunchKernel", self._functions[name], *grid, THREADS, 1, 1, 0, stream, ctypes.addressof(addresses), 0
        )

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self._driver, function)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            fix = FIXES.get(status.name, "medprompt doctor; another device")
            raise library_error("A CUDA call of the resize failed.", status.name, function, fix)
        return values[0] if values else None


@lru_cache(maxsize=1)
def loaded_kernels(driver: Any) -> Kernels:
    """The kernels of this process. A CUDA call must have made a context current in this thread.

    Raises:
        EngineError: See ``Kernels``.
    """
    return Kernels(driver)


class AxisTable(NamedTuple):
    """Taps of one axis as the kernels read them.

    Attributes:
        starts: int32 ``[n]``.
        weights: int32 or float32 ``[K, n]``: neighbouring threads read neighbouring weights.
        bits: See ``ResampleWeights``.
    """

    starts: NDArray[np.int32]
    weights: NDArray[Any]
    bits: int | None

    @classmethod
    def of(cls, taps: ResampleWeights) -> AxisTable:
        """Lay a table of the host out anew."""
        return cls(taps.starts.astype(np.int32), np.ascontiguousarray(taps.weights.T), taps.bits)

    def arrays(self, axis: str) -> dict[str, NDArray[Any]]:
        """By name, in the order of the kernels' arguments."""
        return {f"{axis}_starts": self.starts, f"{axis}_weights": self.weights}


@dataclass(frozen=True)
class TapPass:
    """One pass: ``[lines, source, inner]`` pixels to ``[lines, target, inner]``.

    Attributes:
        axis: ``rows`` or ``cols``: along which it resizes, and by which name its table is known.
        kind: Of the kernel, see ``KERNELS``.
        table: Its taps.
        border: Level of the pixels beyond the source.
    """

    axis: str
    kind: tuple[str, str, str]
    lines: int
    source: int
    target: int
    inner: int
    table: AxisTable
    border: float

    @property
    def bytes_written(self) -> int:
        """Of all that it makes."""
        return self.lines * self.target * self.inner * 3 * np.dtype(self.kind[2]).itemsize

    def launch(self, kernels: Kernels, read: int, write: int, tables: Mapping[str, int], stream: int) -> None:
        """Queue it, from an address of the device to another."""
        pointers = (read, write, *(tables[name] for name in self.table.arrays(self.axis)))
        numbers = (len(self.table.weights), self.table.bits or 0, self.lines, self.source, self.target, self.inner)
        arguments = [*map(ctypes.c_void_p, pointers), *map(ctypes.c_int, numbers), ctypes.c_float(self.border)]
        kernels.launch(KERNELS[self.kind], self.target * self.inner, self.lines, arguments, stream)


class TapStep:
    """Makes the graph's ``image`` of sources on the device. A ``DeviceStep``.

    Fed are sources of one size, uint8: RGB ``[B, H, W, 3]``, or NV12 ``[B, H * 3 / 2, W]``.

    Args:
        spec: How the host would do it.
        kind: Type of the graph's ``image``: uint8, or float32 in 0 … 255.
        driver: ``cuda.bindings.driver``, or a double of it.
        colours: Of NV12; None for the rule of ``colours_of_height``.
    """

    fed: Mapping[str, np.dtype[Any]] = {IMAGE: np.dtype(np.uint8)}
    makes = frozenset({IMAGE})

    def __init__(self, spec: Preprocess, kind: str, driver: Any, colours: Nv12Colours | None = None) -> None:
        self._spec = spec
        self._kind = kind
        self._driver = driver
        self._colours = colours

    def plan(self, shapes: Mapping[str, tuple[int, ...]]) -> StepPlan:
        """See ``DeviceStep``.

        Raises:
            EngineError: The shape of no image, or the driver refuses the kernels.
            ImageError: See ``model_hw``.
        """
        batch, source_hw, coded = _checked(shapes[IMAGE])
        first, second = passes_of_source(batch, source_hw, self._spec, self._kind)
        kernels = loaded_kernels(self._driver)
        decoded = _aligned(batch * math.prod(source_hw) * 3) if coded else 0

        def launch(addresses: StepAddresses, stream: int) -> None:
            read, between = addresses.fed[IMAGE], addresses.scratch + decoded
            if coded:
                self._decode(kernels, batch, source_hw, (read, addresses.scratch), stream)
                read = addresses.scratch
            first.launch(kernels, read, between, addresses.tables, stream)
            second.launch(kernels, between, addresses.made[IMAGE], addresses.tables, stream)

        tables = {**first.table.arrays(first.axis), **second.table.arrays(second.axis)}
        made = (batch, *model_hw(source_hw, self._spec), 3)
        return StepPlan({IMAGE: made}, launch, tables, decoded + first.bytes_written)

    def _decode(
        self, kernels: Kernels, batch: int, source_hw: tuple[int, int], addresses: tuple[int, int], stream: int
    ) -> None:
        colours = self._colours or colours_of_height(source_hw[0])
        numbers = map(ctypes.c_int, (batch, *source_hw, *colours))
        kernels.launch("nv12_rgb", math.prod(source_hw), batch, [*map(ctypes.c_void_p, addresses), *numbers], stream)


def passes_of_source(batch: int, source_hw: tuple[int, int], spec: Preprocess, kind: str) -> tuple[TapPass, TapPass]:
    """The two passes of a batch of RGB sources of one size, in their order; ``kind`` is the type that they make.

    Raises:
        ImageError: See ``model_hw``.
    """
    (height, width), (high, wide) = source_hw, model_hw(source_hw, spec)
    rows, cols = axis_tables(source_hw, spec)
    fixed = rows.bits is not None
    arithmetic, between = ("fixed", "uint8") if fixed else ("float", "float32")
    border = float(int(spec.pad_value)) if fixed else spec.pad_value
    first, last = (arithmetic, "uint8", between), (arithmetic, between, kind)
    if starts_with_rows(source_hw, spec):
        return (
            TapPass("rows", first, batch, height, high, width, rows, border),
            TapPass("cols", last, batch * high, width, wide, 1, cols, border),
        )
    return (
        TapPass("cols", first, batch * height, width, wide, 1, cols, border),
        TapPass("rows", last, batch, height, high, wide, rows, border),
    )


@lru_cache(maxsize=32)
def axis_tables(source_hw: tuple[int, int], spec: Preprocess) -> tuple[AxisTable, AxisTable]:
    """Tables of rows and columns for a source; the same arrays each time, so that they are sent once."""
    rows, cols = resize_taps(source_hw, spec)
    return AxisTable.of(rows), AxisTable.of(cols)


def _checked(shape: tuple[int, ...]) -> tuple[int, tuple[int, int], bool]:
    """Batch, height and width of the sources, and whether they are NV12."""
    if len(shape) == 4 and shape[3] == 3 and min(shape) > 0:
        return shape[0], (shape[1], shape[2]), False
    if len(shape) == 3 and min(shape) > 0 and shape[1] % 3 == 0 and shape[2] % 2 == 0:
        return shape[0], (shape[1] // 3 * 2, shape[2]), True
    raise EngineError(
        "This is the shape of no source image.",
        where=IMAGE,
        expected="uint8 [B, H, W, 3], or NV12 [B, H * 3 / 2, W] of even height and width",
        got=str(list(shape)),
        fix="pass images as medprompt.images.read.load_image reads them",
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
