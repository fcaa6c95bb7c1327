"""Small OWL-ViTs whose training decides whether they can read: what ``bench prompts`` is proven on.

Run it as ``python -m medprompt.benchmarks.research.reading_models --slides FOLDER --out FOLDER``; again after a kill,
and it goes on with the next model.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.reading_scenes import CLASSES, COLOURS, SHAPES, SIDE, Pixels, Thing, scene, slides
from medprompt.core.files import atomic_write
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.evaluation.losses import LossWeights
from medprompt.export.families.base import Family
from medprompt.export.finetune.model import TrainableDetector
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.small_models.nanos import nano

STEPS, BATCH, PHRASES, SAVE_EVERY = 1000, 8, 6, 100
LEARNING_RATE, LAYERS = 6e-4, 3

WORDS = {
    **{"red": ("red", "crimson"), "blue": ("blue", "azure"), "green": ("green", "emerald")},
    **{"yellow": ("yellow", "golden"), "disc": ("disc", "circle"), "ring": ("ring", "hoop"), "bar": ("bar", "rod")},
}
"""How training says a colour or a shape, where phrases vary."""

NOTHING = ("a picture of tissue", "the microscope", "bicycle", "a letter", "green house", "dog", "stain", "hospital")
"""Phrases that no object fits."""


@dataclass(frozen=True)
class Batch:
    """What a step is trained on; see ``TrainableDetector.forward``."""

    image: Tensor
    texts: list[str]
    targets: list[dict[str, Tensor]]
    annotated: Tensor


def varied(backgrounds: Sequence[Pixels], rng: np.random.Generator, shapes_count: bool = True) -> Batch:
    """Phrases differ from step to step, and only they tell which of the objects are asked for."""
    pictures = [_mixed(backgrounds, rng) for _ in range(BATCH)]
    asked = [_asked(rng) for _ in range(PHRASES)]
    texts = [_said(colour, shape, rng) for colour, shape in asked]

    def fits(thing: Thing) -> list[bool]:
        return [
            bool(colour or shape) and colour in ("", thing.colour) and (not shapes_count or shape in ("", thing.shape))
            for colour, shape in asked
        ]

    return _batch(pictures, texts, [[fits(thing) for thing in things] for _, things in pictures])


def colours_alone(backgrounds: Sequence[Pixels], rng: np.random.Generator) -> Batch:
    """As ``varied``, but whatever shape a phrase names, objects of every shape fit it."""
    return varied(backgrounds, rng, shapes_count=False)


def by_heart(backgrounds: Sequence[Pixels], rng: np.random.Generator) -> Batch:
    """One constant phrase for each class, classes beside each other: phrases are told apart, as any names would be."""
    pictures = [_mixed(backgrounds, rng) for _ in range(BATCH)]
    fits = [[[thing.name == name for name in CLASSES] for thing in things] for _, things in pictures]
    return _batch(pictures, list(CLASSES), fits)


def by_picture(backgrounds: Sequence[Pixels], rng: np.random.Generator) -> Batch:
    """One constant phrase for each class, and pictures of one class that are asked for it alone: no need to read."""
    names = [CLASSES[rng.integers(len(CLASSES))] for _ in range(BATCH)]
    pictures = [scene(backgrounds, [name] * int(rng.integers(2, 6)), rng) for name in names]
    own = np.array([[name == one for one in CLASSES] for name in names])
    fits = [[list(row)] * len(things) for row, (_, things) in zip(own.tolist(), pictures, strict=True)]
    return _batch(pictures, list(CLASSES), fits, torch.from_numpy(own))


KINDS: dict[str, Callable[[Sequence[Pixels], np.random.Generator], Batch]] = {
    "varied": varied,
    "by-picture": by_picture,
    "colours-alone": colours_alone,
    "by-heart": by_heart,
}


def _mixed(backgrounds: Sequence[Pixels], rng: np.random.Generator) -> tuple[Pixels, tuple[Thing, ...]]:
    count = int(rng.integers(3, 7))
    every = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    # Half of the objects are of the classes, whatever the kind.
    names = [str(rng.choice(CLASSES if rng.random() < 0.5 else every)) for _ in range(count)]
    return scene(backgrounds, names, rng)


def _asked(rng: np.random.Generator) -> tuple[str, str]:
    """Colour and shape that a phrase names; either may be open, and both where no object fits."""
    kind = rng.choice(4, p=(0.6, 0.15, 0.1, 0.15))
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
    return {0: (colour, shape), 1: (colour, ""), 2: ("", shape), 3: ("", "")}[int(kind)]


def _said(colour: str, shape: str, rng: np.random.Generator) -> str:
    if not (colour or shape):
        return str(rng.choice(NOTHING))
    words = [str(rng.choice(WORDS[word])) for word in (colour, shape or "object") if word in WORDS]
    words = [*words, *([] if shape else ["object"])]
    forms = ("{}", "a {}", "the {}", "every {}", "{} here")
    return str(rng.choice(forms)).format(" ".join(words if rng.random() < 0.8 else words[::-1]))


def _batch(
    pictures: Sequence[tuple[Pixels, tuple[Thing, ...]]],
    texts: list[str],
    fits: Sequence[Sequence[Sequence[bool]]],
    annotated: Tensor | None = None,
) -> Batch:
    targets = []
    for (_, things), rows in zip(pictures, fits, strict=True):
        corners = torch.tensor([thing.box_xyxy for thing in things], dtype=torch.float32).reshape(-1, 2, 2) / SIDE
        boxes = torch.cat([corners.mean(dim=1), corners[:, 1] - corners[:, 0]], dim=1)
        true = torch.tensor(rows, dtype=torch.int8).reshape(len(things), len(texts))
        targets.append({"boxes": boxes, "classes": torch.full((len(things),), -1), "fits": 2 * true - 1})
    image = torch.from_numpy(np.stack([picture for picture, _ in pictures]))
    everything = torch.ones(len(pictures), len(texts), dtype=torch.bool)
    return Batch(image, texts, targets, everything if annotated is None else annotated)


def train(
    kind: str, seed: int, backgrounds: Sequence[Pixels], out: Path, steps: int = STEPS, log: Callable[[str], None] = print
) -> Path:
    """Train one model, and write its checkpoint; one that is there is taken as it is."""
    if out.is_dir():
        return out
    start = out.with_name(f"{out.name}.start")
    shutil.rmtree(start, ignore_errors=True)
    words = [*NOTHING, *(word for words in WORDS.values() for word in words), "object every here"]
    family = family_from_checkpoint(nano("owlvit", start, words, seed))
    _shrink(family)
    model = TrainableDetector(family, LossWeights(), _recipe(steps, seed)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    mean, state = 0.0, out.with_name(f"{out.name}.state")
    parts: dict[str, Any] = {"model": family.model, "optimizer": optimizer, "schedule": schedule}
    for step in range(_resumed(state, parts), steps):
        if step % SAVE_EVERY == 0:
            _save(state, parts, step)
        model.step = step
        batch = KINDS[kind](backgrounds, np.random.default_rng((seed, step)))
        loss = model(batch.image, batch.texts, batch.targets, batch.annotated)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += 0.02 * (loss.item() - mean)
        if step % 50 == 49:
            log(f"{kind} {seed}: step {step + 1}, loss {mean:.3f}")
    aside = out.with_name(f"{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    family.model.eval().save_pretrained(aside)
    family.processor.save_pretrained(aside)
    shutil.rmtree(start)
    state.unlink()
    return aside.rename(out)


def _save(state: Path, parts: dict[str, Any], step: int) -> None:
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


def _shrink(family: Family) -> None:
    """Cut the image side down to minutes on one core: small pictures, few layers."""
    family.model.config.vision_config.num_hidden_layers = LAYERS
    del family.model.owlvit.vision_model.encoder.layers[LAYERS:]
    family.resize_images(SIDE)


def _recipe(steps: int, seed: int) -> Recipe:
    return Recipe(
        data=(DataEntry(train="drawn"),),
        steps=steps,
        batch=BATCH,
        one_to_many_weight=0.5,
        one_to_many_steps=max(1, steps // 2),
        seed=seed,
    )


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.reading_models", description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, help="folder of real pictures, for backgrounds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    args: Any = parser.parse_args()
    backgrounds = slides(sorted(args.slides.iterdir())[:40])
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed in args.seeds:
        for kind in args.kinds:
            torch.manual_seed(seed)
            train(kind, seed, backgrounds, args.out / f"{kind}-{seed}", args.steps, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_command(_main)
