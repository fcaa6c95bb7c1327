"""Label sets of many layouts through the commands: is one silently read as something else?

Run it as ``python -m medprompt.benchmarks.research.label_sets CASES.json … --bundle demo.bundle --checkpoint CHECKPOINT
--prompts P.yaml --out rows.jsonl``. A file of cases names label sets: ``{name: [address, what is expected]}``. What is
``same`` has the AP of the first such case, ``warned`` has it with a warning, ``refused`` ends with exit code 2 and what
to do; all others may differ if a command refuses or warns. Each set goes through ``data check``, ``bench accuracy``,
``bench regress`` (its baseline is written, then compared with; times are constants) and a step of ``finetune``, and all
four must have read the same boxes and found the same that is fatal. The commands run in this one process. A run that
was stopped goes on after its rows.
"""

from __future__ import annotations

import argparse
import io
import json
import runpy
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from medprompt.benchmarks.regression import regress
from medprompt.benchmarks.regression.baseline import BaselineLatency, hash_of_set
from medprompt.benchmarks.regression.reference_workload import REFERENCE_WORKLOAD
from medprompt.benchmarks.research.command import run_command
from medprompt.core.files import write_json
from medprompt.core.terminal import print_table
from medprompt.data import DetectionSet, read

NEAR = 5e-4
"""Average precisions that differ by less are the same."""

TRACEBACK, INTERRUPTED = -1, 130
"""Exit codes: of a command that ended with a traceback, and after Ctrl-C."""

CHECK = "data check"

MEASURED = "bench accuracy"
"""The command that gives an average precision. Of the others it is known what they read, and that costs less."""


