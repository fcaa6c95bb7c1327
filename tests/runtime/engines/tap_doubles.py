"""The arithmetic of ``taps.cu`` in numpy, its source compiled for the host, and a double of CUDA's driver over both.

Each is called as the driver calls a kernel: by a list of addresses of its arguments. The twin reads and writes the
blocks that the arguments point to, so a wrong address, size or order of arguments is seen in the numbers.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.manifest import Preprocess
from medprompt.images.resize import model_hw
from medprompt.runtime.engines import tap_kernel
from medprompt.runtime.engines.device_step import StepAddresses
from tests.runtime.engines.cuda_double import CudaDouble, cudaError_t

SOURCE = Path(tap_kernel.__file__).with_name("taps.cu")

TYPES = {
    "u8": np.dtype(np.uint8),
    "f32": np.dtype(np.float32),
    "int": np.dtype(np.int32),
    "float": np.dtype(np.float32),
}
RESAMPLE = [ctypes.c_void_p] * 4 + [ctypes.c_int] * 6 + [ctypes.c_float]
DECODE = [ctypes.c_void_p] * 2 + [ctypes.c_int] * 9


def resample(
    pixels: NDArray[Any],
    starts: NDArray[np.int32],
    weights: NDArray[Any],
    bits: int,
    border: float,
    kind: np.dtype[Any],
) -> NDArray[Any]:
    """``resample`` of ``taps.cu``: ``[lines, source, inner, 3]`` to ``[lines, n, inner, 3]`` by ``[K, n]`` weights.

    Sums are int32 or float32, tap by tap, each product rounded before it is added.
    """
    lines, source, inner, _ = pixels.shape
    number = weights.dtype.type
    sums = np.zeros((lines, len(starts), inner, 3), dtype=weights.dtype)
    beyond = np.zeros(len(starts), dtype=weights.dtype)
    for k, row in enumerate(weights):
        inside = starts + k < source
        sums[:, inside] += row[inside, None, None] * pixels[:, starts[inside] + k].astype(weights.dtype)
        beyond[~inside] += row[~inside]
    sums += (beyond * number(border))[:, None, None]
    if weights.dtype == np.int32:
        return np.clip((sums + (1 << bits >> 1)) >> bits, 0, 255).astype(kind)
    return sums if kind == np.float32 else np.clip(sums + np.float32(0.5), 0, 255).astype(np.uint8)


def decode(planes: NDArray[np.uint8], height: int, colours: tuple[int, ...]) -> NDArray[np.uint8]:
    """``nv12_rgb`` of ``taps.cu``: ``[lines, height * 3 / 2, width]`` to ``[lines, height, width, 3]``."""
    black, luma, red_v, green_u, green_v, blue_u = colours
    grey = luma * (planes[:, :height].astype(np.int32) - black) + (1 << 15)
    chroma = planes[:, height:].astype(np.int32).reshape(len(planes), height // 2, -1, 2) - 128
    u, v = np.moveaxis(chroma.repeat(2, axis=1).repeat(2, axis=2), 3, 0)
    rgb = np.stack([grey + red_v * v, grey + green_u * u + green_v * v, grey + blue_u * u], axis=-1)
    return np.clip(rgb >> 16, 0, 255).astype(np.uint8)


def values_at(parameters: int, kinds: list[Any]) -> list[Any]:
    """Arguments of a kernel from the list of their addresses."""
    addresses = (ctypes.c_void_p * len(kinds)).from_address(parameters)
    return [kind.from_address(address).value or 0 for kind, address in zip(kinds, addresses, strict=True)]


def array_at(address: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """A block of memory as an array."""
    block = (ctypes.c_uint8 * (int(np.prod(shape)) * kind.itemsize)).from_address(address)
    return np.frombuffer(block, dtype=kind).reshape(shape)


Blocks = list[tuple[int, int]]
"""Addresses and the bytes that a kernel touches from there on."""


def blocks_of_kernel(name: str, parameters: int) -> Blocks:
    """What a kernel reads and writes, as far as it may go."""
    if name == "nv12_rgb":
        read, write, lines, height, width, *_ = values_at(parameters, DECODE)
        return [(read, lines * height * width * 3 // 2), (write, lines * height * width * 3)]
    read, write, starts, weights, taps, _, lines, source, target, inner, _ = values_at(parameters, RESAMPLE)
    _, kind_in, kind_out = name.split("_")
    return [
        (read, lines * source * inner * 3 * TYPES[kind_in].itemsize),
        (write, lines * target * inner * 3 * TYPES[kind_out].itemsize),
        (starts, 4 * target),
        (weights, 4 * taps * target),
    ]


def run_twin(name: str, grid: tuple[int, int], threads: int, parameters: int) -> None:
    """A launch, computed by numpy; a grid that does not reach everything leaves the rest as it was."""
    if name == "nv12_rgb":
        read, write, lines, height, width, *colours = values_at(parameters, DECODE)
        made = decode(array_at(read, (lines, height * 3 // 2, width), TYPES["u8"]), height, tuple(colours))
    else:
        read, write, starts, weights, taps, bits, lines, source, target, inner, border = values_at(parameters, RESAMPLE)
        arithmetic, kind_in, kind_out = name.split("_")
        weight = TYPES["int" if arithmetic == "fixed" else "float"]
        made = resample(
            array_at(read, (lines, source, inner, 3), TYPES[kind_in]),
            array_at(starts, (target,), TYPES["int"]),
            array_at(weights, (taps, target), weight),
            bits,
            border,
            TYPES[kind_out],
        )
    flat = made.reshape(lines, -1, 3)
    reached = min(grid[0] * threads, flat.shape[1])
    array_at(write, flat.shape, flat.dtype)[:, :reached] = flat[:, :reached]


SHIM = """
#include <cmath>
#include <cstddef>
#include <utility>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
struct Place { unsigned x, y; };
static Place blockIdx, blockDim, threadIdx, gridDim;
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
#include "taps.cu"
template <typename... A, size_t... I>
static void each(void (*kernel)(A...), int x, int y, int threads, void** p, std::index_sequence<I...>) {
    gridDim = {(unsigned)x, (unsigned)y}; blockDim = {(unsigned)threads, 1};
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(*(A*)p[I]...);
}
template <typename... A> static void launch(void (*kernel)(A...), int x, int y, int threads, void** p) {
    each(kernel, x, y, threads, p, std::index_sequence_for<A...>());
}
"""


def build_for_the_host(folder: Path, compiler: str, name: str, more: str = "") -> ctypes.CDLL:
    """The very source of the kernels as C++, its grid as loops: a library with a ``host_KERNEL`` for each."""
    source, made = folder / "taps.cpp", folder / name
    lines = [
        f'extern "C" void host_{kernel}(int x, int y, int threads, void** p) {{ launch({kernel}, x, y, threads, p); }}'
        for kernel in (*tap_kernel.KERNELS.values(), "nv12_rgb")
    ]
    source.write_text("\n".join([SHIM, *lines, more]))
    options = ["-O2", "-std=c++14", "-ffp-contract=off", "-shared", "-fPIC", f"-I{SOURCE.parent}"]
    subprocess.run([compiler, *options, "-o", str(made), str(source)], check=True, capture_output=True)
    return ctypes.CDLL(str(made))


def compiled_for_the_host(folder: Path, compiler: str) -> Callable[[str, tuple[int, int], int, int], None]:
    """See ``build_for_the_host``; called as ``run_twin`` is."""
    library = build_for_the_host(folder, compiler, "taps.so")

    def run(name: str, grid: tuple[int, int], threads: int, parameters: int) -> None:
        getattr(library, f"host_{name}")(*grid, threads, ctypes.c_void_p(parameters))

    return run


class CUresult(Enum):  # CUDA's own name
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


OK = CUresult.CUDA_SUCCESS


class DriverDouble:
    """``cuda.bindings.driver`` over the memory and the streams of a ``CudaDouble``.

    Attributes:
        run: Computes a launch.
        fail_next: Makes a function fail once, by its name.
        launches: Names of the kernels queued.
    """

    CUresult = CUresult

    def __init__(self, cuda: CudaDouble, run: Callable[[str, tuple[int, int], int, int], None] = run_twin) -> None:
        self.cuda = cuda
        self.run = run
        self.fail_next: dict[str, CUresult] = {}
        self.launches: list[str] = []
        self._entries: list[str] = []
        self._current = threading.local()

    def cuCtxGetCurrent(self) -> tuple[CUresult, Any]:
        return OK, "context" if self.cuda.streams else None  # no call of the runtime has made one

    def cuCtxSetCurrent(self, context: Any) -> tuple[CUresult]:
        self._current.context = context
        return (self.fail_next.pop("cuCtxSetCurrent", OK),)

    def cuModuleLoadData(self, image: bytes) -> tuple[CUresult, Any]:
        status = self.fail_next.pop("cuModuleLoadData", OK)
        if status is OK and not self.cuda.streams:
            status = CUresult.CUDA_ERROR_INVALID_CONTEXT
        if status is OK and not image.endswith(b"\0"):
            status = CUresult.CUDA_ERROR_INVALID_VALUE
        self._entries = re.findall(r"\.visible \.entry (\w+)\(", image.decode())
        return status, "module"

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[CUresult, Any]:
        found = module == "module" and name.decode() in self._entries
        return (OK if found else CUresult.CUDA_ERROR_NOT_FOUND), name.decode()

    def cuLaunchKernel(
        self,
        f: str,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: int,
        extra: int,
    ) -> tuple[CUresult]:
        status = self.fail_next.pop("cuLaunchKernel", OK)
        within = gridDimX < 1 << 31 and 0 < gridDimY <= 65535 and blockDimX <= 256
        ones = gridDimZ == blockDimY == blockDimZ == 1
        if status is OK and not (within and ones and gridDimX > 0 and sharedMemBytes == extra == 0):
            status = CUresult.CUDA_ERROR_INVALID_VALUE
        if status is OK and getattr(self._current, "context", None) is None:
            status = CUresult.CUDA_ERROR_INVALID_CONTEXT
        if status is not OK:
            return (status,)
        self.launches.append(f)
        # The driver copies the arguments before it returns, and a captured launch keeps them.
        kinds = DECODE if f == "nv12_rgb" else RESAMPLE
        kept = [kind(value) for kind, value in zip(kinds, values_at(kernelParams, kinds), strict=True)]
        addresses = (ctypes.c_void_p * len(kept))(*map(ctypes.addressof, kept))

        def compute() -> bool:
            parameters = ctypes.addressof(addresses)
            within = all(self._holds(*block) for block in blocks_of_kernel(f, parameters)) and bool(kept)
            if within:
                self.run(f, (gridDimX, gridDimY), blockDimX, parameters)
            return within

        self.cuda.enqueue(hStream, compute)
        return (OK,)

    def _holds(self, address: int, size: int) -> bool:
        """Whether the bytes lie within one block of device memory."""
        return any(
            kind == "device" and begin <= address and address + size <= begin + len(block)
            for begin, (kind, block) in self.cuda.blocks.items()
        )


def resize_on_double(
    fed: NDArray[np.uint8],
    spec: Preprocess,
    run: Callable[[str, tuple[int, int], int, int], None] = run_twin,
    kind: str = "uint8",
    **options: Any,
) -> NDArray[Any]:
    """A batch of sources through ``TapStep``, as a worker would: upload, tables, launch, download."""
    cuda = CudaDouble(1 << 34)
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    plan = tap_kernel.TapStep(spec, kind, DriverDouble(cuda, run), **options).plan({"image": fed.shape})

    def block(size: int) -> int:
        return cuda.cudaMalloc(size)[1] or 0

    def sent(array: NDArray[Any]) -> int:
        address = block(array.nbytes)
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return address

    made = np.dtype(kind)
    target = block(int(np.prod(plan.made["image"])) * made.itemsize)
    tables = {name: sent(array) for name, array in plan.tables.items()}
    plan.launch(StepAddresses({"image": sent(fed)}, tables, {"image": target}, block(plan.scratch)), stream)
    assert cuda.cudaStreamSynchronize(stream) == (cudaError_t.cudaSuccess,)
    assert plan.made["image"] == (len(fed), *model_hw(source_hw_of(fed), spec), 3)
    return array_at(target, plan.made["image"], made).copy()


def source_hw_of(fed: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of a batch, RGB or NV12."""
    return (fed.shape[1], fed.shape[2]) if fed.ndim == 4 else (fed.shape[1] // 3 * 2, fed.shape[2])
