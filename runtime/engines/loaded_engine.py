"""A deserialised TensorRT engine, as the workers that compute with it need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medprompt.core.errors import EngineError, OutOfMemoryError
from medprompt.runtime.engines.base import NO_MEMORY
from medprompt.runtime.engines.cuda_buffers import FIXES, OUT_OF_MEMORY, Cuda
from medprompt.runtime.engines.device_step import DeviceStep
from medprompt.runtime.engines.feeds import Shapes

Profile = Mapping[str, tuple[Sequence[int], Sequence[int]]]
"""Least and largest shape of each input."""


class Kernels:
    """Kernels that lie ready in the engine; a library that makes them here has more to say."""

    def lazy_context(self, shapes: Shapes) -> Any:
        """An execution context that answers with general kernels until those for its shapes are made, or None."""
        return None

    def is_capturable(self, context: Any, stream: int) -> bool:
        """Whether a context's work can become a CUDA graph; asked where the library captures."""
        return True

    def keep(self) -> None:
        """Keep what was made for the next process."""

    def begin_serving(self) -> None:
        """See ``Engine.begin_serving``."""


@dataclass(frozen=True)
class LoadedEngine:
    """See the module.

    Attributes:
        cuda: The CUDA runtime.
        inputs, outputs: numpy type of each tensor of the engine, by name.
        new_context: Makes an execution context whose workspace is given to it.
        captures: Whether CUDA graphs are captured here; TensorRT-RTX captures its own.
        check: Refuses shapes that the engine was not compiled for.
        messages: Takes what the library logged as errors since the last call.
        step: Makes inputs on the device of what is fed in their place; None where everything is fed.
        profiles: The engine's optimisation profiles, in its order; it has one where none is given.
        most_workspace: Bytes that a context needs at most; 0 where it needs none, or where that is unknown.
        kernels: When its kernels are made, and who keeps them.
    """

    cuda: Cuda
    inputs: Mapping[str, np.dtype[Any]]
    outputs: Mapping[str, np.dtype[Any]]
    new_context: Callable[[], Any]
    captures: bool
    check: Callable[[Shapes], None]
    messages: Callable[[], str]
    step: DeviceStep | None = None
    profiles: Sequence[Profile] = ()
    most_workspace: int = 0
    kernels: Kernels = field(default_factory=Kernels)

    @property
    def fed(self) -> dict[str, np.dtype[Any]]:
        """Type of each array that ``run`` takes, by name."""
        if self.step is None:
            return dict(self.inputs)
        own = {name: kind for name, kind in self.inputs.items() if name not in self.step.makes}
        return {**own, **self.step.fed}

    def refuse(self, problem: str, where: str = "") -> EngineError:
        """An error with what the library logged."""
        fix = "medprompt doctor BUNDLE says what does not fit; try another device"
        return library_error(f"TensorRT refuses: {problem}.", self.messages(), where, fix)


def library_error(problem: str, said: str, where: str, fix: str) -> EngineError:
    """An error with what the library said; without memory, the kind that a smaller request may help."""
    if NO_MEMORY.search(said):
        return OutOfMemoryError(problem, where=where, got=said, fix=FIXES[OUT_OF_MEMORY])
    return EngineError(problem, where=where, got=said, fix=fix)
