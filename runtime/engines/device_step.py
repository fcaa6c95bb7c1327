"""Work on the device before a model: it makes inputs of the graph of what is fed in their place.

The resize of a source image is one. The worker of an engine uploads what is fed, gives addresses, and has the step
queue its kernels in the stream that then computes the model: they may become part of a CUDA graph with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StepAddresses:
    """Where a step's data lie on the device, in bytes as CUDA counts them; they stay until the next call names others.

    Attributes:
        fed: Of each array that was fed, by its name.
        tables: Of each of the plan's tables, by its name.
        made: Where each input of the graph has to be written, by its name.
        scratch: Of the plan's scratch memory; 0 where it asked for none. Nothing in it lasts until the next call.
    """

    fed: Mapping[str, int]
    tables: Mapping[str, int]
    made: Mapping[str, int]
    scratch: int


@dataclass(frozen=True)
class StepPlan:
    """How a step treats one set of fed shapes.

    Attributes:
        made: Shape of each input of the graph that it makes.
        launch: Queues the kernels in a stream (the number of a ``cudaStream_t``) and returns at once. It may be called
            while the stream is captured: no allocation, no synchronisation, no other stream.
        tables: Arrays that its kernels read; sent once, for as long as the same arrays are named.
        scratch: Bytes of device memory that it needs besides.
    """

    made: Mapping[str, tuple[int, ...]]
    launch: Callable[[StepAddresses, int], None]
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    scratch: int = 0


class DeviceStep(Protocol):
    """Makes inputs of the graph on the device."""

    @property
    def fed(self) -> Mapping[str, np.dtype[Any]]:
        """Type of each array that is fed in place of the inputs that it makes, by name; names may be the inputs'."""

    @property
    def makes(self) -> frozenset[str]:
        """The inputs of the graph that it makes."""

    def plan(self, shapes: Mapping[str, tuple[int, ...]]) -> StepPlan:
        """Plan for fed shapes by name. Called when they are new to a worker.

        Raises:
            EngineError: Shapes that it cannot treat.
        """
