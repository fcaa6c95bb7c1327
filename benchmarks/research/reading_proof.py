"""Is the verdict of ``bench prompts`` right, and how often is it not, over draws of images?

Run it as ``python -m medprompt.benchmarks.research.reading_proof --slides FOLDER --out FOLDER``; again after a kill,
and it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medprompt.benchmarks.audit.answers import Answer, ClassAnswers, answer_of
from medprompt.benchmarks.audit.asking import Asker, encode_question
from medprompt.benchmarks.audit.verdict import ClassVerdict, class_as_json, judge
from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.reading_kinds import KINDS
from medprompt.benchmarks.research.reading_models import train_image_side, train_words
from medprompt.benchmarks.research.reading_scenes import SIDE, Pixels, slides, write_scenes
from medprompt.core.detections import Detections
from medprompt.core.files import write_json
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Core, Family
from medprompt.export.graph.detection_graph import Normalise, xyxy_from_cxcywh
from medprompt.images.read import load_image
from medprompt.metrics.bootstrap import draw_images
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts
from medprompt.prompts.wording import Unasked, read_wording

IMAGES, RESAMPLES = 60, 200
EXPECTED = {"varied": "reads", "identifiers": "ignores", "half-read": "partly"}
COLUMNS = ("kind", "seed", "verdicts", "AP50", "exchanged", "foreign", "synonyms", "other verdicts in draws")


def prove(
    kind: str, seed: int, train_on: Sequence[Pixels], out: Path, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train and audit one model; what is there is taken as it is.

    Returns:
        ``classes``: what ``class_as_json`` says of each.
    """
    report = out / f"{kind}-{seed}.json"
    if not report.is_file():
        image_side = train_image_side(train_on, out / "image-side", log=log)
        checkpoint = train_words(kind, seed, image_side, train_on, out / f"{kind}-{seed}", log=log)
        labelled = read_detection_set(str(out / "drawn" / "labels.json"))
        verdicts = audit_checkpoint(family_from_checkpoint(checkpoint), KINDS[kind].phrases, labelled, seed)
        write_json(report, {"classes": [class_as_json(verdict) for verdict in verdicts]})
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def audit_checkpoint(
    family: Family, phrases: Sequence[str], labelled: DetectionSet, seed: int = 0, resamples: int = RESAMPLES
) -> list[ClassVerdict]:
    """The questions, figures and rule of ``bench prompts`` on a checkpoint in PyTorch, each picture seen once."""
    classes = [{"label": n, "phrases": [phrase]} for n, phrase in zip(labelled.labels, phrases, strict=True)]
    bank = bank_from_prompts(family, Prompts.model_validate({"classes": classes}))
    words = read_wording().model_copy(update={"translations": {}})
    asker = Asker(bank, words, lambda prompts: encode_question(family, prompts))
    images = torch.from_numpy(np.stack([load_image(image.path) for image in labelled.images]))
    core = family.core().eval()
    with torch.no_grad():
        features = core.image_features(Normalise(family.preprocess())(images))
    draws, verdicts = list(draw_images(len(images), resamples, seed)), []
    for label in bank.labels:
        alone = labelled.only(label)

        def answer(asked: PromptBank, alone: DetectionSet = alone) -> Answer:
            return answer_of(alone, _found(core, features, asked), 0.2)

        asked = [one for one in asker.ask(label) if not isinstance(one, Unasked)]
        other = {question: answer(made) for question, made in asked}
        verdicts.append(judge(ClassAnswers(label, answer(asker.own(label)), other), draws))
    return verdicts


@torch.no_grad()
def _found(core: Core, features: Mapping[str, Tensor], asked: PromptBank) -> list[Detections]:
    """Every query of every picture, scored by the one class of a bank."""
    raw = core.detect(features, {"query_embeds": torch.from_numpy(asked.tensors["query_embeds"])[None]})
    scores = raw.logits.sigmoid().amax(dim=2).numpy()
    boxes = xyxy_from_cxcywh(raw.boxes_cxcywh).numpy() * SIDE
    ids = np.zeros(scores.shape[1], dtype=np.int64)
    best_first = (-scores).argsort(axis=1, kind="stable")
    return [
        Detections(box[order], score[order], ids, ids, asked.labels, asked.texts, (SIDE, SIDE))
        for box, score, order in zip(boxes, scores, best_first, strict=True)
    ]


def row(kind: str, seed: int, audit: dict[str, Any]) -> tuple[str, ...]:
    """For tables, see ``COLUMNS``: means over the classes."""
    classes = audit["classes"]
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
    if not (args.out / "drawn").is_dir():
        write_scenes(args.out / "drawn", slides(paths[40:60]), IMAGES, seed=1)
    train_on, rows = slides(paths[:40]), []
    for seed in args.seeds:
        for kind in args.kinds:
            audit = prove(kind, seed, train_on, args.out, lambda line: print(line, flush=True))
            rows.append(row(kind, seed, audit))
            print(*rows[-1], f"expected: {EXPECTED.get(kind, '-')}", sep=" | ", flush=True)
    print_table("Verdicts on models whose training is known", COLUMNS, rows)


if __name__ == "__main__":
    run_command(_main)
