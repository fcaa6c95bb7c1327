"""Kernels that TensorRT-RTX compiled here, kept in the user's cache folder for the next process.

A file is good for one engine, GPU model, driver and TensorRT-RTX version, which are its name; the library checks them
once more. A file that is cut short, changed or somebody else's is as good as none, and none is ever an error.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from medprompt.core.errors import MedpromptError
from medprompt.core.files import atomic_write

FOLDER_VARIABLE = "MEDPROMPT_KERNEL_CACHE"
"""The environment variable that names another folder, or ``off``."""

OFF = "off"

BEGINS = b"medprompt kernel cache\n"
"""Before the SHA-256 of the kernels and the kernels."""

SUFFIX = ".kernels"

_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where kernels are kept; None where they are not."""
    named = os.environ.get(FOLDER_VARIABLE, "")
    if named:
        return None if named.lower() == OFF else Path(named).expanduser()
    try:
        return _user_cache() / "medprompt" / "kernels"
    except RuntimeError:  # a user without a home
        return None


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # the XDG rule: a relative path counts as none


@dataclass(frozen=True)
class CacheKey:
    """What compiled kernels are good for.

    ``engine`` is the SHA-256 of the engine file, ``version`` that of TensorRT-RTX.
    """

    engine: str
    gpu: str
    driver: str
    version: str

    @property
    def file_name(self) -> str:
        """Readable, and another one for any other key."""
        whole = hashlib.sha256("\0".join((self.engine, self.gpu, self.driver, self.version)).encode()).hexdigest()
        words = (self.engine[:12], self.gpu, self.driver or "unknown-driver", self.version, whole[:12])
        return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in words) + SUFFIX


class KernelCache:
    """One engine's file of kernels. Nothing here raises: what goes wrong is logged, and the kernels are made again."""

    def __init__(self, key: CacheKey, folder: Path | None) -> None:
        self.path = folder / key.file_name if folder else None
        self._kept = ""

    def read(self) -> bytes:
        """The kernels of the file; nothing where there is none, or none that is whole and this user's own."""
        if self.path is None:
            return b""
        try:
            content = self.path.read_bytes() if _is_own(self.path) else b""
        except OSError:
            return b""
        digest, _, kernels = content.removeprefix(BEGINS).partition(b"\n")
        if not content.startswith(BEGINS) or hashlib.sha256(kernels).hexdigest().encode() != digest:
            return b""
        self._kept = digest.decode()
        return kernels

    def write(self, kernels: bytes) -> None:
        """Replace the file by these kernels, aside and at once, if they are others than it holds."""
        digest = hashlib.sha256(kernels).hexdigest()
        if self.path is None or not kernels or digest == self._kept:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self.path, mode=0o600) as aside:
                aside.write_bytes(BEGINS + digest.encode() + b"\n" + kernels)
        except (OSError, MedpromptError) as error:
            _log.warning("compiled kernels are not kept: %s", error)
            self.path = None  # said once
            return
        self._kept = digest


def _is_own(path: Path) -> bool:
    """Kernels are machine code: only what this user wrote, and nobody else can have changed, is given to a GPU."""
    return path.exists() and (sys.platform == "win32" or all(map(_is_ours_alone, (path, path.parent))))


def _is_ours_alone(path: Path) -> bool:
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def describe_cache() -> str:
    """Where kernels are kept and how many, for ``doctor``."""
    folder = cache_folder()
    if folder is None:
        return f"not kept ({FOLDER_VARIABLE}={OFF})" if os.environ.get(FOLDER_VARIABLE) else "not kept: no home folder"
    try:
        if folder.exists() and sys.platform != "win32" and not _is_ours_alone(folder):
            return f"{folder}: not used, for others than its user may write there"
        sizes = [path.stat().st_size for path in folder.glob(f"*{SUFFIX}")]
    except OSError as error:
        return f"{folder}: {error.strerror}"
    files = "engine file" if len(sizes) == 1 else "engine files"
    return f"{folder}: kernels of {len(sizes)} {files}, {sum(sizes) / 2**20:.1f} MiB"
