"""Old import paths of documented names: they work until 0.3, with a ``DeprecationWarning``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "medprompt.bundle": "medprompt.bundles.load",
    "medprompt.convert": "medprompt.core.convert",
    "medprompt.detections": "medprompt.core.detections",
    "medprompt.errors": "medprompt.core.errors",
    "medprompt.sources": "medprompt.images.sources",
}
"""Old name of a module: its name."""

NAMES = {
    "medprompt.images": dict.fromkeys(("find_images", "load_image", "load_picture"), "medprompt.images.read"),
    "medprompt.reports": dict.fromkeys(("read_report", "write_reports"), "medprompt.reports.files"),
    "medprompt.results": dict.fromkeys(("Item", "Run", "write_csv", "write_results"), "medprompt.results.run")
    | {"write_coco": "medprompt.results.coco"},
}
"""Modules that became packages: where what they held is."""


class _Moved:  # importlib.abc, whose protocols these are, takes longer to import than all of the face
    """Finds a module under its old name: the very module of the new name, so that its classes are the same."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec where the name is an old one; None leaves it to others."""
        return ModuleSpec(fullname, self) if fullname in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A stand-in; ``exec_module`` replaces it."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Import the new module and put it in the place of the old name, as the import system allows."""
        _warn(module.__name__, MODULES[module.__name__])
        sys.modules[module.__name__] = import_module(MODULES[module.__name__])


def find_moved_modules() -> None:
    """Let ``import`` find ``MODULES``, after everything else."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def moved_names(package: str) -> Callable[[str], Any]:
    """``__getattr__`` of a package of ``NAMES``."""

    def find(name: str) -> Any:
        where = NAMES[package]
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(f"{package}.{name}", f"{where[name]}.{name}")
        return getattr(import_module(where[name]), name)

    return find


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} has moved: import {new}", DeprecationWarning, stacklevel=3)
