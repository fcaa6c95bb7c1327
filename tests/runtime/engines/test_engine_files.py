"""May an engine be loaded here? Built-for against found, the exact command to rebuild, and the request's sizes."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medprompt.core.errors import EngineError
from medprompt.core.manifest import AxisRange, CompiledEngine, EngineRecord, FileEntry
from medprompt.core.packages import install_command
from medprompt.runtime.engines.engine_files import (
    check_compiled,
    check_engine_file,
    check_request,
    rebuild_command,
    validity_problem,
)
from medprompt.runtime.engines.machine import Gpu, Machine
from medprompt.runtime.engines.tensorrt import error_log
from tests.runtime.bundles import make_manifest

COMPILED = CompiledEngine(
    path="engines/trt-rtx-sm86-sm89-fp16.engine",
    builder="tensorrt_rtx",
    builder_version="1.7.1",
    gpus=("sm86", "sm89"),
    system="linux-x86_64",
    precision="fp16",
    model="model-fp16.onnx",
    axes={
        "B": AxisRange(least=1, typical=1, most=8),
        "C": AxisRange(least=1, typical=2, most=64),
        "P": AxisRange(least=1, typical=3, most=64),
    },
)
TRT = COMPILED.model_copy(
    update={
        "builder": "tensorrt",
        "gpus": ("sm86",),
        "gpu_names": ("RTX A4000",),
        "path": "engines/trt-sm86-rtx-a4000-fp16.engine",
    }
)
GOOD = Machine((Gpu("RTX A4000", "sm86"),), "580.65.06", "linux-x86_64", {"tensorrt_rtx": "1.7.1", "tensorrt": "1.7.1"})
REBUILD = "medprompt compile b --engine trt-rtx --gpu {} --precision fp16 --max-batch 8 --max-phrases 64"


def record(compiled: CompiledEngine | None = COMPILED) -> EngineRecord:
    device = "trt" if compiled and compiled.builder == "tensorrt" else "trt-rtx"
    return EngineRecord(device=device, precision="fp16", compiled=compiled)


@pytest.mark.parametrize("sm", ["sm86", "sm89"])
def test_an_engine_for_this_machine_may_be_loaded(sm: str) -> None:
    assert check_compiled(record(), replace(GOOD, gpus=(Gpu("any", sm),))) == ""
    assert check_compiled(record(TRT), GOOD) == ""


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            {"gpus": (Gpu("RTX PRO 6000", "sm120"), Gpu("RTX A4000", "sm86"))},
            f"built for sm86, sm89, found RTX PRO 6000 (sm120); rebuild: {REBUILD.format('sm120,sm86')}",
        ),
        (
            {"packages": {"tensorrt_rtx": "1.6.0"}},
            "built with tensorrt_rtx 1.7.1, found 1.6.0; install that version, or rebuild: " + REBUILD.format("sm86"),
        ),
        (
            {"system": "linux-aarch64"},
            f"built for linux-x86_64, found linux-aarch64; rebuild on such a system: {REBUILD.format('sm86')}",
        ),
        (
            {"gpus": (), "no_gpu": "no NVIDIA driver (libcuda) was found"},
            "no GPU: no NVIDIA driver (libcuda) was found",
        ),
        ({"packages": {}}, f"tensorrt_rtx is not installed: {install_command('trt-rtx')}"),
        ({"problems": {"tensorrt_rtx": "libnvinfer.so is missing"}}, "libnvinfer.so is missing"),
    ],
    ids=["GPU", "version", "system", "no driver", "no package", "no library"],
)
def test_a_mismatch_says_built_for_and_found(found: dict[str, Any], says: str) -> None:
    assert check_compiled(record(), replace(GOOD, **found), "b") == says


def test_an_engine_of_tensorrt_is_for_one_model_of_gpu() -> None:
    other = replace(GOOD, gpus=(Gpu("RTX A6000", "sm86"),))
    rebuild = "medprompt compile b --engine trt --precision fp16 --max-batch 8 --max-phrases 64"
    why = f"found RTX A6000 (sm86): such an engine is for one model of GPU; rebuild: {rebuild}"
    assert check_compiled(record(TRT), other, "b") == f"built on RTX A4000, {why}"
    unrecorded = TRT.model_copy(update={"gpu_names": ()})
    assert check_compiled(record(unrecorded), other, "b") == f"built on a GPU whose model was not recorded, {why}"
    assert check_compiled(record(unrecorded), GOOD, "b")  # it may be another one, and nothing says that it is not
    assert check_compiled(record(), other, "b") == ""


@pytest.mark.parametrize(
    ("compiled", "system", "fits"),
    [(COMPILED, "windows-amd64", True), (COMPILED, "linux-aarch64", False), (TRT, "windows-amd64", False)],
)
def test_an_engine_of_rtx_goes_from_linux_to_windows(compiled: CompiledEngine, system: str, fits: bool) -> None:
    assert (check_compiled(record(compiled), replace(GOOD, system=system), "b") == "") == fits


@pytest.mark.parametrize(
    ("validity", "found", "says"),
    [(0, 0, ""), (1, 0, ""), (2, 4, "OLD_CUDA_DRIVER"), (2, 2 | 16, "UNSUPPORTED_CC, INSUFFICIENT_GPU_MEMORY")],
)
def test_rtx_names_what_it_has_against_an_engine(validity: int, found: int, says: str) -> None:
    names = {"UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "INSUFFICIENT_GPU_MEMORY": 16}
    members = {name: SimpleNamespace(value=bit) for name, bit in names.items()}
    library = SimpleNamespace(
        EngineValidity=SimpleNamespace(INVALID=2), EngineInvalidityDiagnostics=SimpleNamespace(__members__=members)
    )
    runtime = SimpleNamespace(get_engine_validity=lambda data: (validity, found))
    assert validity_problem(library, runtime, b"engine") == says
    assert validity_problem(library, object(), b"engine") == ""  # TensorRT has no such question


def test_the_real_rtx_knows_what_is_no_engine() -> None:
    library = pytest.importorskip("tensorrt_rtx")
    runtime = library.Runtime(error_log(library))
    assert validity_problem(library, runtime, b"no engine" * 100) == "MALFORMED_ENGINE"


def test_a_device_without_an_engine_file_names_the_command() -> None:
    said = check_compiled(record(None), GOOD, "b")
    assert said.endswith("medprompt compile b --engine trt-rtx --gpu sm86 --precision fp16")
    assert "--gpu" not in check_compiled(EngineRecord(device="trt", precision="fp32"), GOOD, "b")


def test_rebuild_commands_parse_and_keep_every_limit() -> None:
    axes = {"B": 4, "P": 9, "T": 80, "H": 100, "W": 200}
    compiled = COMPILED.model_copy(
        update={"axes": {axis: AxisRange(least=1, typical=1, most=most) for axis, most in axes.items()}}
    )
    assert rebuild_command(compiled, "b") == (
        "medprompt compile b --engine trt-rtx --gpu sm86,sm89 --precision fp16 "
        "--max-batch 4 --max-phrases 9 --max-tokens 80 --max-source 100x200"
    )
    assert shlex.split(rebuild_command(compiled, "my bundle"))[2] == "my bundle"
    assert "--precision fp16 --tf32 --max" in rebuild_command(compiled.model_copy(update={"tf32": True}), "b")
    # tensorrt compiles for the GPU it runs on: no --gpu.
    assert rebuild_command(TRT, "b", sizes={"B": 16}) == (
        "medprompt compile b --engine trt --precision fp16 --max-batch 16 --max-phrases 64"
    )


@pytest.mark.parametrize("batch", [1, 8])
def test_sizes_within_the_profile_pass(batch: int) -> None:
    check_request(COMPILED, make_manifest().inputs, {"image": (batch, 8, 12, 3), "vectors": (1, 64, 3)})


@pytest.mark.parametrize(
    ("shapes", "where", "got", "fix"),
    [
        (
            {"image": (9, 8, 12, 3)},
            "engines/trt-rtx-sm86-sm89-fp16.engine: image, axis B (images a batch)",
            "9",
            "smaller batches, or medprompt compile b --engine trt-rtx --gpu sm86,sm89 --precision fp16 --max-batch 9 ",
        ),
        (
            {"image": (1, 8, 12, 3), "vectors": (1, 65, 3)},
            "engines/trt-rtx-sm86-sm89-fp16.engine: vectors, axis P (phrases)",
            "65",
            "--max-phrases 65",
        ),
        (
            {"phrase_to_class": (2, 65)},
            "engines/trt-rtx-sm86-sm89-fp16.engine: phrase_to_class, axis C (classes)",
            "65",
            "--max-phrases 65",
        ),
        (
            {"image": (0, 8, 12, 3)},
            "engines/trt-rtx-sm86-sm89-fp16.engine: image, axis B (images a batch)",
            "0",
            "at least",
        ),
    ],
    ids=["batch", "phrases", "classes", "none"],
)
def test_a_request_beyond_the_profile_names_both(
    shapes: dict[str, tuple[int, ...]], where: str, got: str, fix: str
) -> None:
    with pytest.raises(EngineError, match="exceeds the sizes that the engine was compiled for") as caught:
        check_request(COMPILED, make_manifest().inputs, shapes, "b")
    assert (caught.value.where, caught.value.got) == (where, got)
    assert "(the engine's profile)" in caught.value.expected
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("axis", "size", "fix"),
    [("H", 2161, "a smaller image, or medprompt compile"), ("L", 99, "a bundle exported with such phrases")],
)
def test_what_helps_depends_on_the_axis(axis: str, size: int, fix: str) -> None:
    spec = make_manifest().inputs[0].model_copy(update={"shape": (axis,)})
    bounds = {name: AxisRange(least=1, typical=1, most=98 if name == "L" else 2160) for name in "HWL"}
    with pytest.raises(EngineError) as caught:
        check_request(COMPILED.model_copy(update={"axes": bounds}), [spec], {"image": (size,)})
    assert fix in caught.value.fix
    assert ("--max-source 2161x2160" in caught.value.fix) == (axis == "H")


@pytest.mark.parametrize(
    ("listed", "content", "says"),
    [
        (True, b"engine", ""),
        (True, b"engin", "is not whole: expected 6 bytes, found 5"),
        (True, b"Engine", "has changed: expected sha256"),
        (True, None, "is missing"),
        (False, b"engine", "the manifest does not list"),
    ],
    ids=["good", "cut", "changed", "missing", "unlisted"],
)
def test_the_file_is_checked_before_it_is_loaded(
    listed: bool, content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / COMPILED.path
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    entry = FileEntry(sha256=hashlib.sha256(b"engine").hexdigest(), bytes=6)
    manifest = make_manifest(files={COMPILED.path: entry} if listed else {})
    said = check_engine_file(tmp_path, manifest, COMPILED)
    assert (says in said) if says else said == ""
    assert not said or f"medprompt compile {tmp_path} --engine trt-rtx" in said
