"""The lines that a training prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


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
