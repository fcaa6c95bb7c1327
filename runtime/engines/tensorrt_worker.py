"""The threads' ways through a TensorRT engine: each has a worker of its own while it computes, with two slots.

While one slot computes, the other's inputs are uploaded. A worker's slots share one workspace, which is as large as the
largest request so far needs, not as the profile's upper end would: one stream computes them in turn.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.base import closed
from medprompt.runtime.engines.cuda_buffers import SETTING_UP
from medprompt.runtime.engines.cuda_lane import Lane
from medprompt.runtime.engines.feeds import Feed
from medprompt.runtime.engines.loaded_engine import LoadedEngine
from medprompt.runtime.engines.tensorrt_slot import Slot

SLOTS = 2
"""Requests of one thread that may be in flight."""


class Worker:
    """See the module. Not to be shared by threads at one time.

    Raises:
        EngineError: CUDA gives no stream.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        with SETTING_UP:
            self._lane = Lane(loaded.cuda)
        self._slots: list[Slot] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return self._lane.notes

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, NDArray[Any]]:
        """Compute; the arrays returned are copies.

        Raises:
            OutOfMemoryError: See ``Slot.begin``.
            EngineError: Shapes out of the profile, or an error of CUDA or TensorRT.
        """
        return self.begin(feeds).end()

    def begin(self, feeds: Mapping[str, Feed]) -> Slot:
        """Queue a request in a free slot, whose ``end`` waits for it.

        Raises:
            EngineError: See ``run``; or all slots are taken.
        """
        slot = self._free_slot()
        slot.begin(feeds)
        return slot

    def stages_ms(self, feeds: Mapping[str, Feed]) -> dict[str, float]:
        """See ``Slot.stages_ms``."""
        return self._free_slot().stages_ms(feeds)

    def close(self) -> None:
        """Free graphs, contexts, buffers and streams; closing twice is allowed.

        Raises:
            EngineError: CUDA refused one of them; the others are freed all the same.
        """
        slots, self._slots = self._slots, []
        self._lane.wait()
        with SETTING_UP, ExitStack() as last_first:
            self._lane.close(last_first)
            for slot in slots:
                slot.close(last_first)

    def _free_slot(self) -> Slot:
        free = next((slot for slot in self._slots if not slot.busy), None)
        if free is not None:
            return free
        if len(self._slots) == SLOTS:
            raise EngineError(
                "Too many requests are in flight.",
                expected=f"at most {SLOTS} of a thread",
                got=str(SLOTS + 1),
                fix="collect one before the next is submitted",
            )
        self._slots.append(Slot(self._loaded, self._lane))
        return self._slots[-1]


@dataclass(eq=False)
class Lease:
    """A worker in one thread's use, and how many of its requests have not ended."""

    worker: Worker
    requests: int = 1


class Pending:
    """A request in flight. One that nobody collects is waited for and dropped when nobody holds it any more."""

    def __init__(self, workers: Workers, lease: Lease, slot: Slot) -> None:
        self._workers, self._lease, self._slot = workers, lease, slot
        self._dropped = weakref.finalize(self, _drop, workers, lease, slot)
        self._dropped.atexit = False

    def collect(self) -> dict[str, NDArray[Any]]:
        """See ``Slot.end``."""
        if self._dropped.detach() is None:
            raise EngineError("The request was collected already.", fix="collect each request once")
        try:
            return self._slot.end()
        finally:
            self._workers.release(self._lease)


def _drop(workers: Workers, lease: Lease, slot: Slot) -> None:
    # Nobody wants the answer, so nobody wants to know why there is none.
    with suppress(EngineError):
        slot.end()
    with suppress(EngineError):
        workers.release(lease)


class Workers:
    """A worker for each thread that computes at the same time; idle ones are taken again, the latest first."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded: LoadedEngine | None = loaded
        self._idle: list[Worker] = []
        self._used = False
        self._notes: tuple[str, ...] = ()
        self._thread = threading.local()
        # Held again by the same thread where the collector of garbage drops a request meanwhile.
        self._lock = threading.RLock()

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, NDArray[Any]]:
        """See ``Worker.run``. It does not count among the requests in flight."""
        with self._one() as worker:
            return worker.run(feeds)

    def stages_ms(self, feeds: Mapping[str, Feed]) -> dict[str, float]:
        """See ``Worker.stages_ms``."""
        with self._one() as worker:
            return worker.stages_ms(feeds)

    def submit(self, feeds: Mapping[str, Feed]) -> Pending:
        """Begin a request; those that one thread has in flight share a worker.

        Raises:
            EngineError: See ``Worker.begin``.
        """
        lease = self._own_lease()
        try:
            return Pending(self, lease, lease.worker.begin(feeds))
        except BaseException:
            self.release(lease)
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """What the workers want to be known."""
        with self._lock:
            return self._notes

    def close(self) -> None:
        """Close the idle workers, and let go of the engine; a worker that computes is closed when it is done."""
        with self._lock:
            loaded, self._loaded, idle, self._idle = self._loaded, None, self._idle, []
        if loaded is not None and self._used:
            loaded.kernels.keep()
        with ExitStack() as last_first:
            for worker in idle:
                last_first.callback(worker.close)

    def release(self, lease: Lease) -> None:
        """One request fewer; a worker without any is idle."""
        worker = lease.worker
        with self._lock:
            lease.requests -= 1
            self._used = True
            self._notes = tuple(dict.fromkeys((*self._notes, *worker.notes)))
            if lease.requests:
                return
            if self._loaded is not None:
                self._idle.append(worker)
                return
        worker.close()

    @contextmanager
    def _one(self) -> Iterator[Worker]:
        lease = self._new_lease()
        try:
            yield lease.worker
        finally:
            self.release(lease)

    def _own_lease(self) -> Lease:
        """This thread's, as long as it has requests in flight."""
        with self._lock:
            lease = self._thread.lease() if hasattr(self._thread, "lease") else None
            if lease is not None and lease.requests:
                lease.requests += 1
                return cast("Lease", lease)
        lease = self._new_lease()
        self._thread.lease = weakref.ref(lease)  # weak, so that a thread keeps no worker of a closed engine
        return lease

    def _new_lease(self) -> Lease:
        with self._lock:
            loaded, worker = self._loaded, self._idle.pop() if self._idle else None
        if loaded is None:
            raise closed("TensorRT")
        return Lease(worker or Worker(loaded))
