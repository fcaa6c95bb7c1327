"""Memory of a process that reads one image after another."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""

KEPT_BYTES, LARGE_BYTES = 64 << 20, 32 << 20
"""What may lie free at the end of a heap, and from which size on memory is the kernel's again as soon as it is free."""

OWN_WORDS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Keep what an image took for the next one, for the rest of the process; for commands, never for a library call.

    As glibc has it, an image's arrays go back to the kernel as soon as they are free, and the next image's are pages
    that the kernel has to clear anew: a third of the time of decoding a JPEG or PNG of 640 x 480 pixels.

    Returns:
        Whether it is so; not where the C library is another one, or the user has said in the environment what it keeps.
    """
    if any(word in os.environ for word in OWN_WORDS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; TypeError on Windows
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, LARGE_BYTES))
