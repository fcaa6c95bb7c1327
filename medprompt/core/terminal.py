"""What a person sees: steps with their time on stderr, tables on stdout. Rich is imported only when drawing."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HEARTBEAT_S = 30.0
"""Seconds between two lines about a step that goes on, where no bar can be drawn."""


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
    """Draws the steps of long work on stderr: a live bar on a terminal, elsewhere a line a step and ``HEARTBEAT_S``."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: Any = None
        self._task: Any = None
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._told = 0.0

    def __enter__(self) -> Steps:
        if sys.stderr.isatty():
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
        if kind is None:
            self._end()
        if self._bar is not None:
            self._bar.stop()

    def step(self, name: str, total: int | None = None) -> None:
        """See ``medprompt.core.progress.Progress.step``."""
        self._end()
        self._name, self._total, self._done = name, total, 0
        self._began = self._told = time.perf_counter()
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total)

    def advance(self, count: int = 1) -> None:
        """See ``medprompt.core.progress.Progress.advance``."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)
        elif self._bar is None and time.perf_counter() - self._told >= HEARTBEAT_S:
            self._told = time.perf_counter()
            of = "" if self._total is None else f" of {self._total}"
            self._say(f"{self._name}: {self._done}{of}", self._told - self._began)

    def _end(self) -> None:
        if not self._name:
            return
        if self._bar is not None:
            total = self._bar.tasks[-1].total or 1
            self._bar.update(self._task, total=total, completed=total)
        else:
            self._say(self._name, time.perf_counter() - self._began)
        self._name = ""

    def _say(self, text: str, seconds: float) -> None:
        print(f"{self.title}: {text} ({seconds:.1f} s)", file=sys.stderr, flush=True)


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
