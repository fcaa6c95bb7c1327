"""How a set of shapes is computed: the execution context, and what lies around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.runtime.engines.device_step import StepAddresses, StepPlan
from medprompt.runtime.engines.feeds import Shapes
from medprompt.runtime.engines.loaded_engine import LoadedEngine, Profile


@dataclass
class Context:
    """An execution context for one set of input shapes. A CUDA graph holds the state of the one it was captured from.

    Attributes:
        sizes: Bytes of each tensor, by name.
        outputs: Shape of each output, by name.
        workspace: Bytes that it needs besides.
        lazy: Whether its kernels are compiled while others already answer.
        generation: Of the worker's memory, when addresses were last set.
    """

    handle: Any
    sizes: Mapping[str, int]
    outputs: Mapping[str, tuple[int, ...]]
    workspace: int
    lazy: bool
    generation: int = -1


@dataclass
class Plan:
    """How one set of fed shapes is computed.

    Attributes:
        context: May be another plan's too, where a step makes the same of both.
        step: What the step before the engine does; None without such a step.
        generation: Of the worker's memory, when the views were made; graphs hold addresses.
        pinned: The tensors that the host writes or reads, as arrays.
        addresses: Of what the step uses.
        runs: In this generation.
        uncapturable: Why no graph is captured; empty where one can be.
    """

    context: Context
    step: StepPlan | None
    generation: int = -1
    pinned: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    addresses: StepAddresses | None = None
    runs: int = 0
    graph: Any = None
    uncapturable: str = ""


def context_for(loaded: LoadedEngine, shapes: Shapes, stream: int) -> Context:
    """Make an execution context for input shapes of the engine.

    Raises:
        OutOfMemoryError: The library has not enough of it.
        EngineError: The engine was not compiled for the shapes, or the library refuses them.
    """
    loaded.check(shapes)
    handle = loaded.kernels.lazy_context(shapes)
    lazy = handle is not None
    handle = handle if lazy else loaded.new_context()
    profile = _profile_of(loaded.profiles, shapes)
    if profile and not handle.set_optimization_profile_async(profile, stream):
        raise loaded.refuse(f"its optimisation profile {profile}")
    for name, shape in shapes:
        if not handle.set_input_shape(name, shape):
            raise loaded.refuse(f"the shape {list(shape)} of its input", name)
    outputs = {name: tuple(handle.get_tensor_shape(name)) for name in loaded.outputs}
    open_ended = [name for name, shape in outputs.items() if min(shape, default=0) < 0]
    if open_ended:
        raise loaded.refuse("the shapes of its outputs stay open", ", ".join(open_ended))
    kinds, everything = {**loaded.inputs, **loaded.outputs}, {**dict(shapes), **outputs}
    sizes = {name: bytes_of(shape, kinds[name]) for name, shape in everything.items()}
    return Context(handle, sizes, outputs, _workspace(loaded, handle), lazy)


def bytes_of(shape: Sequence[int], kind: np.dtype[Any]) -> int:
    """Bytes of an array."""
    return int(np.prod(shape, dtype=np.int64)) * kind.itemsize


def _profile_of(profiles: Sequence[Profile], shapes: Shapes) -> int:
    """The first profile that holds the shapes; the library refuses them with the first of all where none does."""
    return next((index for index, profile in enumerate(profiles) if _holds(profile, shapes)), 0)


def _holds(profile: Profile, shapes: Shapes) -> bool:
    return all(
        least <= size <= most
        for name, shape in shapes
        for least, size, most in zip(profile[name][0], shape, profile[name][1], strict=False)
    )


def _workspace(loaded: LoadedEngine, handle: Any) -> int:
    size = int(handle.update_device_memory_size_for_shapes())
    if size == 0 and loaded.most_workspace:  # which is how the library reports an error here
        raise loaded.refuse("to say how much memory its context needs")
    return size
