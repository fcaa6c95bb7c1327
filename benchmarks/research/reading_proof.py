"""Is the verdict of ``bench prompts`` right, and how often is it not, over draws of images?

Run it as ``python -m medprompt.benchmarks.research.reading_proof --slides FOLDER --out FOLDER``; again after a kill,
and it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medprompt.benchmarks.audit.report import audit_prompts
from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.reading_kinds import KINDS
from medprompt.benchmarks.research.reading_models import train_image_side, train_words
from medprompt.benchmarks.research.reading_scenes import CLASSES, Pixels, slides, write_scenes
from medprompt.core.files import write_json
from medprompt.data import read_detection_set
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.prompts.file import Prompts, save_prompts

IMAGES, PARITY_IMAGES, RESAMPLES = 80, 4, 200
EXPECTED = {"varied": "reads", "identifiers": "ignores", "colours-alone": "partly"}
COLUMNS = ("kind", "seed", "verdicts", "AP50", "exchanged", "foreign", "synonyms", "other verdicts in draws")


def prove(
    kind: str, seed: int, train_on: Sequence[Pixels], out: Path, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train, export and audit one model; what is there is taken as it is.

    Returns:
        What ``PromptAudit.as_json`` says.
    """
    report = out / f"{kind}-{seed}.json"
    if not report.is_file():
        image_side = train_image_side(train_on, out / "image-side", log=log)
        checkpoint = train_words(kind, seed, image_side, train_on, out / f"{kind}-{seed}", log=log)
        bundle, prompts = out / f"{kind}-{seed}.bundle", out / f"{kind}-{seed}.yaml"
        classes = [{"label": n, "phrases": [phrase]} for n, phrase in zip(CLASSES, KINDS[kind].phrases, strict=True)]
        save_prompts(Prompts.model_validate({"classes": classes}), prompts)
        if not bundle.is_dir():
            bundle_from_checkpoint(checkpoint, prompts, bundle, ExportOptions(images=out / "parity"))
        labelled = read_detection_set(str(out / "drawn" / "labels.json"))
        audit = audit_prompts(
            bundle, [labelled], checkpoint=checkpoint, device="ort-cpu", threads=1, resamples=RESAMPLES, seed=seed
        )
        write_json(report, audit.as_json())
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def row(kind: str, seed: int, audit: dict[str, Any]) -> tuple[str, ...]:
    """For tables, see ``COLUMNS``: means over the classes."""
    classes = audit["sets"][0]["classes"]
    verdicts = [one["verdict"] for one in classes]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts))

    def mean(*kinds: str) -> str:
        values = [one["left"][kind]["value"] for one in classes for kind in kinds if kind in one["left"]]
        return f"{sum(values) / len(values):.0%}" if values else "not asked"

    ap50 = sum(one["own"]["ap50"]["value"] for one in classes) / len(classes)
    others = [f"{1 - one['agreement']:.1%}" for one in classes]
    shares = mean("exchanged"), mean("absent", "filler", "empty"), mean("synonyms")
    return (kind, str(seed), counts, f"{ap50:.2f}", *shares, ", ".join(others))


def _main() -> None:
    from medprompt.core.terminal import print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.reading_proof", description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, help="folder of real pictures, for backgrounds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(EXPECTED), choices=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(args.slides.iterdir())
    if not (args.out / "parity").is_dir():
        held_back = slides(paths[40:60])
        write_scenes(args.out / "drawn", held_back, IMAGES, seed=1)
        write_scenes(args.out / "parity", held_back, PARITY_IMAGES, seed=2)
    train_on, rows = slides(paths[:40]), []
    for seed in args.seeds:
        for kind in args.kinds:
            audit = prove(kind, seed, train_on, args.out, lambda line: print(line, flush=True))
            rows.append(row(kind, seed, audit))
            print(*rows[-1], f"expected: {EXPECTED.get(kind, '-')}", sep=" | ", flush=True)
    print_table("Verdicts on models whose training is known", COLUMNS, rows)


if __name__ == "__main__":
    run_command(_main)
