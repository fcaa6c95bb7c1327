"""Stdout is for answers: what libraries print there, in C or in Python, goes to stderr."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Send file descriptor 1 and ``sys.stdout`` to stderr meanwhile, for the whole process.

    ONNX Runtime prints that it falls back, and why, on stdout, in front of ``--json``.
    """
    try:
        kept = os.dup(1)
    except OSError:  # closed, as by a service manager: nothing can be printed
        yield
        return
    try:
        sys.stdout.flush()
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # What C buffered belongs to this time too.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
