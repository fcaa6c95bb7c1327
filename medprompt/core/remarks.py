"""Warnings of libraries, recorded by whoever must know of them: to some, they say that a file is damaged."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_ONE_AT_A_TIME = threading.RLock()
"""Python has one list of filters and one way to show warnings for all threads. Two that each replaced them at once
would get each other's warnings: a damaged file would pass, and a sound one be refused."""


@contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings of this thread, all of them; those of others are shown as before.

    Threads take turns.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        remarks: list[warnings.WarningMessage] = []
        show, own = warnings.showwarning, threading.get_ident()

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if threading.get_ident() == own:
                remarks.append(warnings.WarningMessage(message, category, filename, lineno, file, line))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.simplefilter("always")
        warnings.showwarning = note
        yield remarks
