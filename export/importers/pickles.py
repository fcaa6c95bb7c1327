"""Files of ``torch.save`` read without running them, whatever they ask for.

torch's ``weights_only`` reader makes tensors and plain values by itself and refuses every other name. Training files
name more (a config's class, a log's). Each such name gets a stand-in that takes anything and does nothing.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medprompt.core.errors import CheckpointError

GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
BEGINNINGS = (b"PK", b"\x80")
"""How a file of ``torch.save`` begins: a zip archive, or a pickle of protocol 2 or later."""
WRAPPERS = ("module.", "model.", "_orig_mod.")
"""What a program around a model puts before every name; the last is of torch.compile."""
COUNTERS = ("steps", "n_averaged")
"""How often an average of weights was renewed, beside them: mmengine's and torch's name for it."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""In which weights may lie: of all others a cast makes other numbers, or leaves out a scale."""
CHUNK = 1 << 20
MOST_NAMES = 64
"""Unknown names that a file may hold: a training file holds five."""


class Inert:
    """Stands for an object that is not made; keeps the state that the file gives it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def read_pickle(path: Path) -> Any:
    """Read a file of ``torch.save``, zip or legacy: tensors, plain values, and ``Inert`` for all else.

    Raises:
        CheckpointError: Not such a file, a damaged one, or one that asks for what no training file needs.
    """
    try:
        _check_whole(path)
    except Exception as error:  # a damaged or hostile file raises whatever it meets
        raise _unreadable(path, error) from None
    with _only_stand_ins():
        names = _unknown_names(path)
        for _ in range(MOST_NAMES):
            stand_ins = [(type("Inert", (Inert,), {}), name) for name in names]
            try:
                with torch.serialization.safe_globals(stand_ins):
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
            except Exception as error:  # a damaged or hostile file raises whatever it meets
                found = GLOBAL.search(str(error))
                name = "" if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"
                if not name or name in names or "blocked" in str(error):
                    raise _unreadable(path, error) from None
                names.append(name)
    raise _unreadable(path, ValueError(f"more than {MOST_NAMES} unknown names"))


def _check_whole(path: Path) -> None:
    """What torch does not look at: a zip's checksums, and whether it unpacks to more than it is.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: It is not as ``torch.save`` wrote it.
    """
    with path.open("rb") as file:
        if not file.read(2).startswith(BEGINNINGS):
            raise ValueError("another kind of file, such as a web page or a git-lfs pointer")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("an archive that unpacks to more than it is")
        for entry in archive.infolist():
            if entry.CRC:  # torch writes 0 where it was told to compute none
                _check_sum(archive, entry)


def _check_sum(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as part:
        while part.read(CHUNK):
            pass


def _unknown_names(path: Path) -> list[str]:
    """Names beyond torch's own list, where the file can say so at once: each one costs a reading else."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))[:MOST_NAMES]
    except Exception:  # legacy files; and damaged ones, which the reading refuses
        return []


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Set aside what the program around us has allowed torch to make."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    said = f"{error}"
    if "blocked" in said or "Unsupported" in said:
        got = "a pickle that asks to run more than a training file does; nothing of it was run"
    else:
        got = f"{type(error).__name__}: {said.splitlines()[0][:200] if said else ''}"
    return CheckpointError(
        "The file cannot be read as a checkpoint.",
        where=str(path),
        expected="a file of torch.save that is whole and holds tensors and plain values",
        got=got,
        fix="copy the file again, and take it from where it was trained only",
    )


def plain(value: Any) -> Any:
    """Tables, lists, texts and numbers of what was read; the state of what was not made; None of all else."""
    if isinstance(value, Inert):
        return plain(value.state)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items() if isinstance(key, str | int)}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else None


def tensors_of(table: Any, path: Path) -> dict[str, Tensor]:
    """A state dict's tensors, ``module.`` taken off their names, and what a wrapper put before all of them.

    Raises:
        CheckpointError: It holds something else than tensors, one that is larger than the file, or 8-bit floats.
    """
    size = path.stat().st_size
    found: dict[str, Tensor] = {}
    for name, tensor in table.items():
        if name in COUNTERS:
            continue
        if not isinstance(name, str) or not _is_whole(tensor, size):
            raise CheckpointError(
                "The file's weights are not plain tensors.",
                where=f"{path}: {name}"[:200],
                expected="a dense tensor on the CPU that the file holds whole",
                got=type(tensor).__name__,
            )
        if tensor.is_floating_point():  # what else there is may be no weight: the rules, and the model, tell
            refuse_cast(f"{path}: {name}", tensor)
        if name.removeprefix("module.") in found:
            raise CheckpointError("The file holds a weight under two names.", where=f"{path}: {name}", got="module.")
        found[name.removeprefix("module.")] = tensor.detach()
    return _unwrapped(found)


def refuse_cast(where: str, tensor: Tensor) -> None:
    """Refuse a weight whose numbers a cast would change: integers of a quantised model, complex numbers, 8-bit floats.

    Raises:
        CheckpointError: It is one.
    """
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            "A weight is quantised, or no real number.",
            where=where,
            expected="float32, bfloat16, float16 or float64",
            got=str(tensor.dtype).removeprefix("torch."),
            fix="save the model as it was before it was quantised",
        )


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS * 2:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _is_whole(tensor: Any, size: int) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= size
    )
