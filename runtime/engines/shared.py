"""A loaded engine that several detectors hold."""

from __future__ import annotations

from threading import Lock
from typing import Protocol

from medprompt.runtime.engines.base import closed


class Closable(Protocol):
    """An engine, or several as one."""

    def close(self) -> None:
        """See ``Engine.close``."""


class Hold:
    """One holder's hold on an engine; the last one to be let go closes it. Threads may use it.

    Args:
        engine: The engine.
        device: Its name, for messages.
        other: Another hold on the same engine; None where this is the first.
    """

    def __init__(self, engine: Closable, device: str, other: Hold | None = None) -> None:
        self._engine, self._device, self._held = engine, device, True
        self._lock: Lock = other._lock if other else Lock()
        self._holders: list[int] = other._holders if other else [0]
        with self._lock:
            self._holders[0] += 1

    def another(self) -> Hold:
        """A hold of somebody else."""
        return Hold(self._engine, self._device, self)

    def check(self) -> None:
        """Refuse to go on without it; the engine may still be open, for others.

        Raises:
            EngineError: It was let go.
        """
        if not self._held:
            raise closed(self._device)

    def let_go(self) -> bool:
        """Let go, and whether it was held until now."""
        with self._lock:
            held, self._held = self._held, False
            self._holders[0] -= held
            last = held and not self._holders[0]
        if last:
            self._engine.close()
        return held
