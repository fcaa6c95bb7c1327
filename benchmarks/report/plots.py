"""The report's plots: matplotlib's SVG, in the page's own text colour so that they are legible in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from medprompt.benchmarks.latency.stages import STAGES, StageReport
from medprompt.benchmarks.latency.timing import LatencyReport
from medprompt.core.overlay import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""What is drawn in this colour takes the page's."""

SIDES = {"bundle": "-", "PyTorch": "--"}
"""Line style of each side."""

SIDE_COLOURS = {"bundle": INK, "PyTorch": "#7A8691"}
"""Of lines over all classes: no class's colour."""

STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "medprompt",
    "axes.prop_cycle": "",
}
"""Text as paths: the file needs no font. The salt keeps ids, and so the file, the same from run to run."""


@contextmanager
def _plot(title: str, x: str, y: str, alt: str, drawn: list[str]) -> Iterator[Axes]:
    """Yield axes; what is drawn on them is appended to ``drawn`` as an SVG element that says ``alt``."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(5.4, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=x, ylabel=y)
        yield axes
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?<svg", "<svg", stream.getvalue(), count=1, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # Several plots stand in one page: their ids must differ.
    number = len(drawn)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>p{number}-", svg)
    label = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    drawn.append(svg.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def accuracy_plots(entry: Mapping[str, Any], colours: Mapping[str, str], drawn: list[str]) -> list[str]:
    """Precision over recall, FROC and calibration of one set.

    Args:
        entry: ``SetResult.as_json()``.
        colours: See ``class_colours``.
        drawn: All plots of the page so far; these are appended.

    Returns:
        The new ones.
    """
    first = len(drawn)
    sides = {"bundle": entry["bundle"], "PyTorch": entry["reference"]}
    sides = {name: side for name, side in sides.items() if side}
    name, labels = entry["name"].rsplit("/", 1)[-1], list(entry["bundle"]["precision_recall_by_label"])
    with _plot("Precision over recall", "recall", "precision", f"Precision over recall on {name}", drawn) as axes:
        for side, style in SIDES.items():
            for label in labels if side in sides else ():
                points = sides[side]["precision_recall_by_label"][label]
                text = label if side == "bundle" else None
                axes.plot(points["recall"], points["precision"], style, color=colours[label.casefold()], label=text)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend()
    axis = "false positives an image"
    with _plot("FROC", axis, "sensitivity", f"Sensitivity over false positives an image on {name}", drawn) as axes:
        for side, style in SIDES.items():
            if side in sides:
                points = sides[side]["froc"]["points"]
                rates = [point["false_positives_an_image"] for point in points]
                axes.plot(
                    rates,
                    [_nan(point["sensitivity"]) for point in points],
                    f"o{style}",
                    color=SIDE_COLOURS[side],
                    label=side,
                    ms=4,
                )
        axes.set(xscale="log", ylim=(0, 1.02))
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
        axes.legend()
    with _plot("Calibration", "score", "share that is right", f"Reliability of scores on {name}", drawn) as axes:
        axes.plot([0, 1], [0, 1], ":", color=INK, alpha=0.5)
        for side, style in SIDES.items():
            if side in sides:
                bins = [one for one in sides[side]["calibration"]["bins"] if one["count"]]
                values = [one["score"] for one in bins]
                error = sides[side]["calibration"]["ece"]
                text = side if error is None else f"{side}, ECE {error:.3f}"
                axes.plot(
                    values, [one["precision"] for one in bins], f"o{style}", color=SIDE_COLOURS[side], label=text, ms=4
                )
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend()
    return drawn[first:]


def latency_plots(latency: LatencyReport, stages: Sequence[StageReport], drawn: list[str]) -> list[str]:
    """How the times of each contender spread, and what they are made of.

    Returns:
        The new plots; they are appended to ``drawn`` too.
    """
    first = len(drawn)
    names = list(latency.series)
    with _plot("Wall time of a call", "ms", "share of calls", "Distribution of latency by contender", drawn) as axes:
        for name in names:
            times = np.sort(latency.series[name].wall_ms)
            axes.step(times, np.arange(1, len(times) + 1) / len(times), where="post", label=name)
        axes.set(ylim=(0, 1.02), xlim=(0, None))
        axes.legend()
    with _plot("Where the time goes", "ms, median", "", "Median time of each stage on each engine", drawn) as axes:
        left = np.zeros(len(stages))
        for stage in STAGES:
            medians = np.array([np.median(one.wall_ms[stage]) for one in stages])
            axes.barh([one.device for one in stages], medians, left=left, label=stage, height=0.5)
            left += medians
        axes.grid(visible=False, axis="y")
        axes.legend(ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.45, -0.2), columnspacing=1, handlelength=1)
    return drawn[first:]


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
