"""What an engine must do: move named arrays. What they mean is the detector's business."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from medprompt.core.errors import EngineError, OutOfMemoryError
from medprompt.core.manifest import CompiledEngine, Preprocess, TensorSpec

NO_MEMORY = re.compile(
    r"out.?of.?(?:device.?)?memory|bad_alloc|failed to allocate|cannot allocate memory|could not be allocated",
    re.IGNORECASE,
)
"""How libraries say it: they have no error of its own for it."""


_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
"""Linux: the hardware threads of the core of this one."""


@dataclass(frozen=True)
class ModelSource:
    """What an engine loads.

    Attributes:
        path: The ONNX file, or the engine file for devices that load one.
        compiled: The engine file's record; None for devices that load the ONNX.
        inputs: The graph's inputs as in the manifest; needed with ``compiled`` only.
        bundle: The bundle's folder, for the commands that errors offer.
        preprocess: How the graph's ``image`` is made of a source; for engines that make it (``Engine.resizes``).
        at_once: Requests that a CPU engine computes at the same time, each with its share of the threads.
        plans_memory: Whether ONNX Runtime may plan one block of memory for each size of inputs that it has seen. Its
            first request of a size is unplanned and its memory is kept, so a model that needs much has it twice.
    """

    path: Path
    compiled: CompiledEngine | None = None
    inputs: tuple[TensorSpec, ...] = ()
    bundle: Path | str = "BUNDLE"
    preprocess: Preprocess | None = None
    at_once: int = 1
    plans_memory: bool = True


class Engine(ABC):
    """One loaded model. A context manager.

    Attributes:
        on_gpu: Whether it computes on a GPU, so that a build server can hardly have measured it.
        in_flight: How many requests a thread may have submitted and not yet collected.
        resizes: Whether ``image`` is given at source size, uint8 ``[B, H, W, 3]``, and made the graph's on the device.
        joins_rows: Whether an input may be given as a list of its rows, which are joined where they are sent from.
        notes: What else its user should know.
    """

    on_gpu: bool = False
    in_flight: int = 1
    resizes: bool = False
    joins_rows: bool = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute all outputs by name from all inputs by name. The caller owns the arrays returned.

        Raises:
            EngineError: The library refuses the inputs.
        """

    def submit(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        """Begin to compute, and return what ``collect`` takes; at most ``in_flight`` at a time in one thread.

        The feeds may be changed once it returns. Here, for engines with one request in flight, it computes at once.

        Raises:
            EngineError: See ``run``.
        """
        return self.run(feeds)

    def collect(self, pending: Any) -> dict[str, NDArray[Any]]:
        """Wait for what ``submit`` began, in the thread that began it, in the order of submission.

        Raises:
            EngineError: See ``run``.
        """
        outputs: dict[str, NDArray[Any]] = pending
        return outputs

    def begin_serving(self) -> None:  # noqa: B027  # most engines do the same before and after
        """The self-test is over, or none was due: what comes now is to be answered, not to be proven."""

    def device_stages_ms(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Compute once and say how long the parts of ``run`` took on the device, in ms by name, in order.

        Nothing for an engine whose ``run`` has no parts to tell apart.

        Raises:
            EngineError: See ``run``.
        """
        return {}

    @abstractmethod
    def close(self) -> None:
        """Free the model. Closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DeviceEngine(Engine):
    """What loads a model under a device's name, see ``ENGINES``; importing its module touches no library or device.

    Attributes:
        package, extra: The package it needs and the medprompt extra that brings it; empty where it needs
            none.
        needs_compiled: Whether it loads an engine file (``EngineRecord.compiled``) and not the ONNX.
        model: Name of the bundle's ONNX file that it loads where that is not the fp32 one.
        arithmetic: Precision whose tolerance it is judged by; of engine files, their record says it.
    """

    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    needs_compiled: ClassVar[bool] = False
    model: ClassVar[str] = ""
    arithmetic: ClassVar[str] = "fp32"

    @classmethod
    @abstractmethod
    def available(cls) -> str:
        """Say why it cannot run here; empty if it can."""

    @classmethod
    @abstractmethod
    def open(cls, model: ModelSource | Path, threads: int | None = None) -> Self:
        """Load a model.

        Args:
            model: An ONNX file, or what else there is to say about the file to load (see ``source_of``).
            threads: CPU threads to use; the library's own choice where None.

        Raises:
            EngineError: The library refuses the model, or would compute elsewhere than on this device.
        """


def cpu_cores() -> int:
    """Cores that this process may use; of two hardware threads of one core, where the system tells, one counts."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    try:
        return len({Path(_SIBLINGS.format(one)).read_text(encoding="ascii") for one in usable})
    except OSError:
        return len(usable)


def source_of(model: ModelSource | Path) -> ModelSource:
    """A plain path is an ONNX file of which nothing else is to be said."""
    return model if isinstance(model, ModelSource) else ModelSource(model)


def refused(library: str, model: Path | str, error: Exception) -> EngineError:
    """An engine's own error in our words."""
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return OutOfMemoryError(
            f"{library} has not enough memory.",
            where=str(model),
            got=str(error).strip(),
            fix="pass fewer images at once, or end what else uses the memory",
        )
    return EngineError(
        f"{library} refuses the model or its inputs.",
        where=str(model),
        got=str(error).strip(),
        fix="medprompt verify BUNDLE tells whether the bundle is whole; try another device",
    )


def check_names(library: str, expected: Iterable[str], feeds: Iterable[str]) -> None:
    """Refuse feeds under other names than the model's: OpenVINO would compute with what lay there before.

    Raises:
        EngineError: A name too few or too many.
    """
    wanted = sorted(expected)
    if wanted != sorted(feeds):
        raise EngineError(
            f"{library} refuses the inputs: other names than the model's.",
            expected=", ".join(wanted),
            got=", ".join(sorted(feeds)) or "none",
            fix="export the bundle again: its manifest does not fit its model",
        )


def closed(library: str) -> EngineError:
    """The answer to a call after ``close``."""
    return EngineError(f"The {library} engine is closed.", fix="load the bundle again")
