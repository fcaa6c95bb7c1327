"""What a person sees: steps with their time on stderr, tables on stdout. Rich is imported only when drawing."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FIRST_S, HEARTBEAT_S = 2.0, 30.0
"""Seconds until the first line about a step that goes on, and between two of them, where no bar can be drawn."""


@dataclass(frozen=True)
class Table:
    """A table for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""

    def as_json(self) -> dict[str, Any]:
        """Title, columns and rows of text, as attached reports keep them."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(map(str, row)) for row in self.rows]}


class Steps:
    """Draws the steps of long work on stderr: a live bar on a terminal, elsewhere lines.

    A step's line is printed when it ends; of one that goes on, ``FIRST_S`` after it began and then every
    ``HEARTBEAT_S``, by a thread of its own: one call of a library may take minutes.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: Any = None
        self._task: Any = None
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._due = 0.0
        self._changed = threading.Condition()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Steps:
        if not sys.stderr.isatty():
            return self
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.SpinnerColumn(finished_text="[green]✓"),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._end(told=kind is None)
            self._changed.notify()
        if self._watch is not None:
            self._watch.join()
        if self._bar is not None:
            self._bar.stop()

    def step(self, name: str, total: int | None = None) -> None:
        """See ``medprompt.core.progress.Progress.step``."""
        with self._changed:
            self._end()
            self._name, self._total, self._done = name, total, 0
            self._began = time.perf_counter()
            self._due = self._began + FIRST_S
            self._changed.notify()
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total)
        elif self._watch is None:
            self._watch = threading.Thread(target=self._tell_what_goes_on, daemon=True)
            self._watch.start()

    def advance(self, count: int = 1) -> None:
        """See ``medprompt.core.progress.Progress.advance``."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def _tell_what_goes_on(self) -> None:
        with self._changed:
            while self._name:
                now = time.perf_counter()
                if now >= self._due:
                    self._say(self._name + self._so_far(), now - self._began, self._left(now - self._began))
                    self._due = now + HEARTBEAT_S
                self._changed.wait(max(0.0, self._due - now))

    def _so_far(self) -> str:
        if self._total is None:
            return f": {self._done}" if self._done else " …"
        return f": {self._done} of {self._total}"

    def _left(self, seconds: float) -> str:
        """What the part that is done foretells of the rest."""
        if not self._done or self._total is None or self._total <= self._done:
            return ""
        left = seconds / self._done * (self._total - self._done)
        return f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"

    def _end(self, told: bool = True) -> None:
        """End the step that is going on, if one is."""
        if self._name and self._bar is not None and told:
            total = self._bar.tasks[-1].total or 1
            self._bar.update(self._task, total=total, completed=total)
        elif self._name and told:
            self._say(self._name, time.perf_counter() - self._began)
        self._name = ""

    def _say(self, text: str, seconds: float, more: str = "") -> None:
        sys.stderr.write(f"{self.title}: {text} ({seconds:.1f} s{more})\n")
        sys.stderr.flush()


def names_apart(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other of them has: the file's name, with its folder where two share it."""
    depth = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(path.parts[-count:]) for path, count in depth.items()}
        shared = {name for name, count in Counter(names.values()).items() if count > 1}
        longer = [path for path, name in names.items() if name in shared and depth[path] < len(path.parts)]
        if not longer:
            return names
        for path in longer:
            depth[path] += 1


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    align: Literal["left", "right"] = "right",
) -> None:
    """Print a table on stdout; columns after the first are aligned as numbers are, or as ``align`` says."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: rich would take "[trt]" in a command for markup and leave it out.
    table = Table(title=Text(title), caption=Text(caption), title_justify="left", caption_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else align, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_markdown(text: str) -> None:
    """Print Markdown on a terminal."""
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def training_reporter() -> Callable[[dict[str, Any]], None]:
    """Print a line a report, with the time left as the steps so far foretell it."""
    began = time.perf_counter()
    seen: list[tuple[int, float]] = []  # the first report: where this process took up the run

    def report(row: dict[str, Any]) -> None:
        now = time.perf_counter()
        first, since = seen[0] if seen else (row["step"], now)
        seen[:] = [(first, since)]
        spent, done = now - began, row["step"] - first
        left = f", {(now - since) / done * (row['steps'] - row['step']) / 60:.0f} min left" if done else ""
        figures = "  ".join(
            f"{key} {value:.4g}" for key, value in row.items() if key not in ("step", "steps") and value is not None
        )
        print(f"step {row['step']}/{row['steps']}  {figures}  ({spent / 60:.1f} min{left})", flush=True)

    return report