@dataclass(frozen=True)
class Outcome:
    """Of one command on one set.

    Attributes:
        case, expected: The set.
        command: The command.
        code: Its exit code, or ``TRACEBACK``.
        said: Its errors and warnings, cut off.
        mends: Whether the error says what to do.
        ap: The average precision that it measured, or -1.
        boxes: Objects of the set, those left out included, or -1 where it was refused.
        digest: SHA-256 of images and boxes as they were read; empty of ``data check``, which reads them as written.
        fatal: The kinds of findings that it refused, or would refuse.
    """

    case: str
    expected: str
    command: str
    code: int
    said: str = ""
    mends: bool = False
    ap: float = -1.0
    boxes: int = -1
    digest: str = ""
    fatal: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the set is refused, or would be: ``data check`` ends with findings, and with exit code 1."""
        return self.code == 2 or bool(self.fatal) or (self.command == CHECK and "class_without_phrase" in self.said)

    def fault(self, right: float) -> str:
        """What is wrong; empty where nothing is. ``right``: the AP of what is the same."""
        if self.code == TRACEBACK:
            return "traceback"
        if self.refused:
            allowed = self.expected not in ("same", "warned")
            return ("" if self.mends or self.command == CHECK else "no way out") if allowed else "refused"
        if self.expected == "refused":
            return "not refused"
        if self.expected == "warned" and not self.said:
            return "not warned of"
        if self.command != MEASURED or abs(self.ap - right) < NEAR:
            return ""
        return "another figure" if self.expected in ("same", "warned") or not self.said else ""


def disagreements(rows: Iterable[Outcome]) -> Iterator[tuple[str, str]]:
    """Cases in which one command read other boxes than another, or found something else fatal, and what."""
    by_case: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        by_case[row.case].append(row)
    for case, own in by_case.items():
        told = {
            "refused": {row.refused for row in own},
            "fatal": {tuple(sorted(row.fatal)) for row in own},
            "boxes": {row.boxes for row in own if row.boxes >= 0},
            "content": {row.digest for row in own if row.digest},
        }
        for what, seen in told.items():
            if len(seen) > 1:
                yield case, f"{what}: {sorted(map(str, seen))}"


@dataclass
class Read:
    """What a command read: filled while it runs."""

    boxes: int = -1
    digest: str = ""
    fatal: tuple[str, ...] = field(default=())


@contextmanager
def _watched(found: Read) -> Iterator[None]:
    """Note what labels are read as, and keep times out of ``bench regress``."""
    make, refuse = read._detection_set, read._refused

    def note(*words: Any) -> DetectionSet:
        made = make(*words)
        found.boxes = sum(len(image.class_ids) for image in made.images) + len(made.dropped)
        found.digest = hash_of_set(made)
        return made

    def note_refusal(source: str, fatal: Sequence[Any]) -> Exception:
        found.fatal = tuple(fault.kind for fault in fatal)
        return refuse(source, fatal)

    latency = BaselineLatency(reference=REFERENCE_WORKLOAD, repeats=1, ratios=(1.0,) * 5)
    with (
        patch.object(read, "_detection_set", note),
        patch.object(read, "_refused", note_refusal),
        patch.object(regress, "_latency", lambda *words: latency),
        patch.object(regress, "peak_of_infer", lambda *words: 1.0),
    ):
        yield


def ran(words: Sequence[str]) -> tuple[int, str, str, Read]:
    """Run a command line here: exit code, standard output and error, and what it read."""
    out, err, found = io.StringIO(), io.StringIO(), Read()
    with redirect_stdout(out), redirect_stderr(err), _watched(found), patch.object(sys, "argv", ["medprompt", *words]):
        try:
            runpy.run_module("medprompt", run_name="__main__")
        except SystemExit as leaving:
            code = int(leaving.code or 0)
            if code == INTERRUPTED:
                raise KeyboardInterrupt from None
        except Exception:  # whatever a command lets through is what is looked for, and its row says so
            traceback.print_exc()
            code = TRACEBACK
    return code, out.getvalue(), err.getvalue(), found


def outcome(case: str, expected: str, command: str, address: str, lines: Sequence[Sequence[str]]) -> Outcome:
    """Run command lines on a case, up to the first that fails. Of warnings, those about its labels count."""
    for words in lines:
        code, out, err, found = ran([*command.split(), *words])
        if code:
            break
    said = [line.strip() for line in err.splitlines()]
    told = [line for line in said if line.startswith("error") or (line.startswith("warning") and address in line)]
    mends = any(line.startswith("do:") for line in said)
    if code == TRACEBACK:
        told = [err[-1000:]]
    ap = _ap(out) if code == 0 and command == MEASURED else -1.0
    if command == CHECK and code in (0, 1):
        checked = json.loads(out)
        found = Read(sum(checked["sets"][0]["boxes"].values()), "", tuple(checked["fatal"]))
        told = [f"{kind} {count}" for kind, count in checked["counts"].items()]
    text = "; ".join(told)[:1000]
    return Outcome(case, expected, command, code, text, mends, ap, found.boxes, found.digest, found.fatal)


def _ap(printed: str) -> float:
    """The figure that was printed, NaN where it is none."""
    value = json.loads(printed)["sets"][0]["bundle"]["coco"]["ap"]
    return float("nan") if value is None else float(value)


def _commands(address: str, args: argparse.Namespace, folder: Path) -> dict[str, list[list[str]]]:
    recipe = {"data": [{"train": address}], "steps": 1, "batch": 1, "threads": 1, "decay_steps": 0}
    write_json(folder / "recipe.yaml", {**recipe, "ema": 0.9})
    measure = ["--device", "ort-cpu", "--threads", "1", "--resamples", "1"]
    tuned = [str(args.checkpoint), "--prompts", str(args.prompts), "--recipe", str(folder / "recipe.yaml")]
    regressed = [str(args.bundle), "--data", address, "--baseline", str(folder / "baseline.json"), *measure]
    commands = {
        CHECK: [[address, "--prompts", str(args.prompts), "--json"]],
        "bench accuracy": [[str(args.bundle), "--data", address, "--json", *measure]],
        "bench regress": [[*regressed, "--update-baseline", "--reason", "first"], regressed],
    }
    tune = {"finetune": [[*tuned, "--out", str(folder / "tuned"), "--data-root", "/"]]}
    return commands | tune if args.checkpoint else commands


def _rows(path: Path) -> list[Outcome]:
    """Rows of a run before this one."""
    lines = path.read_text().splitlines() if path.exists() else []
    read_rows = [Outcome(**json.loads(line)) for line in lines]
    return [Outcome(**{**asdict(row), "fatal": tuple(row.fatal)}) for row in read_rows]


def _measure(args: argparse.Namespace) -> list[Outcome]:
    given: dict[str, Any] = {key: one for path in args.cases for key, one in json.loads(path.read_text()).items()}
    rows = _rows(args.out)
    known = {(row.case, row.command) for row in rows}
    with args.out.open("a") as file:
        for case, (address, expected) in given.items():
            with tempfile.TemporaryDirectory() as folder:
                where = str(Path(address).absolute())
                for command, lines in _commands(where, args, Path(folder)).items():
                    if (case, command) not in known:
                        rows.append(outcome(case, expected, command, where, lines))
                        print(json.dumps(asdict(rows[-1])), file=file, flush=True)
    return rows


def _print(rows: Sequence[Outcome]) -> None:
    right = next(row.ap for row in rows if row.expected == "same" and row.command == MEASURED)
    faults = [(row, fault) for row in rows if (fault := row.fault(right))]
    lines = [(row.case, row.expected, row.command, row.code, f"{row.ap:.4f}", fault) for row, fault in faults]
    lines += [(case, "", "all", "", "", what) for case, what in disagreements(rows)]
    counts = Counter((row.command, row.code) for row in rows)
    print_table("Runs", ("command", "exit", "sets"), [(*key, count) for key, count in sorted(counts.items())])
    caption = f"{len(rows)} runs on {len({row.case for row in rows})} sets, AP {right:.4f}"
    print_table("Faults", ("case", "expected", "command", "exit", "AP", "fault"), lines, caption)


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.label_sets", description=__doc__)
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="for finetune; without it that command is left out")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("label-sets.jsonl"))
    _print(_measure(parser.parse_args()))


if __name__ == "__main__":
    run_command(_main)
