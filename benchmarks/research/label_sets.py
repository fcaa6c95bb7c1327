"""Label sets of many layouts through the commands: is one silently read as something else?

Run it as ``python -m medprompt.benchmarks.research.label_sets CASES.json … --bundle demo.bundle --checkpoint CHECKPOINT
--prompts P.yaml --out rows.jsonl``. A file of cases names label sets: ``{name: [address, what is expected]}``. The
expectation ``same`` asks for the AP of the first such case; all others may differ if a command refuses (exit code 2,
with what to do) or warns. Each set goes through ``data check``, ``bench accuracy``, ``bench regress`` and one step of
``finetune``. A run that was stopped goes on after its rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medprompt.benchmarks.research.command import run_command
from medprompt.core.files import write_json
from medprompt.core.terminal import print_table

NEAR = 5e-4
"""Average precisions that differ by less are the same."""


@dataclass(frozen=True)
class Outcome:
    """Of one command on one set.

    Attributes:
        case, expected: The set.
        command: The command.
        code: Its exit code; -1 where it ended with a traceback.
        said: The first line of its error, or its warnings.
        mends: Whether the error says what to do.
        ap: The average precision that it measured, or -1.
    """

    case: str
    expected: str
    command: str
    code: int
    said: str = ""
    mends: bool = False
    ap: float = -1.0

    def fault(self, right: float) -> str:
        """What is wrong; empty where nothing is. ``right`` is the AP of what is the same."""
        if self.code == -1:
            return "traceback"
        if self.code == 2:
            return "refused, and should be the same" if self.expected == "same" else "" if self.mends else "no way out"
        if self.command != "bench accuracy" or abs(self.ap - right) < NEAR:
            return ""
        return "another figure" if self.expected == "same" else "" if self.said else "silently another figure"


def ran(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command line: exit code, standard output and error."""
    done = subprocess.run([sys.executable, "-m", "medprompt", *words], capture_output=True, text=True, check=False)
    fell = "Traceback" in done.stderr
    return -1 if fell else done.returncode, done.stdout, done.stderr


def outcome(case: str, expected: str, command: str, words: Sequence[str]) -> Outcome:
    """Run a command on a case."""
    code, out, err = ran([*command.split(), *words])
    lines = [line.strip() for line in err.splitlines()]
    told = [line for line in lines if line.lower().startswith(("error", "warning"))]
    mends = any(line.startswith("do:") for line in lines)
    ap = _ap(out) if command == "bench accuracy" and code == 0 else -1.0
    if command == "data check" and code == 1:
        told = [*told, "findings"]
    return Outcome(case, expected, command, code, "; ".join(told)[:300], mends, ap)


def _ap(printed: str) -> float:
    try:
        return float(json.loads(printed)["sets"][0]["bundle"]["coco"]["ap"])
    except (KeyError, ValueError, TypeError):
        return float("nan")


def _commands(address: str, args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    recipe = {"data": [{"train": address, "val": address}], "steps": 1, "batch": 2, "threads": 1, "ema": 0.9}
    write_json(folder / "recipe.yaml", recipe)
    measure = ["--device", "ort-cpu", "--threads", "1", "--resamples", "1"]
    tuned = [str(args.checkpoint), "--prompts", str(args.prompts), "--recipe", str(folder / "recipe.yaml")]
    baseline = ["--baseline", str(args.baseline), "--rounds", "5", *measure]
    return {
        "data check": [address],
        "bench accuracy": [str(args.bundle), "--data", address, "--json", *measure],
        "bench regress": [str(args.bundle), "--data", address, *baseline],
        "finetune": [*tuned, "--out", str(folder / "tuned"), "--data-root", "/"],
    }


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.label_sets", description=__doc__)
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--baseline", type=Path, help="of bench regress; without it that command is left out")
    parser.add_argument("--checkpoint", type=Path, help="for finetune; without it that command is left out")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--out", type=Path, default=Path("label-sets.jsonl"))
    args = parser.parse_args()
    given: dict[str, Any] = {key: one for path in args.cases for key, one in json.loads(path.read_text()).items()}
    rows = [Outcome(**json.loads(line)) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    known = {(row.case, row.command) for row in rows}
    left_out = {
        name for name, option in (("bench regress", args.baseline), ("finetune", args.checkpoint)) if not option
    }
    with args.out.open("a") as file:
        for case, (address, expected) in given.items():
            with tempfile.TemporaryDirectory() as folder:
                for command, words in _commands(str(Path(address).absolute()), args, Path(folder)).items():
                    if command in left_out or (case, command) in known:
                        continue
                    rows.append(outcome(case, expected, command, words))
                    print(json.dumps(asdict(rows[-1])), file=file, flush=True)
    right = next(row.ap for row in rows if row.expected == "same" and row.command == "bench accuracy")
    faults = [(row, fault) for row in rows if (fault := row.fault(right))]
    lines = [(row.case, row.expected, row.command, str(row.code), f"{row.ap:.4f}", fault) for row, fault in faults]
    print_table(
        "Faults", ("case", "expected", "command", "exit", "AP", "fault"), lines, f"{len(rows)} runs, AP {right:.4f}"
    )


if __name__ == "__main__":
    run_command(_main)
