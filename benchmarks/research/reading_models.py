"""Small OWL-ViTs that read, read in part, or cannot: what ``bench prompts`` is proven on.

Run it as ``python -m medprompt.benchmarks.research.reading_models --slides FOLDER --out FOLDER``; again after a kill,
and it goes on. One image side is trained; then, for each kind and seed, a new text side and class head on top of it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.reading_kinds import (
    KINDS,
    NOTHING,
    WORDS,
    Fits,
    Kind,
    Picture,
    any_objects,
    any_phrases,
    pictures,
)
from medprompt.benchmarks.research.reading_scenes import SIDE, Pixels, Thing, slides
from medprompt.core.files import atomic_write
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.evaluation.losses import LossWeights, pairwise_iou
from medprompt.export.families.base import Family
from medprompt.export.finetune.model import TrainableDetector
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.small_models.nanos import nano
from medprompt.export.graph.detection_graph import Normalise

STEPS, BATCH, PHRASES, SAVE_EVERY = 1000, 8, 6, 100
"""Of the image side."""

LEARNING_RATE, LAYERS = 6e-4, 3
PICTURES, WORD_STEPS, WORD_BATCH, WORD_PHRASES, WORD_RATE = 300, 400, 12, 8, 2e-3
"""Of a text side and class head: drawn pictures, steps, pictures and phrases a step."""


def boxes_of(things: Sequence[Thing]) -> Tensor:
    """float32 ``[N, 4]`` cxcywh in 0 … 1."""
    corners = torch.tensor([thing.box_xyxy for thing in things], dtype=torch.float32).reshape(-1, 2, 2) / SIDE
    return torch.cat([corners.mean(dim=1), corners[:, 1] - corners[:, 0]], dim=1)


def train_image_side(
    backgrounds: Sequence[Pixels], out: Path, seed: int = 0, steps: int = STEPS, log: Callable[[str], None] = print
) -> Path:
    """Train a whole model with phrases that vary; one that is there is taken as it is."""
    if out.is_dir():
        return out
    start = _untrained(out.with_name(f"{out.name}.start"), seed)
    family = family_from_checkpoint(start)
    family.model.config.vision_config.num_hidden_layers = LAYERS
    del family.model.owlvit.vision_model.encoder.layers[LAYERS:]
    family.resize_images(SIDE)
    model = TrainableDetector(family, LossWeights(), _recipe(steps, seed)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    parts: dict[str, Any] = {"model": family.model, "optimizer": optimizer, "schedule": schedule}
    mean, state = 0.0, out.with_name(f"{out.name}.state")
    for step in range(_resumed(state, parts), steps):
        if step % SAVE_EVERY == 0:
            _save_state(state, parts, step)
        model.step, rng = step, np.random.default_rng((seed, step))
        drawn = pictures(any_objects, backgrounds, BATCH, rng)
        texts, fits = any_phrases(rng, PHRASES)
        targets = [_target(one, fits, len(texts)) for one in drawn]
        image = torch.from_numpy(np.stack([one.pixels for one in drawn]))
        loss = model(image, texts, targets, torch.ones(len(drawn), len(texts), dtype=torch.bool))["loss"]
        _step(loss, optimizer, schedule, model)
        mean += 0.02 * (loss.item() - mean)
        if step % 50 == 49:
            log(f"image side: step {step + 1}, loss {mean:.3f}")
    _save(family, out)
    shutil.rmtree(start)
    state.unlink(missing_ok=True)
    return out


def train_words(
    name: str,
    seed: int,
    image_side: Path,
    backgrounds: Sequence[Pixels],
    out: Path,
    steps: int = WORD_STEPS,
    count: int = PICTURES,
    log: Callable[[str], None] = print,
) -> Path:
    """Train a new text side and class head on a finished image side; one that is there is taken as it is.

    Boxes are the image side's. Of the queries at an object, the one whose box fits best stands for it.
    """
    if out.is_dir():
        return out
    kind, rng = KINDS[name], np.random.default_rng((seed, 1))
    family = family_from_checkpoint(image_side)
    start = family_from_checkpoint(_untrained(out.with_name(f"{out.name}.start"), seed))
    own = family.model.owlvit.text_model, family.model.owlvit.text_projection, family.model.class_head
    fresh = start.model.owlvit.text_model, start.model.owlvit.text_projection, start.model.class_head
    for mine, new in zip(own, fresh, strict=True):
        mine.load_state_dict(new.state_dict())
    drawn = pictures(kind.picture, backgrounds, count, rng)
    patches, places, overlaps = _features(family, drawn)
    parameters = [parameter for module in own for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=WORD_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, WORD_RATE, steps, pct_start=0.1)
    mean = 0.0
    for step in range(steps):
        chosen = rng.choice(count, WORD_BATCH, replace=False)
        texts, fits = kind.ask(rng, WORD_PHRASES)
        logits, _ = family.model.class_head(patches[chosen], _vectors(family, texts), None)
        quality, counted = _targets([drawn[n] for n in chosen], chosen, places, overlaps, fits, logits, kind)
        loss = _class_loss(logits, quality, counted)
        _step(loss, optimizer, schedule, family.model)
        mean += 0.02 * (loss.item() - mean)
        if step % 200 == 199:
            log(f"{name} {seed}: step {step + 1}, loss {mean:.3f}")
    _save(family, out)
    shutil.rmtree(out.with_name(f"{out.name}.start"))
    return out


def _vectors(family: Family, texts: Sequence[str]) -> Tensor:
    return family.encode(texts).tensors["query_embeds"][None]


@torch.no_grad()
def _features(family: Family, drawn: Sequence[Picture]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Patches ``[N, Q, width]``; and of each picture's objects the best query and its overlap."""
    core, normalise = family.core().eval(), Normalise(family.preprocess())
    images = torch.from_numpy(np.stack([one.pixels for one in drawn]))
    parts = [core.image_features(normalise(part)) for part in images.split(50)]
    patches = torch.cat([part["patches"] for part in parts])
    boxes = torch.cat([part["boxes_cxcywh"] for part in parts])
    found = [
        pairwise_iou(own[:, None], boxes_of(one.things)[None])[0].max(dim=0)
        for own, one in zip(boxes, drawn, strict=True)
    ]
    return patches, [best.indices for best in found], [best.values for best in found]


