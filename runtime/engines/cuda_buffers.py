"""CUDA memory through ``cuda-python``: pinned and device blocks that grow, never per call, and are freed once."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medprompt.core.errors import EngineError, OutOfMemoryError

SETTING_UP = threading.RLock()
"""Held in the whole process while memory is allocated or freed, an execution context is made, or a graph is captured.

TensorRT-RTX captures in a mode of its own choice, in which an allocation of any thread breaks the capture.
"""

KINDS = {"device": ("cudaMalloc", "cudaFree"), "pinned": ("cudaMallocHost", "cudaFreeHost")}
"""How each kind of memory is allocated and freed."""

ALIGNMENT = 256
"""Bytes; TensorRT wants its workspace aligned so, and rounding spares a growth for every odd size."""

SPARE = 64 << 20
"""Bytes, at most, that a block which grows gets beyond what was requested."""

OUT_OF_MEMORY = "cudaErrorMemoryAllocation"

FIXES = {
    OUT_OF_MEMORY: "free GPU memory (nvidia-smi lists who holds it), or use smaller batches or images",
    "cudaErrorNoDevice": "medprompt doctor says which GPU was found; see CUDA_VISIBLE_DEVICES",
    "cudaErrorInsufficientDriver": "install a newer NVIDIA driver, or the extra for the one that is here (trt-cu12); "
    "medprompt doctor says which one was found",
}
"""What helps against the errors that a user can do something about."""


class Cuda:
    """The CUDA runtime; a call that fails is an ``EngineError`` with CUDA's own name of the error.

    ``module`` is ``cuda.bindings.runtime``, or a double of it. Every function answers ``(status, *values)``.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call a function by name and return its value, if it has one.

        Raises:
            OutOfMemoryError: The status is that of a GPU, or a host, without memory left.
            EngineError: Any other status than success.
        """
        failure, value = self.attempt(function, *arguments)
        if failure:
            raise (OutOfMemoryError if failure == OUT_OF_MEMORY else EngineError)(
                "A CUDA call failed.",
                where=function,
                got=failure,
                fix=FIXES.get(failure, "medprompt doctor; another device"),
            )
        return value

    def start(self) -> None:
        """Have CUDA start, which other calls would do in passing.

        Raises:
            EngineError: It does not, and why: most often the driver is absent or older than the library.
        """
        failure, _ = self.attempt("cudaFree", 0)
        if failure:
            raise EngineError("CUDA does not start.", got=failure, fix=FIXES.get(failure, "medprompt doctor"))

    def attempt(self, function: str, *arguments: Any) -> tuple[str, Any]:
        """Call a function and return the name of its error, empty if it succeeded, and its value."""
        status, *values = getattr(self.module, function)(*arguments)
        failure = "" if status == self.module.cudaError_t.cudaSuccess else str(getattr(status, "name", status))
        return failure, values[0] if values else None


class Memory:
    """One block of memory; it grows when more is requested and is freed once.

    ``pinned`` is host memory, which the GPU copies from without the driver's help. ``address`` is 0 where there is
    none; ``size`` is in bytes.
    """

    def __init__(self, cuda: Cuda, kind: Literal["device", "pinned"]) -> None:
        self._cuda = cuda
        self._allocate, self._release = KINDS[kind]
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> None:
        """Have at least ``size`` bytes. What lay there is lost where the block has to grow.

        It then gets half as much again as it had, so that sizes which rise by little do not move it each time.

        Raises:
            OutOfMemoryError: CUDA has no such block left; there is none afterwards.
        """
        if size <= self.size:
            return
        generous = max(size, min(self.size + self.size // 2, size + SPARE))
        # Freed first: the old and the new block together might not fit.
        self.free()
        try:
            self._take(generous)
        except OutOfMemoryError:
            if generous == size:
                raise
            self._take(size)

    def _take(self, size: int) -> None:
        rounded = -(-size // ALIGNMENT) * ALIGNMENT
        self.address = int(self._cuda(self._allocate, rounded))
        self.size = rounded

    def free(self) -> None:
        """Give the block back; nothing where there is none."""
        address, self.address, self.size = self.address, 0, 0
        if address:
            self._cuda(self._release, address)


class TensorMemory:
    """A tensor's block on the device and its pinned copy on the host."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.device = Memory(cuda, "device")
        self.pinned = Memory(cuda, "pinned")

    @property
    def size(self) -> int:
        """Bytes that both blocks have."""
        return min(self.device.size, self.pinned.size)

    def reserve(self, size: int) -> None:
        """Have at least ``size`` bytes on both sides.

        Raises:
            OutOfMemoryError: See ``Memory.reserve``.
        """
        self.device.reserve(size)
        self.pinned.reserve(size)

    def view(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """The pinned block as an array; it is valid until the block grows or is freed."""
        count, kind = int(np.prod(shape, dtype=np.int64)), np.dtype(dtype)
        block = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(self.pinned.address)
        return np.frombuffer(memoryview(block), dtype=kind, count=count).reshape(shape)

    def upload(self, size: int, stream: Any) -> None:
        """Queue the copy of ``size`` bytes from the host to the device."""
        kind = self._cuda.module.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpyAsync", self.device.address, self.pinned.address, size, kind, stream)

    def download(self, size: int, stream: Any) -> None:
        """Queue the copy of ``size`` bytes from the device to the host."""
        kind = self._cuda.module.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpyAsync", self.pinned.address, self.device.address, size, kind, stream)

    def free(self) -> None:
        """Give both blocks back."""
        try:
            self.device.free()
        finally:
            self.pinned.free()
