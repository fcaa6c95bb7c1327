"""A run's log: every figure of every report in one CSV, and the curve of loss and AP beside it."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medprompt.core.errors import DataError
from medprompt.core.files import atomic_write

LOG_FILE = "log.csv"
"""In a run's folder: a line a figure (``step,figure,value,seconds``), through kills and resumes."""

CURVE_FILE = "curve.png"
"""In a run's folder: loss and AP by step, drawn anew at each measurement."""

COLUMNS = ("step", "figure", "value", "seconds")

Report = Callable[[dict[str, Any]], None]
Rows = dict[tuple[int, str], tuple[float, float | None]]
"""By step and figure: its value, and the seconds the run had taken; None in a log from before they were noted."""


class RunLog:
    """A report that is written down as well.

    A resumed run repeats the steps since its last save, and may end sooner than the first one got: with its first row
    all that was written of later steps goes. ``curve`` is a PNG to draw at each measurement, if any.

    Raises:
        DataError: The file is damaged.
    """

    def __init__(self, report: Report, path: Path, curve: Path | None = None) -> None:
        self.report, self.path, self.curve = report, path, curve
        self.rows = _read_log(path) if path.is_file() else {}
        self._began: float | None = None
        self._created = time.perf_counter()

    def __call__(self, row: dict[str, Any]) -> None:
        """Write a row's figures down (all but ``step`` and ``steps``), and report it."""
        if self._began is None:
            self._began = self._go_on_from(row["step"])
        seconds = time.perf_counter() - self._began
        figures = {name: value for name, value in row.items() if name not in ("step", "steps") and value is not None}
        self.rows.update({(row["step"], name): (float(value), seconds) for name, value in figures.items()})
        self._write()
        if self.curve and "loss" not in row:
            draw_curve({key: value for key, (value, _) in self.rows.items()}, self.curve)
        self.report(row)

    def _go_on_from(self, step: int) -> float:
        """Forget later steps; return when an undisturbed run would have begun, by this process's clock."""
        for key in [key for key in self.rows if key[0] > step]:
            del self.rows[key]
        earlier = [seconds or 0.0 for (known, _), (_, seconds) in self.rows.items() if known < step]
        return self._created - max(earlier, default=0.0)

    def _write(self) -> None:
        with atomic_write(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(COLUMNS)
            for (step, name), (value, seconds) in sorted(self.rows.items(), key=lambda item: item[0]):
                writer.writerow((step, name, f"{value:.8g}", "" if seconds is None else f"{seconds:.1f}"))


def _read_log(path: Path) -> Rows:
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return {(int(row["step"]), row["figure"]): _entry(row) for row in csv.DictReader(handle)}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            "The run's log is damaged.",
            where=str(path),
            expected="lines of step,figure,value,seconds",
            got=str(error),
            fix="delete the log; the run goes on from its last save without it",
        ) from error


def _entry(row: Mapping[str, str]) -> tuple[float, float | None]:
    return float(row["value"]), float(row["seconds"]) if row.get("seconds") else None


Points = list[tuple[int, float]]


def draw_curve(figures: Mapping[tuple[int, str], float], path: Path) -> bool:
    """Draw the figures named ``loss`` and ``ap/SET`` by step as a PNG, whole or not at all.

    Returns:
        Whether it was drawn: nothing is without matplotlib (a run needs none), or without a figure.
    """
    panels = [panel for panel in (_series(figures, "loss"), _series(figures, "ap/")) if panel]
    if not panels or find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), index + 1), panel)
    with atomic_write(path) as aside:
        figure.savefig(aside, format="png", dpi=100)
    return True


def _series(figures: Mapping[tuple[int, str], float], start: str) -> dict[str, Points]:
    series: dict[str, Points] = {}
    for (step, name), value in sorted(figures.items()):
        if name.startswith(start):
            series.setdefault(name, []).append((step, value))
    return series


def _draw(axes: Any, panel: Mapping[str, Points]) -> None:
    for name, points in panel.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=name)
    axes.set(xlabel="step", ylabel="loss" if "loss" in panel else "average precision")
    if "loss" not in panel:
        highest = max(value for points in panel.values() for _, value in points)
        axes.set_ylim(0, 1.1 * highest if highest > 0 else 1)  # NaN, of a set without a box, is not above 0
        axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
