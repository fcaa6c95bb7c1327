"""Signals that end a work at a place of its choice instead of anywhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self


class HeardInterrupt:
    """Ctrl-C is heard and not raised: ``came`` is set and ``then`` is called. The next one is raised as ever.

    A context manager. It changes nothing outside of the main thread, where no signal arrives, and nothing where
    somebody else listens to Ctrl-C.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self.came = False
        self._then = then
        main = threading.current_thread() is threading.main_thread()
        self._listens = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def _hear(self, number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.came = True
        self._then()

    def __enter__(self) -> Self:
        if self._listens:
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def ends_heard_by(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Let a handler hear SIGTERM and SIGINT while the block lasts; no signal comes outside of the main thread.

    Args:
        handler: As of ``signal.signal``: told the number and the frame.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
