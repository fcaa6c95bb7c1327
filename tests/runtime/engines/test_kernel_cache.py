"""Kernels that TensorRT-RTX compiled are kept for the next process, and only for what they are good for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medprompt.runtime.engines import rtx_kernels
from medprompt.runtime.engines.kernel_cache import (
    FOLDER_VARIABLE,
    CacheKey,
    KernelCache,
    cache_folder,
    describe_cache,
)
from medprompt.runtime.engines.machine import Gpu
from tests.runtime.engines.rigs import Rig, feeds, opened

KEY = CacheKey("ab" * 32, "NVIDIA RTX A4000", "580.65.06", "1.7.1.116")


@pytest.fixture
def kept(rtx: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Rig]:
    """Opens the engine once more, as the next process does, with the kernels in ``tmp_path/kernels``."""
    rtx.engine.close()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kernels"))

    def again() -> Rig:
        rtx.library.compiled.clear()
        return replace(rtx, engine=opened("trt-rtx", tmp_path))

    return again


def file_of(folder: Path) -> Path:
    (path,) = (folder / "kernels").iterdir()
    return path


def used(rig: Rig, *batches: int) -> list[str]:
    """What had to be compiled."""
    with rig.engine as engine:
        for batch in batches:
            assert engine.run(feeds(batch))["scores"][0, 2] == pytest.approx(1.8)
    return list(rig.library.compiled)


def test_the_next_process_compiles_only_what_is_new(kept: Callable[[], Rig], tmp_path: Path) -> None:
    assert len(used(kept(), 1, 2)) == 2
    assert len(used(kept(), 1, 2)) == 0
    assert len(used(kept(), 1, 3)) == 1
    assert len(used(kept(), 1, 2, 3)) == 0
    assert file_of(tmp_path).name.endswith(".kernels")
    assert not list(tmp_path.glob("*.kernels"))  # beside the engine there is nothing new


def test_they_are_kept_before_the_engine_is_closed(kept: Callable[[], Rig], tmp_path: Path) -> None:
    rig = kept()
    rig.engine.run(feeds())
    assert file_of(tmp_path).stat().st_size > 100
    rig.engine.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"A", b"B").replace(b"i", b"o")),
        lambda path: path.write_bytes(b"\0" * 300),
        lambda path: put_in_place_of(path, b'["another GPU"]'),
        lambda path: path.chmod(0o666),
    ],
    ids=["cut short", "empty", "changed", "another's", "of another GPU", "others may write it"],
)
def test_a_file_that_is_not_good_is_ignored_and_written_anew(
    spoil: Callable[[Path], object], kept: Callable[[], Rig], tmp_path: Path
) -> None:
    assert len(used(kept(), 1)) == 1
    spoil(file_of(tmp_path))
    assert len(used(kept(), 1)) == 1
    assert len(used(kept(), 1)) == 0


def put_in_place_of(path: Path, kernels: bytes) -> None:
    """A whole file, of other kernels."""
    other = KernelCache(KEY, path.parent)
    other.write(kernels)
    assert other.path is not None
    other.path.replace(path)


@pytest.mark.parametrize(
    "changes",
    [{"engine": "cd" * 32}, {"gpu": "NVIDIA RTX A6000"}, {"driver": "580.65.07"}, {"version": "1.8.0.1"}],
)
def test_each_part_of_the_key_makes_another_file(changes: dict[str, str], tmp_path: Path) -> None:
    KernelCache(KEY, tmp_path).write(b"kernels")
    assert KernelCache(KEY, tmp_path).read() == b"kernels"
    assert KernelCache(replace(KEY, **changes), tmp_path).read() == b""


def test_names_that_look_alike_are_other_files() -> None:
    assert replace(KEY, gpu="RTX/4000").file_name != replace(KEY, gpu="RTX 4000").file_name
    assert "/" not in replace(KEY, gpu="../../RTX").file_name


def test_a_driver_without_a_version_is_known_by_cuda(
    kept: Callable[[], Rig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rtx_kernels, "driver_version", lambda: "")
    monkeypatch.setattr(rtx_kernels, "read_gpus", lambda: ((Gpu("NVIDIA RTX A4000", "sm86"),), ""))
    used(kept(), 1)
    assert "-NVIDIA_RTX_A4000-cuda13000-" in file_of(tmp_path).name


@pytest.mark.skipif(sys.platform == "win32", reason="a folder's mode says nothing there")
def test_a_folder_that_cannot_be_written_is_no_error(
    kept: Callable[[], Rig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kernels").write_text("a file of the user")
    assert len(used(kept(), 1, 2)) == 2
    assert len([record for record in caplog.records if "not kept" in record.message]) == 1
    assert (tmp_path / "kernels").read_text() == "a file of the user"


def test_what_the_library_cannot_serialise_is_no_error(
    kept: Callable[[], Rig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.runtime.engines.doubles.RuntimeCacheDouble.serialize", lambda self: None)
    assert len(used(kept(), 1)) == 1
    assert not (tmp_path / "kernels").exists()


def test_shapes_of_the_self_test_get_their_kernels_at_once_and_later_ones_meanwhile(rtx: Rig) -> None:
    for batch in (1, 2):
        rtx.engine.run(feeds(batch))
    rtx.engine.begin_serving()
    for batch in (3, 1):
        pending = [rtx.engine.submit(feeds(batch)) for _ in range(2)]
        for one in pending:
            rtx.engine.collect(one)
    how = [context.how.dynamic_shapes_kernel_specialization_strategy for context in rtx.library.contexts]
    # Those of the second slot for the self-test's shapes, too: both slots answer with the kernels that were proven.
    assert how == ["eager", "eager", "lazy", "lazy", "eager"]
    assert {context.how.cache() for context in rtx.library.contexts} == {rtx.library.contexts[0].how.cache()}


def test_without_a_self_test_the_first_request_stands_for_it(rtx: Rig) -> None:
    rtx.engine.begin_serving()
    for batch in (2, 3):
        rtx.engine.run(feeds(batch))
    how = [context.how.dynamic_shapes_kernel_specialization_strategy for context in rtx.library.contexts]
    assert how == ["eager", "lazy"]


def test_an_engine_without_a_graph_says_so(rtx: Rig) -> None:
    rtx.library.capturable = False
    for _ in range(3):
        rtx.engine.run(feeds())
    assert rtx.engine.notes == ("TensorRT cannot make a CUDA graph of it, and starts each kernel by itself",)


@pytest.mark.skipif(sys.platform != "linux", reason="the rule of XDG")
@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ({}, "/home/somebody/.cache/medprompt/kernels"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/medprompt/kernels"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/somebody/.cache/medprompt/kernels"),
        ({FOLDER_VARIABLE: "/elsewhere", "XDG_CACHE_HOME": "/caches"}, "/elsewhere"),
        ({FOLDER_VARIABLE: "OFF"}, None),
    ],
)
def test_where_kernels_are_kept(here: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FOLDER_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/somebody", **here}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == (None if expected is None else Path(expected))


def test_how_doctor_tells_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    KernelCache(KEY, tmp_path).write(os.urandom(1 << 20))
    assert describe_cache() == f"{tmp_path}: kernels of 1 engine file, 1.0 MiB"
    tmp_path.chmod(0o770)
    assert describe_cache().endswith("not used, for others than its user may write there") or sys.platform == "win32"
    monkeypatch.setenv(FOLDER_VARIABLE, "off")
    assert describe_cache() == "not kept (MEDPROMPT_KERNEL_CACHE=off)"
