"""Pickles that want to run something: nothing of them runs, in the zip form and in the old one."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from medprompt.core.errors import CheckpointError
from medprompt.export.importers.pickles import Inert, plain, read_pickle, tensors_of

MARK: list[Any] = []


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


class Loop:
    """Pickles as a call with a state, items to append and pairs to set."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"update": Call(MARK.append, "state")}, None, iter([("x", Call(MARK.append, "pair"))])


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "system": lambda mark: Call(os.system, f"touch {mark}"),
    "shell": lambda mark: Call(subprocess.check_call, ["touch", str(mark)]),
    "exec": lambda mark: Call(exec, touch(mark)),
    "eval": lambda mark: Call(eval, touch(mark)),
    "getattr": lambda mark: Call(getattr, Call(__import__, "os"), "system"),
    "rebuilt as": lambda mark: Call(torch._tensor._rebuild_from_type_v2, exec, torch.Tensor, (touch(mark),), {}),
    "parameter of": lambda mark: Call(torch._utils._rebuild_parameter, Call(exec, touch(mark)), True, OrderedDict()),
    "ordered": lambda mark: Call(OrderedDict, [["a", Call(exec, touch(mark))]]),
    "state": lambda mark: Loop(),
    "trace": lambda mark: Call(sys.settrace, None),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_runs(kind: str, zipped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    state = OrderedDict(weight=torch.ones(2))
    torch.save({"model": state, "args": HOSTILE[kind](mark)}, path, _use_new_zipfile_serialization=zipped)
    try:
        found = read_pickle(path)
    except CheckpointError as error:
        assert error.exit_code == 2
    else:
        assert torch.equal(found["model"]["weight"], torch.ones(2))
    assert not mark.exists()
    assert MARK == []


@pytest.fixture
def generous() -> Iterator[None]:
    """A program that allowed torch to run things."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([exec, eval])
    yield
    assert {exec, eval} < set(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_what_a_program_allowed_is_not_allowed_here(generous: None, tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    torch.save({"model": {}, "args": Call(exec, touch(mark))}, path)
    assert isinstance(read_pickle(path)["args"], Inert)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_file_is_read(zipped: bool, tmp_path: Path) -> None:
    """With what mmengine's and Open-GroundingDino's hold."""
    path = tmp_path / "a.pth"
    content = {"model": {"a": torch.ones(2)}, "args": Namespace(nheads=8), "hub": Call(getattr, Path, "name")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_pickle(path)
    assert plain(found["args"]) == {"nheads": 8}
    assert isinstance(found["hub"], Inert)


def test_names_have_an_end(tmp_path: Path) -> None:
    types = [type(f"T{number}", (), {}) for number in range(70)]
    for one in types:
        one.__module__ = __name__
        globals()[one.__name__] = one
    torch.save([one() for one in types], tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="64 unknown names"):
        read_pickle(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**12),  # a terabyte once it is written out
        torch.ones(2).to_sparse(),
        torch.empty(3, device="meta"),
        "text",
    ],
)
def test_tensors_that_are_not_there_whole_are_refused(tensor: Any, tmp_path: Path) -> None:
    torch.save({"a": tensor}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        tensors_of(read_pickle(tmp_path / "a.pth"), tmp_path / "a.pth")


def test_a_name_is_there_once(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="under two names"):
        tensors_of(read_pickle(tmp_path / "a.pth"), tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"text", b"\x89PNG\r\n"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_pickle(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_half_a_file_is_refused(zipped: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.arange(10_000)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_pickle(tmp_path / "a.pth")


def test_only_plain_values_are_kept() -> None:
    stand_in = Inert()
    stand_in.__setstate__({"heads": 8, "path": Path("x"), "own": torch.ones(1)})
    assert plain({"args": stand_in, 1: (True, None)}) == {
        "args": {"heads": 8, "path": None, "own": None},
        "1": [True, None],
    }


def test_a_bit_that_turned_in_a_zip_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(10_000.0)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="CRC"):
        read_pickle(path)


def test_a_zip_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_pickle(tmp_path / "a.pth")["a"], torch.ones(3))


def test_an_archive_that_grows_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "a.pth")
    with ZipFile(tmp_path / "a.pth") as whole, ZipFile(tmp_path / "b.pth", "w", ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="unpacks to more than it is"):
        read_pickle(tmp_path / "b.pth")


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>", b"c"])
def test_another_kind_of_file_is_called_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="another kind of file"):
        read_pickle(tmp_path / "a.pth")


WRAPPERS = ["model.", "module.", "module.module.", "model.module.", "module.model.", "_orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_wraps_all_names_is_taken_off(wrapper: str, tmp_path: Path) -> None:
    torch.save({f"{wrapper}{name}": torch.ones(1) for name in ("a.model.b", "c")}, tmp_path / "a.pth")
    assert set(tensors_of(read_pickle(tmp_path / "a.pth"), tmp_path / "a.pth")) == {"a.model.b", "c"}


@pytest.mark.parametrize("counter", ["steps", "n_averaged"])
def test_an_averages_counter_is_no_weight(counter: str, tmp_path: Path) -> None:
    torch.save({"module.model.a": torch.ones(1), counter: torch.tensor(7)}, tmp_path / "a.pth")
    assert set(tensors_of(read_pickle(tmp_path / "a.pth"), tmp_path / "a.pth")) == {"a"}


def test_floats_of_8_bits_are_refused(tmp_path: Path) -> None:
    """Quantised weights, whose scale lies elsewhere: a cast to float32 would take them for the weights."""
    torch.save({"a": torch.ones(2), "b": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="quantised"):
        tensors_of(read_pickle(tmp_path / "a.pth"), tmp_path / "a.pth")


def test_what_stands_before_some_names_stays(tmp_path: Path) -> None:
    names = {"model.a", "b"}
    torch.save(dict.fromkeys(names, torch.ones(1)), tmp_path / "a.pth")
    assert set(tensors_of(read_pickle(tmp_path / "a.pth"), tmp_path / "a.pth")) == names
