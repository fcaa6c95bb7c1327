"""The learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medprompt.core.files import atomic_write

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
