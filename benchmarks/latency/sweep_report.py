"""A sweep for people and programs: tables, CSV, curves."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.latency.machine import format_machine
from medprompt.core.errors import missing_extra
from medprompt.core.files import atomic_write
from medprompt.core.output_kinds import file_kind
from medprompt.core.overlay import SOFTWARE
from medprompt.core.terminal import Table


@dataclass(frozen=True)
class Row:
    """One measured point.

    Attributes:
        axis, value: What was varied, and its value here.
        device, phrases, batch, threads, side: See ``medprompt.benchmarks.latency.sweep.Point``, zeros replaced by what
            they stand for.
        p50_ms, p90_ms, p99_ms: Wall time of a call.
        ms_per_image: Median over the batch.
        images_per_s: Its inverse.
        ratio: p50 over that of the axis's first point on the same engine, with its 95 % interval.
        low, high: Of the ratio.
    """

    axis: str
    value: int
    device: str
    phrases: int
    batch: int
    threads: int
    side: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    ms_per_image: float
    images_per_s: float
    ratio: float
    low: float
    high: float


POINT_TABLE = file_kind("a table of points", ",".join(field.name for field in fields(Row)))


@dataclass(frozen=True)
class Sweep:
    """All rows, and what they were measured on."""

    rows: tuple[Row, ...]
    machine: dict[str, Any]
    bundle_sha256: str

    def tables(self) -> Iterator[Table]:
        """One table an axis."""
        for axis in dict.fromkeys(row.axis for row in self.rows):
            cells = [
                (
                    row.device,
                    str(row.value),
                    f"{row.p50_ms:.1f}",
                    f"{row.p99_ms:.1f}",
                    f"{row.ms_per_image:.1f}",
                    f"{row.ratio:.2f} ({row.low:.2f} … {row.high:.2f})",
                )
                for row in self.rows
                if row.axis == axis
            ]
            columns = ("engine", axis, "p50 ms", "p99 ms", "ms an image", "over the first (95 %)")
            yield Table(f"Latency by {axis}", columns, cells, format_machine(self.machine))

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {**vars(self), "rows": [asdict(row) for row in self.rows]}

    def write_csv(self, path: Path) -> None:
        """Write one line a row, whole or not at all."""
        with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)

    def write_plot(self, path: Path) -> None:
        """Draw one panel an axis, a line an engine, with the median and up to the 99th percentile.

        Raises:
            EngineError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise missing_extra("Plotting", "matplotlib", "bench") from error
        axes = list(dict.fromkeys(row.axis for row in self.rows))
        figure = Figure(figsize=(4.5 * len(axes), 3.6), layout="constrained")
        for panel, axis in zip(np.ravel(figure.subplots(1, len(axes))), axes, strict=True):
            for device in dict.fromkeys(row.device for row in self.rows):
                rows = [row for row in self.rows if (row.axis, row.device) == (axis, device)]
                values, scale = [row.value for row in rows], [row.ms_per_image / row.p50_ms for row in rows]
                panel.plot(values, [row.ms_per_image for row in rows], marker="o", label=device)
                upper = [row.p99_ms * share for row, share in zip(rows, scale, strict=True)]
                panel.fill_between(values, [row.ms_per_image for row in rows], upper, alpha=0.15)
            panel.set(xlabel=axis, ylabel="ms an image, p50 … p99", xscale="log", ylim=(0, None))
            points = sorted({row.value for row in self.rows if row.axis == axis})
            panel.set_xticks(points, [str(point) for point in points])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
        with atomic_write(path) as aside:
            figure.savefig(aside, format="png", dpi=120, metadata=SOFTWARE)
