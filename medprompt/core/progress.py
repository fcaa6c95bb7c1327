"""How long work tells its caller where it stands. The command line draws it; libraries stay silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listens to the steps of long work."""

    def step(self, name: str, total: int | None = None) -> None:
        """Begin a step of ``total`` items, where that is known; the one before it has ended."""

    def advance(self, count: int = 1) -> None:
        """``count`` more items of the present step are done."""


class Silent:
    """The default listener: says nothing."""

    def step(self, name: str, total: int | None = None) -> None:
        """See ``Progress.step``."""

    def advance(self, count: int = 1) -> None:
        """See ``Progress.advance``."""