def _targets(
    drawn: Sequence[Picture],
    chosen: Sequence[int],
    places: Sequence[Tensor],
    overlaps: Sequence[Tensor],
    fits: Fits,
    logits: Tensor,
    kind: Kind,
) -> tuple[Tensor, Tensor]:
    """What each query is to score, and which of its phrases count: both ``[B, Q, P]``."""
    quality, counted = torch.zeros_like(logits), torch.ones_like(logits)
    for row, (one, number) in enumerate(zip(drawn, chosen, strict=True)):
        true = torch.tensor([fits(thing) for thing in one.things], dtype=torch.float32)
        quality[row, places[number]] = true * overlaps[number].clamp(min=0.3)[:, None]
        if kind.own_class_alone:
            counted[row] = true.max(dim=0).values
    return quality, counted


def _class_loss(logits: Tensor, quality: Tensor, counted: Tensor) -> Tensor:
    """Varifocal (arXiv 2008.13367), per object that a phrase is true of."""
    weight = torch.where(quality > 0, quality, 0.75 * logits.detach().sigmoid() ** 2) * counted
    loss = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none") * weight
    return loss.sum() / (quality > 0).sum().clamp(min=1)


def _target(one: Picture, fits: Fits, phrases: int) -> dict[str, Tensor]:
    true = torch.tensor([fits(thing) for thing in one.things], dtype=torch.int8).reshape(-1, phrases)
    classes = torch.full((len(one.things),), -1)
    return {"boxes": boxes_of(one.things), "classes": classes, "fits": 2 * true - 1}


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any, model: torch.nn.Module) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    schedule.step()


def _untrained(folder: Path, seed: int) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    return nano(
        "owlvit", folder, [*NOTHING, *(word for words in WORDS.values() for word in words), "object every"], seed
    )


def _save(family: Family, out: Path) -> None:
    aside = out.with_name(f"{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    family.model.eval().save_pretrained(aside)
    family.processor.save_pretrained(aside)
    aside.rename(out)


def _save_state(state: Path, parts: dict[str, Any], step: int) -> None:
    with atomic_write(state) as aside:
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, aside)


def _resumed(state: Path, parts: dict[str, Any]) -> int:
    """The step to go on from; 0 where nothing was saved."""
    if not state.is_file():
        return 0
    saved = torch.load(state, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def _recipe(steps: int, seed: int) -> Recipe:
    half = max(1, steps // 2)
    data = (DataEntry(train="drawn"),)
    return Recipe(data=data, steps=steps, batch=BATCH, one_to_many_weight=0.5, one_to_many_steps=half, seed=seed)


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.reading_models", description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, help="folder of real pictures, for backgrounds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args: Any = parser.parse_args()
    backgrounds = slides(sorted(args.slides.iterdir())[:40])
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    def log(line: str) -> None:
        print(line, flush=True)

    image_side = train_image_side(backgrounds, args.out / "image-side", log=log)
    for seed in args.seeds:
        for kind in args.kinds:
            train_words(kind, seed, image_side, backgrounds, args.out / f"{kind}-{seed}", log=log)


if __name__ == "__main__":
    run_command(_main)
