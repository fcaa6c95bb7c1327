"""All five families at full size: made, exported in fp32 and ``auto``, compiled without a GPU, run, given another bank.

Run it as ``python -m medprompt.benchmarks.research.full_size --out FOLDER``. Weights are random, since no published
checkpoint can be fetched here: what shows is that the way works at full size, and what it costs. Every step is a
process of its own, the one that a user would start, so that its peak memory is known.

Random weights hold near-ties that a rounding decides, and export refuses what decides otherwise than PyTorch: another
``--seed`` then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medprompt.benchmarks.latency.machine import describe_machine, format_machine
from medprompt.benchmarks.latency.processes import OWN_SCRIPT, Process, measured_process
from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.full_size_checkpoints import FULL_SIZE, full_size_checkpoint
from medprompt.core.errors import InputError
from medprompt.core.files import write_json
from medprompt.core.terminal import print_table
from medprompt.images.read import find_images

GPUS = "sm86,sm89,sm120"
PHRASES = ("red blood cell", "white blood cell", "platelet", "purple nucleus")
OTHER_PHRASES = (*PHRASES, "small round spot", "polyp", "pink bump", "large cell", "tiny purple dot", "disc")
"""Of the bank that the bundle is given afterwards."""
BUILDS = ("fp32", "auto")


@dataclass
class FamilyRun:
    """What one family went through.

    Attributes:
        family: ``model_type`` of its config.
        steps: Process by name.
        megabytes: Size of files by name.
        facts: What the steps printed: parity, share of fp16, activations, detections.
    """

    family: str
    steps: dict[str, Process] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {**vars(self), "steps": {name: vars(step) for name, step in self.steps.items()}}


def run_family(
    family: str, work: Path, images: Sequence[Path], threads: int, seed: int = 0, builds: Sequence[str] = BUILDS
) -> FamilyRun:
    """Take one family all the way.

    Args:
        family: ``model_type``.
        work: An empty folder for checkpoint and bundle.
        images: Parity is proven on all, inference is run on the first.
        threads: OpenMP's.
        seed: Of the weights.
        builds: Precisions that are exported and compiled, of ``BUILDS``.

    Raises:
        MedpromptError: A step failed; its own message was printed.
    """
    run = FamilyRun(family)
    checkpoint, bundle, bank, proof = work / "checkpoint", work / "bundle", work / "bank.safetensors", work / "images"
    proof.mkdir(parents=True)
    for image in images:
        shutil.copy(image, proof)
    full_size_checkpoint(family, checkpoint, seed)
    prompts, others = (_prompts(work / f"{len(texts)}.yaml", texts) for texts in (PHRASES, OTHER_PHRASES))

    def step(name: str, *arguments: object) -> Any:
        print(f"{family}: {name}", file=sys.stderr, flush=True)
        run.steps[name], printed = measured_process([OWN_SCRIPT, *map(str, arguments)], threads)
        return json.loads(printed) if printed.startswith("{") else None

    exported = step(
        "export",
        *("export", checkpoint, "--prompts", prompts, "--images", proof, "--precision", builds[-1]),
        *("--out", bundle, "--json"),
    )
    run.facts["engines"] = exported["engines"]
    run.facts["precision_plan"] = exported.get("precision_plan")
    for precision in builds:
        compiled = step(
            f"compile {precision}",
            *("compile", bundle, "--engine", "trt-rtx", "--gpu", GPUS, "--precision", precision, "--json"),
        )
        run.megabytes[f"engine {precision}"] = (bundle / compiled["path"]).stat().st_size / 1e6
        run.facts[f"activation MiB {precision}"] = compiled["activation_bytes"] / 2**20
    step("embed", "prompts", "embed", checkpoint, "--prompts", others, "--out", bank)
    for name, more in (("infer", ()), ("infer, other bank", ("--prompts", bank))):
        answer = step(name, "infer", bundle, images[0], *more, "--threshold", "0", "--json")
        run.facts[name] = _found(answer)
    return run


def _found(answer: Any) -> dict[str, Any]:
    """How many detections one image has, and what ran."""
    return {"detections": len(answer["items"][0]["detections"]), "engine": answer["engine"]}


def _prompts(path: Path, texts: Sequence[str]) -> Path:
    content = {"classes": [{"label": text, "phrases": [text]} for text in texts]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def rows(run: FamilyRun) -> list[tuple[str, ...]]:
    """A row an engine: size, time, peak of the compiling process, share of fp16, kept decisions, activations."""
    plan, kept, half = run.facts["precision_plan"], {"fp32": ""}, {"fp32": "0 %"}
    if plan:
        kept["auto"], half["auto"] = f"{plan['parity']['typed']['kept']:.2%}", f"{plan['half_flops_share']:.1%}"
    return [
        (
            run.family,
            build,
            f"{run.megabytes[f'engine {build}']:.0f}",
            f"{run.steps[f'compile {build}'].wall_s:.0f}",
            f"{run.steps[f'compile {build}'].peak_mib / 1024:.1f}",
            f"{run.facts[f'activation MiB {build}']:,.0f}",
            half[build],
            kept[build],
        )
        for build in kept
    ]


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.full_size", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder; each family needs about 2 GB while it runs")
    parser.add_argument("--families", default=",".join(FULL_SIZE))
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--count", type=int, default=2, help="images that parity is proven on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--fp32", action="store_true", help="leave out auto")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and bundles")
    args = parser.parse_args()
    images = find_images([args.images])[: args.count]
    if not images:
        raise InputError("There is no image.", where=str(args.images))
    columns = ("model", "build", "MB", "s", "peak GB", "GPU MiB", "fp16 work", "kept")
    table: list[tuple[str, ...]] = []
    for family in args.families.split(","):
        builds = BUILDS[:1] if args.fp32 else BUILDS
        run = run_family(family, args.out / family, images, args.threads, args.seed, builds)
        write_json(args.out / f"{family}.json", {**run.as_json(), "machine": describe_machine()})
        if not args.keep:
            shutil.rmtree(args.out / family)
        table += rows(run)
        print_table(f"trt-rtx for {GPUS}", columns, table, format_machine(describe_machine()))


if __name__ == "__main__":
    run_command(_main)
