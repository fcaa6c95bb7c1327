"""What waits for the engine: a line that hands alike images out after one another, so that they make one batch."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from medprompt.core.detections import Detections
from medprompt.runtime.pipeline import Steps


@dataclass(frozen=True, eq=False)
class Job:
    """One image that waits.

    Attributes:
        kind: Equal for images that may be one batch: the model's image size, and the prompts.
        steps: What is to be done about it, see ``medprompt.runtime.pipeline``.
        answer: Where its detections go; cancelled where nobody waits for them any more.
    """

    kind: Hashable
    steps: Steps[Detections]
    answer: Future[Detections] = field(default_factory=Future)


class Line:
    """Jobs in line. Threads put, one takes.

    The oldest goes first, and behind it those of its kind, up to a batch. Where a batch is not full and nothing else
    waits, ``ready`` waits for more: at most ``delay_s`` from its last image on.

    Args:
        batch: Images that make a batch.
        delay_s: How long one may be late for the sake of the next.
    """

    def __init__(self, batch: int, delay_s: float) -> None:
        self._batch, self._delay_s = batch, delay_s
        self._waiting: OrderedDict[Hashable, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = self._paused = False
        self._kind: Hashable = None
        self._taken, self._taken_at = 0, 0.0

    def put(self, job: Job) -> None:
        """Line up."""
        with self._changed:
            self._waiting.setdefault(job.kind, deque()).append(job)
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Job]:
        """Jobs as they come, until the line is paused, or closed and empty."""
        self._paused, self._taken = False, 0
        while job := self._next():
            if job.answer.set_running_or_notify_cancel():
                yield job

    def ready(self) -> bool:
        """Whether the next is there, or there will be none; waits a moment where a batch has room."""
        with self._changed:
            rest_s = self._taken_at + self._delay_s - time.monotonic() if self._taken else 0.0
            return self._changed.wait_for(self._there, max(0.0, rest_s))

    def pause(self) -> None:
        """End the iteration before the next job; those that wait stay."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()

    def close(self) -> None:
        """No further job comes: the iteration ends with the last."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it is closed and empty."""
        with self._changed:
            return self._closed and not self._waiting

    def empty(self) -> list[Job]:
        """Take all that wait out, for an engine that answers no more."""
        with self._changed:
            jobs = [job for kind in self._waiting.values() for job in kind]
            self._waiting.clear()
            return [job for job in jobs if job.answer.set_running_or_notify_cancel()]

    def _there(self) -> bool:
        return bool(self._waiting) or self._closed or self._paused

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(self._there)
            if self._paused or not self._waiting:
                return None
            if self._kind not in self._waiting or self._taken == 0:
                self._kind, self._taken = next(iter(self._waiting)), 0
            jobs = self._waiting[self._kind]
            job = jobs.popleft()
            del self._waiting[self._kind]
            if jobs:
                self._waiting[self._kind] = jobs  # behind the other kinds
            self._taken, self._taken_at = (self._taken + 1) % self._batch, time.monotonic()
            return job
