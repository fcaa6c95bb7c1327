"""Threads around a detector: what comes before it runs ahead, what comes after it runs behind, both only so far."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_END = object()


class Prefetcher(Generic[T]):
    """Items made in a thread of their own, at most ``depth`` of them before their reader. A context manager.

    An error of the maker is raised at its position in the order.

    A full queue loses its oldest item where ``drop`` is set, as for a camera; otherwise the maker waits. ``dropped``
    counts the items lost so far.
    """

    def __init__(self, items: Iterable[T], depth: int = 4, drop: bool = False) -> None:
        self.dropped = 0
        self._items, self._depth, self._drop = items, depth, drop
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._make, name="medprompt-ahead", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        with self._changed:
            if self._drop and len(self._waiting) == self._depth:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._waiting) < self._depth or self._closed)
            if not self._closed:
                self._waiting.append(item)
            self._changed.notify_all()
            return not self._closed

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def ready(self) -> bool:
        """Whether its reader would not have to wait now."""
        with self._changed:
            return bool(self._waiting) or self._ended

    def end(self) -> None:
        """Give the reader nothing more, and stop the maker before its next item: what waits is dropped."""
        with self._changed:
            self._waiting.clear()
            self._closed = self._ended = True
            self._changed.notify_all()

    def close(self, wait_s: float = 15.0) -> None:
        """Stop the maker before its next item, and wait for it that long."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(wait_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Allowance:
    """Bytes that may be in use; whoever would use more waits. A context manager, at whose end nobody waits any more.

    One who may go on may exceed it: how much an image needs is known once it is decoded.
    """

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0
        self._changed = threading.Condition()

    def wait(self) -> None:
        """Return as soon as less than all is used."""
        with self._changed:
            self._changed.wait_for(lambda: self._used < self._most)

    def use(self, size: int) -> None:
        """Take bytes, or give them back where negative."""
        with self._changed:
            self._used += size
            self._changed.notify_all()

    def spent(self) -> bool:
        """Whether ``wait`` would wait."""
        with self._changed:
            return self._used >= self._most

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.use(-sys.maxsize)


class BackgroundWriter(Generic[T]):
    """Items handed to a thread of their own, at most ``depth`` of them waiting. A context manager.

    An error of ``use`` is raised by the next ``put``, or at the end.

    ``use`` is called with each item, in order. Where ``depth`` items wait, ``put`` does.
    """

    def __init__(self, use: Callable[[T], None], depth: int = 4) -> None:
        self._use = use
        self._queue: Queue[T | object] = Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="medprompt-behind", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            if self._error is None:
                try:
                    self._use(item)  # type: ignore[arg-type]
                except BaseException as error:
                    self._error = error

    def put(self, item: T) -> None:
        """Hand an item over."""
        self._raise()
        self._queue.put(item)

    def close(self) -> None:
        """Wait until all is used."""
        if self._thread.is_alive():
            self._queue.put(_END)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None:
            self._raise()
