"""What a person sees: steps with their time on stderr, tables on stdout. Rich is imported only when drawing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Table:
    """A table for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


class Steps:
    """Draws the steps of long work on stderr: a live bar on a terminal, a line a step elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: Any = None
        self._task: Any = None
        self._name = ""
        self._began = 0.0

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
        self._name, self._began = name, time.perf_counter()
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total)

    def advance(self, count: int = 1) -> None:
        """See ``medprompt.core.progress.Progress.advance``."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def _end(self) -> None:
        if not self._name:
            return
        if self._bar is not None:
            total = self._bar.tasks[-1].total or 1
            self._bar.update(self._task, total=total, completed=total)
        else:
            seconds = time.perf_counter() - self._began
            print(f"{self.title}: {self._name} ({seconds:.1f} s)", file=sys.stderr, flush=True)
        self._name = ""


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
