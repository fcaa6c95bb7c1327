"""Renew docs/results: run the product's own commands and keep the JSON of each, with command, date and machine.

Run it from a checkout: ``python -m medprompt.benchmarks.research.docs_results --data-root DATA --work WORK [NAME …]``.
DATA holds ``bccd`` and ``nuclei``. ``docs_tables`` then renews the pages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from medprompt.benchmarks.demo import DEMO
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.research.command import run_command
from medprompt.core.errors import ParityError
from medprompt.core.files import write_json
from medprompt.export.finetune.small_models.nanos import Kind, nano
from medprompt.prompts.file import prompts_from_yaml

RESULTS = Path(__file__).parents[2] / "docs" / "results"
GPUS = "sm86,sm89,sm120"
LEFT_OUT = frozenset({"precision_recall_by_label", "inputs", "outputs"})
"""Keys that no page shows and that would fill most of a file; each file names what it leaves out."""

UNTRAINED = ("glip",)
"""Kinds that find nothing, at any score, before they are trained: there is no decision to prove."""

_DATA = "--data bccd:val --data nuclei/val.json"
_PROVE = "--prompts demo/prompts.yaml --images demo/images"
_PARITY_EXIT_CODE = ParityError.exit_code


@dataclass(frozen=True)
class Job:
    """A command to record.

    Attributes:
        command: As it is typed in the work folder.
        needs_demo: It reads the bundle that the job ``export`` makes.
    """

    command: str
    needs_demo: bool = False


def _support(kind: str) -> Job:
    return Job(
        f"medprompt export small-{kind} --prompts demo/prompts.yaml --images demo/images/bccd --out small-{kind}.bundle"
        f" --engine trt-rtx --gpu {GPUS} --force --json"
    )


def _contenders(family: str, rounds: int) -> Job:
    return Job(
        f"python -m medprompt.benchmarks.research.contenders --family {family} --images demo/images/bccd --count 1"
        f" --out contenders --threads 2 --rounds {rounds} --keep --json"
    )


JOBS: dict[str, Job] = {
    **{f"support-{kind}": _support(kind) for kind in get_args(Kind) if kind not in UNTRAINED},
    "export": Job(f"medprompt export demo/checkpoint {_PROVE} --out demo.bundle --force --json"),
    **{
        f"accuracy-{device}": Job(
            f"medprompt bench accuracy demo.bundle {_DATA} --reference demo/checkpoint --device {device} --threads 1"
            " --json",
            True,
        )
        for device in ("ort-cpu", "openvino")
    },
    "latency": Job(
        "medprompt bench latency demo.bundle --images demo/images/bccd --reference demo/checkpoint --device ort-cpu"
        " --device openvino --autocast --threads 1 --rounds 30 --batches none --workers none --json",
        True,
    ),
    **{
        f"contenders-{family}": _contenders(family, rounds)
        for family, rounds in {"grounding-dino": 3, "owlv2": 5, "omdet-turbo": 10}.items()
    },
    "compile": Job(f"medprompt compile gpu.bundle --engine trt-rtx --gpu {GPUS} --json", True),
}


def record(name: str, work: Path) -> dict[str, Any]:
    """Run one job and return what its file in docs/results holds.

    Args:
        name: A key of ``JOBS``.
        work: The work folder, see ``prepare``.

    Raises:
        subprocess.CalledProcessError: The command failed for another reason than parity, which is a result.
    """
    job = JOBS[name]
    if name.startswith("support-"):
        _make_small(name.removeprefix("support-"), work)
    if name == "compile":  # which changes the bundle that it is given
        shutil.rmtree(work / "gpu.bundle", ignore_errors=True)
        shutil.copytree(work / "demo.bundle", work / "gpu.bundle")
    words = job.command.split()
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run([program, *words[1:]], cwd=work, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, _PARITY_EXIT_CODE):
        done.check_returncode()
    left_out: set[str] = set()
    output = _without(json.loads(done.stdout), left_out)
    return {
        "command": job.command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "exit_code": done.returncode,
        "left_out": sorted(left_out),
        "output": output,
    }


def prepare(work: Path, data_root: Path) -> None:
    """Make the work folder: links to the data and to the shipped demo, so that no output holds an absolute path."""
    work.mkdir(parents=True, exist_ok=True)
    for name, target in {"bccd": data_root / "bccd", "nuclei": data_root / "nuclei", "demo": DEMO}.items():
        if not (work / name).exists():
            (work / name).symlink_to(target.resolve(), target_is_directory=True)


def _make_small(kind: str, work: Path) -> None:
    # ``medprompt init-small``: random heads, so that the way through export and engines is tried, not the model.
    folder = work / f"small-{kind}"
    if not folder.exists():
        nano(kind, folder, prompts_from_yaml(DEMO / "prompts.yaml").texts, 0)  # type: ignore[arg-type]  # of get_args(Kind)


def _without(value: Any, left_out: set[str]) -> Any:
    """JSON values without the keys of ``LEFT_OUT``, which are noted in ``left_out``."""
    if isinstance(value, dict):
        left_out.update(value.keys() & LEFT_OUT)
        return {key: _without(entry, left_out) for key, entry in value.items() if key not in LEFT_OUT}
    return [_without(entry, left_out) for entry in value] if isinstance(value, list) else value


def _with_needed(names: Sequence[str], work: Path) -> list[str]:
    if any(JOBS[name].needs_demo for name in names) and not (work / "demo.bundle").exists():
        names = ["export", *names]
    return list(dict.fromkeys(names))


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.docs_results", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(JOBS)}; all by default")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of bccd and nuclei")
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles, kept between runs")
    options = parser.parse_args()
    if unknown := set(options.names) - JOBS.keys():
        parser.error(f"no such result: {', '.join(sorted(unknown))}")
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare(options.work, options.data_root)
    for name in _with_needed(options.names or list(JOBS), options.work):
        write_json(RESULTS / f"{name}.json", record(name, options.work.resolve()))
        print(RESULTS / f"{name}.json", file=sys.stderr)


if __name__ == "__main__":
    run_command(_main)
