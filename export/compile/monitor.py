"""What a builder reports while it works, and how Ctrl-C reaches it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from medprompt.core.progress import Progress

SHOWN_DEPTH = 2
"""Phases below this are thousands, each over in milliseconds."""

POLL_S = 0.2
"""How often the waiting thread looks for Ctrl-C."""


class Build:
    """One build: what it said, and whether it is to stop. Builders call from threads of their own."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._title = title
        self.errors: list[str] = []
        self.notes: list[str] = []
        self.cancelled = threading.Event()
        self._progress = progress
        self._depths: dict[str, int] = {}
        self._shown = ""
        self._lock = threading.Lock()

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; near the top it becomes a step of the progress."""
        with self._lock:
            depth = self._depths.get(parent or "", 0) + 1
            self._depths[name] = depth
            if 1 < depth <= SHOWN_DEPTH + 1:
                self._shown = name
                self._progress.step(f"{self._title}: {name[:1].lower()}{name[1:]}", steps)

    def step_complete(self, name: str) -> bool:
        """A step of a phase is done; answer whether to go on."""
        with self._lock:
            if name == self._shown:
                self._progress.advance()
        return not self.cancelled.is_set()


def monitor_of_build(trt: Any, build: Build) -> Any:
    """The package's progress monitor, speaking to a ``Build``."""

    class Monitor(trt.IProgressMonitor):
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            build.phase_start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            """A phase's end shows in the beginning of the next."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            return build.step_complete(phase_name)

    return Monitor()


def run_cancellable(work: Callable[[], Any], build: Build) -> Any:
    """Run a build in a thread, so that Ctrl-C is heard at once; the build then stops at its next step.

    Raises:
        KeyboardInterrupt: Ctrl-C, once the build has ended.
        Exception: Whatever ``work`` raises.
    """
    # No joined thread: before Python 3.13 an interrupted join takes the thread for ended.
    pool = ThreadPoolExecutor(1, "compile")
    answer = pool.submit(work)
    pool.shutdown(wait=False)
    try:
        while not wait([answer], POLL_S).done:
            pass
    except BaseException:
        build.cancelled.set()
        wait([answer])
        raise
    return answer.result()
