"""Tables of the documentation, drawn from docs/results: a page's table can't differ from what a command measured.

``<!-- table: NAME.json … -->`` and ``<!-- /table -->`` in a page enclose what is drawn from these files. Renew all
pages with ``python -m medprompt.benchmarks.research.docs_tables``; ``--check`` fails where a page differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"

_TABLE = re.compile(r"(?P<head><!-- table: (?P<names>[^>]+?) -->\n)(?P<body>.*?)(?P<foot><!-- /table -->)", re.DOTALL)

Record = dict[str, Any]
Rows = Iterator[Sequence[str]]


def pages_from_results(docs: Path = DOCS) -> dict[Path, str]:
    """Return each page that holds a table, with the text that it should have.

    Args:
        docs: Folder of the pages and of ``results/``.

    Raises:
        FileNotFoundError: A page names a file that ``results/`` lacks.
        KeyError: No table is drawn from files of that name.
    """
    found = {}
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _TABLE.search(text):
            found[page] = _TABLE.sub(lambda match: _renewed(match, docs / "results"), text)
    return found


def table(names: Sequence[str], results: Path) -> str:
    """Draw one table from result files, with a line on how and where it was made.

    Args:
        names: Files of ``results``, such as ``latency.json``; the first one's name decides what is drawn.
        results: Their folder.

    Returns:
        Markdown.
    """
    records = [json.loads((results / name).read_text(encoding="utf-8")) for name in names]
    columns, rows = TABLES[re.split(r"[-.]", names[0])[0]]
    lines = [columns, ["---"] * len(columns), *rows(records)]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{drawn}\n\n{_made(records)}\n"


def _renewed(match: re.Match[str], results: Path) -> str:
    return match["head"] + table(match["names"].split(), results) + match["foot"]


def _made(records: Sequence[Record]) -> str:
    days = sorted({date.fromisoformat(record["date"]) for record in records})
    machine = records[0]["machine"]
    units = ", ".join(machine["vector_units"])
    when = " and ".join(f"{day.day} {day:%B %Y}" for day in days)
    versions = machine["libraries"]
    with_ = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino") if versions.get(name))
    load = records[0]["output"].get("machine", {}).get("load_1min")
    busy = f" Load of the machine at the start: {load}." if load is not None else ""
    return (
        f"Measured on {when}: {machine['cpu']}, {machine['cores']} cores ({units}), {machine['system']}, {with_}.{busy}"
    )


def _export(records: Sequence[Record]) -> Rows:
    for engine in records[0]["output"]["engines"]:
        if (parity := engine["parity"]) is None:
            yield (engine["device"], engine["precision"], "-", "-", "-", "-", engine["reason"])
            continue
        yield (
            *(engine["device"], engine["precision"], f"{parity['decisions']:,}", _share(parity["kept"])),
            *(
                f"{parity['min_iou']:.5f}",
                f"{parity['max_score_delta']:.6f}",
                "passed" if parity["passed"] else "failed",
            ),
        )


def _support(records: Sequence[Record]) -> Rows:
    for record in records:
        engines = {engine["device"]: engine for engine in record["output"]["engines"]}
        cells = [_verified(engines.get(device)) for device in ("ort-cpu", "openvino", "ort-cuda", "trt", "trt-rtx")]
        yield (record["output"]["family"], *cells)


def _verified(engine: Record | None) -> str:
    if engine and (parity := engine["parity"]):
        which = "the best " if parity["fallback_top"] else ""
        result = "proven" if parity["passed"] else "failed"
        return f"parity {result}: {_share(parity['kept'])} of {which}{parity['decisions']:,}"
    return f"compiled only ({', '.join(engine['compiled']['gpus'])})" if engine and engine["compiled"] else "never run"


def _performance(records: Sequence[Record]) -> Rows:
    latency, *accuracies = (record["output"] for record in records)
    by_device = {output["device"]: output["sets"] for output in accuracies}
    for name, timed in latency["rivals"].items():
        device = name.removeprefix("bundle on ")
        sets = by_device.get(device, accuracies[0]["sets"])
        side = "bundle" if device in by_device else "reference"
        measured = device in by_device or name == "PyTorch fp32"  # PyTorch in another precision decides otherwise
        kept = [_share(entry["parity"]["kept"]) if side == "bundle" else "-" for entry in sets]
        yield (
            *(name, _ratio(timed["ratio"]), _ratio(timed["cpu_ratio"])),
            *(_interval(entry[side]["estimates"]["ap50"]) if measured else "-" for entry in sets),
            *kept,
        )


def _compile(records: Sequence[Record]) -> Rows:
    for record in records:
        output = record["output"]
        memory = f"{output['activation_bytes'] / 2**20:,.0f}"
        yield (
            output["precision"],
            ", ".join(output["gpus"]),
            f"{output['builder']} {output['builder_version']}",
            memory,
        )


def _contenders(records: Sequence[Record]) -> Rows:
    outputs = [record["output"] for record in records]
    names = dict.fromkeys(name for output in outputs for name in _taking_part(output))
    for name in names:
        yield (name, *(_contender(output, name) for output in outputs))


def _taking_part(output: Record) -> Sequence[str]:
    return [*output["rivals"], *output["too_slow"], *output["absent"]]


def _contender(output: Record, name: str) -> str:
    if name in output["too_slow"]:
        return f"{output['too_slow'][name]['first_call_cpu_ratio']:.0f} (CPU time of one call)"
    if name not in output["rivals"]:
        return "cannot run it" if name in output["absent"] else "-"
    timed = output["rivals"][name]
    if name == next(iter(output["rivals"])):
        return f"1.00 ({timed['p50_ms'] / 1e3:.1f} s)"
    return _ratio(timed["ratio"])


def _share(value: float) -> str:
    # Cut, not rounded: 99.996 % must not read as all.
    return "100 %" if value == 1 else f"{int(value * 10_000) / 100:.2f} %"


def _ratio(ratio: Record) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f})"


def _interval(estimate: Record) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} … {estimate['high']:.3f})"


TABLES: dict[str, tuple[Sequence[str], Callable[[Sequence[Record]], Rows]]] = {
    "export": (("engine", "precision", "decisions", "kept", "least IoU", "largest Δscore", "result"), _export),
    "support": (("family", "ONNX Runtime CPU", "OpenVINO", "ONNX Runtime CUDA", "TensorRT", "TensorRT-RTX"), _support),
    "latency": (
        (
            *("runs on", "time × PyTorch (95 %)", "CPU time × PyTorch (95 %)"),
            *("AP50, blood cells (95 %)", "AP50, nuclei (95 %)", "decisions kept, blood cells", "nuclei"),
        ),
        _performance,
    ),
    "contenders": (
        ("time × PyTorch (95 %)", "Grounding DINO Swin-T, 800²", "OWLv2 B/16, 960²", "OmDet-Turbo Swin-T, 640²"),
        _contenders,
    ),
    "compile": (("precision", "compiled for", "builder", "GPU memory for activations, MiB"), _compile),
}
"""By the first part of a file's name: the columns, and the rows drawn from the records."""


def _main() -> int:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.docs_tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where a page differs")
    check = parser.parse_args().check
    differing = [(page, text) for page, text in pages_from_results().items() if page.read_text("utf-8") != text]
    for page, text in differing:
        print(page.relative_to(DOCS), file=sys.stderr)
        if not check:
            page.write_text(text, encoding="utf-8")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(_main())
