"""The GPU's resize against the host's, without a GPU: its twin, its source compiled for the host, the real bindings."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.core.manifest import Preprocess
from medprompt.images.resize import resize_on_host, starts_with_rows
from medprompt.runtime.engines import tap_kernel
from medprompt.runtime.engines.tap_kernel import KERNELS, PTX, THREADS, Kernels, TapStep
from medprompt.video.nv12 import Nv12Colours, colours_of_height, nv12_colours
from tests.runtime.engines import tap_doubles
from tests.runtime.engines.cuda_double import CudaDouble, cudaError_t
from tests.runtime.engines.tap_doubles import (
    SOURCE,
    CUresult,
    DriverDouble,
    compiled_for_the_host,
    decode,
    resize_on_double,
    run_twin,
)

COMPILER = shutil.which("g++") or ""
needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs g++")

# (filter, backend): equal to the last bit. With a square border too.
WHOLE = [
    ("bicubic", "pillow"),
    ("bilinear", "pillow"),
    ("lanczos", "pillow"),
    ("nearest", "pillow"),
    ("bicubic", "torchvision"),
    ("bilinear", "torchvision"),
    ("nearest", "torchvision"),
]
SIZES_HW = [(1, 1), (1, 9), (9, 1), (31, 47), (64, 64), (97, 61), (200, 150)]

Run = Callable[[str, tuple[int, int], int, int], None]


def noise(height: int, width: int, batch: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def on_host(images: NDArray[np.uint8], spec: Preprocess) -> NDArray[Any]:
    return np.stack([resize_on_host(image, spec) for image in images])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compiled_for_the_host(tmp_path_factory.mktemp("taps"), COMPILER)


def test_the_shipped_ptx_is_made_of_the_source() -> None:
    text = PTX.read_text()
    assert f"sha256 {hashlib.sha256(SOURCE.read_bytes()).hexdigest()}" in text.splitlines()[0]
    assert set(re.findall(r"\.entry (\w+)\(", text)) == {*KERNELS.values(), "nv12_rgb"}
    # Turing and newer; drivers of every CUDA 12. Products are rounded before they are added.
    assert (".target sm_75" in text, ".version 8.0" in text, "fma.rn.f32" in text) == (True, True, False)
    assert text.count(f".maxntid {THREADS}, 1, 1") == len(KERNELS) + 1


@pytest.mark.parametrize(("resample", "backend"), WHOLE)
@pytest.mark.parametrize("source_hw", SIZES_HW, ids=str)
@pytest.mark.parametrize("pad", ["none", "square"])
def test_fixed_point_is_equal_to_the_host(resample: Any, backend: Any, source_hw: tuple[int, int], pad: Any) -> None:
    images = noise(*source_hw, batch=2)
    for size_hw in ((64, 64), (60, 92)):
        spec = Preprocess(size_hw=size_hw, resample=resample, backend=backend, pad=pad, pad_value=7)
        np.testing.assert_array_equal(resize_on_double(images, spec), on_host(images, spec))


def test_the_order_of_passes_is_among_what_was_compared() -> None:
    spec = Preprocess(size_hw=(64, 64), resample="bicubic")
    assert {starts_with_rows(size, spec) for size in SIZES_HW} == {True, False}
    assert not starts_with_rows((200, 150), spec.model_copy(update={"backend": "torchvision"}))


@given(
    source_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(WHOLE),
    pad=st.sampled_from(["none", "square"]),
    level=st.integers(0, 255),
)
@settings(deadline=None, max_examples=60)
def test_any_size_is_equal_to_the_host(
    source_hw: tuple[int, int], size_hw: tuple[int, int], kind: tuple[Any, Any], pad: Any, level: int
) -> None:
    spec = Preprocess(size_hw=size_hw, resample=kind[0], backend=kind[1], pad=pad, pad_value=level)
    images = noise(*source_hw)
    np.testing.assert_array_equal(resize_on_double(images, spec), on_host(images, spec))


@given(source_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)), side=st.integers(1, 40))
@settings(deadline=None, max_examples=25)
@pytest.mark.parametrize("backend", ["pillow", "torchvision"])
def test_owlv2s_zoom_is_the_hosts_but_for_the_last_bits(backend: Any, source_hw: tuple[int, int], side: int) -> None:
    spec = Preprocess(
        size_hw=(side, side), resample="zoom", backend=backend, pad="square", rounds=False, pad_value=127.5
    )
    images = noise(*source_hw)
    made, wanted = resize_on_double(images, spec, kind="float32"), on_host(images, spec)
    assert made.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(made, wanted, atol=2e-4)
    rounded = spec.model_copy(update={"rounds": True})
    apart = resize_on_double(images, rounded).astype(int) - on_host(images, rounded)
    assert np.abs(apart).max() <= 1  # a value on a half falls to either side


def test_a_graph_that_takes_float32_gets_pillows_levels() -> None:
    spec = Preprocess(size_hw=(20, 30), resample="bicubic", rounds=False)
    made = resize_on_double(noise(31, 47), spec, kind="float32")
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, on_host(noise(31, 47), spec))


@pytest.mark.slow
@pytest.mark.parametrize("source_hw", [(1, 1), (1080, 1920), (2160, 3840), (3840, 2160), (12, 4000)], ids=str)
@pytest.mark.parametrize(("resample", "backend"), [*WHOLE, ("zoom", "pillow"), ("zoom", "torchvision")])
@needs_compiler
def test_full_size_frames(compiled: Run, resample: Any, backend: Any, source_hw: tuple[int, int]) -> None:
    images = noise(*source_hw)
    for side in (640, 768, 800, 960):
        spec = Preprocess(
            size_hw=(side, side), resample=resample, backend=backend, pad="square" if resample == "zoom" else "none"
        )
        apart = np.abs(resize_on_double(images, spec, compiled).astype(int) - on_host(images, spec))
        assert apart.max() <= (resample == "zoom")
        assert (apart != 0).mean() <= 0.001
        if side == 640:
            twin = resize_on_double(images, spec)
            np.testing.assert_array_equal(twin, resize_on_double(images, spec, compiled))


@needs_compiler
@given(
    source_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from([*WHOLE, ("zoom", "pillow"), ("zoom", "torchvision")]),
    rounds=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_the_source_computes_what_its_twin_does(
    compiled: Run, source_hw: tuple[int, int], size_hw: tuple[int, int], kind: tuple[Any, Any], rounds: bool
) -> None:
    spec = Preprocess(size_hw=size_hw, resample=kind[0], backend=kind[1], rounds=rounds, pad="square", pad_value=200)
    images, made = noise(*source_hw, batch=2), "uint8" if rounds else "float32"
    np.testing.assert_array_equal(
        resize_on_double(images, spec, compiled, made), resize_on_double(images, spec, run_twin, made)
    )


@needs_compiler
def test_more_lines_than_a_grid_has(compiled: Run) -> None:
    images = noise(70_000, 2)
    spec = Preprocess(size_hw=(70_000, 3), resample="bilinear", backend="torchvision")
    np.testing.assert_array_equal(resize_on_double(images, spec, compiled), on_host(images, spec))


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_those_of_the_matrix(matrix: Any, full_range: bool) -> None:
    colours = nv12_colours(matrix, full_range=full_range)
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    rng = np.random.default_rng(0)
    rgb = np.repeat(np.repeat(rng.uniform(0.1, 0.9, (8, 8, 3)), 2, axis=0), 2, axis=1)
    y = rgb @ [red, 1 - red - blue, blue]
    u, v = (rgb[..., 2] - y) / (2 * (1 - blue)), (rgb[..., 0] - y) / (2 * (1 - red))
    scale, offset = (255, 0) if full_range else (219, 16)
    chroma = np.stack([u[::2, ::2], v[::2, ::2]], axis=-1).reshape(8, 16) * (255 if full_range else 224) + 128
    planes = np.rint(np.concatenate([y * scale + offset, chroma])).astype(np.uint8)
    assert np.abs(decode(planes[None], 16, colours)[0] - rgb * 255).max() < 2.6


def test_nv12_is_the_rgb_that_the_video_reader_makes() -> None:
    av = pytest.importorskip("av")
    from av.video.reformatter import Colorspace

    rng = np.random.default_rng(1)
    smooth = np.kron(rng.integers(16, 236, (6, 8)), np.ones((8, 8))).astype(np.uint8)
    u, v = (np.kron(rng.integers(60, 200, (6, 8)), np.ones((4, 4))).astype(np.uint8) for _ in range(2))
    planar = np.concatenate([smooth, u.reshape(12, 64), v.reshape(12, 64)])
    nv12 = np.concatenate([smooth, np.stack([u, v], axis=-1).reshape(24, 64)])
    for matrix, space in (("bt601", Colorspace.ITU601), ("bt709", Colorspace.ITU709)):
        frame = av.VideoFrame.from_ndarray(planar, format="yuv420p")
        wanted = frame.to_ndarray(format="rgb24", src_colorspace=space).astype(int)
        assert np.abs(decode(nv12[None], 48, nv12_colours(matrix))[0] - wanted).max() <= 3  # swscale's tables


@pytest.mark.parametrize(("height", "matrix"), [(480, "bt601"), (576, "bt601"), (578, "bt709"), (1080, "bt709")])
def test_colours_that_are_not_stated_follow_the_height(height: int, matrix: Any) -> None:
    assert colours_of_height(height) == nv12_colours(matrix)


@pytest.mark.parametrize("colours", [None, nv12_colours("bt709", full_range=True)])
@pytest.mark.parametrize("size_hw", [(20, 30), (4, 60)])
def test_nv12_is_decoded_and_then_resized(colours: Nv12Colours | None, size_hw: tuple[int, int]) -> None:
    planes = np.random.default_rng(3).integers(0, 256, (2, 48 * 3 // 2, 64), dtype=np.uint8)
    spec = Preprocess(size_hw=size_hw, resample="bicubic")
    rgb = decode(planes, 48, colours or colours_of_height(48))
    np.testing.assert_array_equal(resize_on_double(planes, spec, colours=colours), on_host(rgb, spec))


@needs_compiler
def test_the_source_decodes_as_its_twin_does(compiled: Run) -> None:
    planes = np.random.default_rng(4).integers(0, 256, (3, 90, 38), dtype=np.uint8)
    spec = Preprocess(size_hw=(60, 38), resample="bilinear")
    for colours in (nv12_colours("bt601"), nv12_colours("bt709", full_range=True)):
        wanted = decode(planes, 60, colours)
        np.testing.assert_array_equal(resize_on_double(planes, spec, compiled, colours=colours), wanted)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 3, 5), (1, 4, 4, 4), (1, 0, 4, 3), (4, 4), (0, 4, 4, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    step = TapStep(Preprocess(size_hw=(8, 8), resample="bilinear"), "uint8", DriverDouble(CudaDouble()))
    with pytest.raises(EngineError, match="shape of no source image") as caught:
        step.plan({"image": shape})
    assert caught.value.got == str(list(shape))


@pytest.mark.parametrize("function", ["cuModuleLoadData", "cuLaunchKernel"])
def test_what_the_driver_refuses_is_named(function: str) -> None:
    cuda = CudaDouble()
    cuda.cudaStreamCreateWithFlags(1)
    driver = DriverDouble(cuda)
    driver.fail_next[function] = CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    with pytest.raises(EngineError, match="resize failed") as caught:
        Kernels(driver).launch("nv12_rgb", 1, 1, [kind(1) for kind in tap_doubles.DECODE], 1)
    assert (caught.value.where, caught.value.got) == (function, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
    assert "NVIDIA driver" in caught.value.fix


def test_an_address_beyond_its_block_is_seen_by_the_double() -> None:
    spec = Preprocess(size_hw=(20, 30), resample="bilinear")
    cuda = CudaDouble()
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    plan = TapStep(spec, "uint8", DriverDouble(cuda)).plan({"image": (1, 8, 8, 3)})
    small = cuda.cudaMalloc(16)[1] or 0
    addresses = tap_kernel.StepAddresses({"image": small}, dict.fromkeys(plan.tables, small), {"image": small}, small)
    plan.launch(addresses, stream)
    assert cuda.cudaStreamSynchronize(stream) == (cudaError_t.cudaErrorIllegalAddress,)


def test_tables_are_the_same_arrays_each_time() -> None:
    cuda = CudaDouble()
    cuda.cudaStreamCreateWithFlags(1)
    step = TapStep(Preprocess(size_hw=(20, 30), resample="bicubic"), "uint8", DriverDouble(cuda))
    first, again = (step.plan({"image": (batch, 31, 47, 3)}).tables for batch in (1, 2))
    assert all(first[name] is again[name] for name in first)
    assert {array.dtype for array in first.values()} == {np.dtype(np.int32)}


def test_the_doubles_have_the_drivers_names() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    text = Path(tap_kernel.__file__).read_text()
    called = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    functions = {name for name in called if isinstance(name, str) and re.fullmatch(r"cu[A-Z]\w+", name)}
    assert functions >= {"cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel"}
    assert all(hasattr(driver, name) and hasattr(DriverDouble, name) for name in functions)
    assert all(hasattr(driver.CUresult, name) for name in (*tap_kernel.FIXES, *CUresult.__members__))


STUB = """
extern "C" {
static void* current = (void*)55;
int cuCtxGetCurrent(void** context) { *context = current; return 0; }
int cuCtxSetCurrent(void* context) { return context == current ? 0 : 201; }
int cuGetProcAddress_v2(const char* name, void** found, int, unsigned long long, int* status) {
    *found = dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), name);
    if (status) *status = *found ? 0 : 1;
    return 0;
}
int cuModuleLoadData(void** module, const void* image) {
    *module = strstr((const char*)image, ".visible .entry fixed_u8_u8(") ? (void*)image : 0;
    return *module ? 0 : 218;
}
int cuModuleGetFunction(void** kernel, void* module, const char* name) {
    std::string host = std::string("host_") + name;
    *kernel = dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), host.c_str());
    return module && *kernel ? 0 : 500;
}
int cuLaunchKernel(void* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    if (z != 1 || shared || extra || stream != (void*)77) return 1;
    ((void (*)(int, int, int, void**))kernel)(x, y, threads, parameters);
    return 0;
}
}
"""

REAL_BINDINGS = """
import numpy as np
from cuda.bindings import driver
from medprompt.core.manifest import Preprocess
from medprompt.images.resize import resize_on_host
from medprompt.runtime.engines.device_step import StepAddresses
from medprompt.runtime.engines.tap_kernel import TapStep
for resample, kind in (("bicubic", "uint8"), ("zoom", "float32")):
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    spec = Preprocess(size_hw=(20, 30), resample=resample, rounds=kind == "uint8")
    plan = TapStep(spec, kind, driver).plan({"image": (1, *image.shape)})
    made, scratch = np.zeros(plan.made["image"], kind), np.zeros(plan.scratch, np.uint8)
    at = lambda array: array.ctypes.data
    tables = {name: at(array) for name, array in plan.tables.items()}
    plan.launch(StepAddresses({"image": at(image)}, tables, {"image": at(made)}, at(scratch)), 77)
    np.testing.assert_allclose(made[0], resize_on_host(image, spec), atol=0 if kind == "uint8" else 1e-3)
print("equal")
"""


@needs_compiler
def test_the_real_bindings_pass_every_argument(compiled: Run, tmp_path: Path) -> None:
    """A libcuda whose kernels are the source compiled for the host, below the real ``cuda.bindings.driver``."""
    pytest.importorskip("cuda.bindings.driver")
    tap_doubles.build_for_the_host(
        tmp_path, COMPILER, "libcuda.so.1", "#include <dlfcn.h>\n#include <cstring>\n#include <string>\n" + STUB
    )
    paths = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", REAL_BINDINGS], env={**os.environ, **paths}, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.returncode) == ("equal\n", 0), ran.stderr
