"""Freed memory is kept for the next image: the kernel's pages are counted, not the time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medprompt.core.memory import OWN_WORDS, keep_freed_memory

IMAGES, IMAGE_BYTES, PAGE = 50, 3_000_000, os.sysconf("SC_PAGE_SIZE")

SCRIPT = f"""
import resource, sys
from medprompt.core.memory import keep_freed_memory

kept = len(sys.argv) > 1 and keep_freed_memory()
fresh = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for index in range({IMAGES}):
    bytearray({IMAGE_BYTES})
    before = before if index else fresh()
print(kept, fresh() - before)
"""
GLIBC = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else "")


def run(*words: str, **environment: str) -> tuple[bool, int]:
    """Whether memory was kept, and how many pages were new after the first image."""
    cleared = {name: value for name, value in os.environ.items() if name not in OWN_WORDS}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], env=cleared | environment, capture_output=True, text=True, check=True
    )
    kept, pages = done.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_the_next_image_takes_the_pages_of_the_last() -> None:
    kept, pages = run("keep")
    assert kept
    assert pages < 2 * IMAGE_BYTES // PAGE


@pytest.mark.parametrize("word", OWN_WORDS)
def test_what_the_user_says_holds(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(word, "131072")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in OWN_WORDS:
        monkeypatch.delenv(word, raising=False)
    monkeypatch.setattr("medprompt.core.memory.ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()
