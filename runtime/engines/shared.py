"""A loaded engine that several detectors hold."""

from __future__ import annotations

from threading import Lock
from typing import Protocol


class Closable(Protocol):
    """An engine, or several as one."""

    def close(self) -> None:
        """See ``Engine.close``."""


class SharedEngine:
    """Counts who holds an engine; the last to let go closes it. Threads may use it."""

    def __init__(self, engine: Closable) -> None:
        self._engine, self._holders, self._lock = engine, 1, Lock()

    def hold(self) -> None:
        """One more holds it."""
        with self._lock:
            self._holders += 1

    def let_go(self) -> None:
        """One less; whoever held it does this once."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._engine.close()
