"""Steps of a long measurement: each is a process of its own, and its figures outlive a run that is stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from medprompt.benchmarks.latency.machine import describe_machine, format_machine
from medprompt.benchmarks.latency.processes import measured_process
from medprompt.core.files import write_json
from medprompt.core.terminal import print_table

Step = Callable[[Path], Mapping[str, Any]]
"""Works in the run's folder and returns figures of its own, which JSON can hold."""


def measure_steps(module: str, names: Iterable[str], out: Path, threads: int = 1) -> dict[str, dict[str, Any]]:
    """Run those steps that ``out/figures.json`` has no figures of, and write it after each.

    Args:
        module: Its function ``steps()`` gives each ``Step`` by name.
        names: Of the steps, in order.
        out: The run's folder; made.
        threads: OpenMP's.

    Returns:
        Figures of all steps that ``out`` has, by name: the process's ``cpu_s``, ``wall_s``, ``peak_mib``, and its own.

    Raises:
        MedpromptError: A step failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = out / "figures.json"
    figures: dict[str, dict[str, Any]] = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    for name in (name for name in names if name not in figures):
        print(name, file=sys.stderr, flush=True)
        process, printed = measured_process([_child(module, name, out.resolve())], threads)
        figures[name] = {**vars(process), **json.loads(printed.splitlines()[-1])}
        write_json(written, figures)
    return figures


def print_steps(title: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """A table with a row a step."""
    rows = [
        (name, f"{one['cpu_s']:.0f}", f"{one['wall_s']:.0f}", f"{one['peak_mib'] / 1024:.1f}", _rest(one))
        for name, one in figures.items()
    ]
    print_table(title, ("step", "CPU s", "s", "peak GiB", ""), rows, format_machine(describe_machine()))


def _child(module: str, name: str, work: Path) -> str:
    """What runs one step in a process of its own."""
    return (
        f"import json, pathlib; from {module} import steps; "
        f"print(json.dumps(steps()[{name!r}](pathlib.Path({str(work)!r}))))"
    )


def _rest(figures: Mapping[str, Any]) -> str:
    own = {name: value for name, value in figures.items() if name not in ("cpu_s", "wall_s", "peak_mib")}
    return ", ".join(f"{name} {value}" for name, value in own.items())
