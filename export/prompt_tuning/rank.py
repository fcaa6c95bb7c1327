"""New phrases ranked by the model: by how strongly it answers them, or, where there are labels, by their AP."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.prompt_tuning.score import ENCODED_TOGETHER, bank_of_phrases, raw_outputs, scorer_for
from medprompt.export.prompt_tuning.search import check_boxes, fits
from medprompt.images.read import load_image
from medprompt.prompts.schema import Phrase, PromptClass, Prompts


@dataclass(frozen=True)
class Ranked:
    """A phrase and what it was ranked by.

    Attributes:
        figure: AP, or mean response, in 0 … 1.
        kept, new: Whether it is in the prompts that came out, and was not in those that went in.
    """

    label: str
    text: str
    figure: float
    kept: bool
    new: bool


def rank_new_phrases(
    family: Family,
    before: Prompts,
    augmented: Prompts,
    images: DetectionSet,
    max_new: int,
    *,
    labelled: bool,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Prompts, tuple[Ranked, ...]]:
    """Keep a class's own phrases, and of its new ones those of the best figure.

    The figure of a phrase is, with labels, its AP when it alone speaks for its class. Without, it is the model's own
    response: the mean over images of the best score that any query gives the phrase alone. That is how sure the model
    is, not whether it is right: a phrase that answers to everything ranks high too. Sorting generated phrases by the
    model's response to unlabelled images follows AttriPrompter (nuclei; arXiv 2410.16820).

    ``augmented`` are the prompts ``before`` with new phrases, of which a class keeps at most ``max_new``. ``labelled``
    says that the images' boxes are to count. ``cache`` is a folder for image features; None keeps them in memory only.

    Returns:
        The prompts, and every phrase with its figure, best first within its class.

    Raises:
        DataError: With labels: a category without a class, or a class without boxes.
    """
    progress = progress or Silent()
    if labelled:
        images = images.relabelled([entry.label for entry in augmented.classes])
        check_boxes(images)
    features = FeatureSet(family, images, cache)
    features.prepare(progress)
    pairs = [(entry, phrase) for entry in augmented.classes for phrase in entry.phrases if fits(family, phrase.text)]
    progress.step("ranking phrases", len(pairs))
    measure = _ap_of_phrase if labelled else _responses
    figures = dict(zip([p.text for _, p in pairs], measure(features, augmented, pairs, progress), strict=True))
    old = set(before.texts)
    kept = augmented.with_classes(_best_new(entry, old, figures, max_new) for entry in augmented.classes)
    return kept, tuple(_rows(old, augmented, set(kept.texts), figures))


def unlabelled_set(paths: Sequence[Path], name: str) -> DetectionSet:
    """Images as a set without boxes.

    Raises:
        ImageError: An image cannot be read.
    """
    no_boxes, no_ids = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    shapes = [load_image(path).shape for path in paths]
    images = [LabelledImage(path, (s[0], s[1]), no_boxes, no_ids) for path, s in zip(paths, shapes, strict=True)]
    return DetectionSet(name, (), tuple(images))


Pairs = Sequence[tuple[PromptClass, Phrase]]


def _ap_of_phrase(features: FeatureSet, prompts: Prompts, pairs: Pairs, progress: Progress) -> Iterator[float]:
    scorer = scorer_for(features)
    for entry, phrase in pairs:
        isolated = prompts.with_classes([entry.with_phrases([phrase])])
        yield scorer.accuracy(isolated).ap_by_label[entry.label]
        progress.advance()


def _responses(features: FeatureSet, prompts: Prompts, pairs: Pairs, progress: Progress) -> Iterator[float]:
    together = 1 if features.core.phrases_meet else ENCODED_TOGETHER
    for first in range(0, len(pairs), together):
        bank = bank_of_phrases(features.family, (p for _, p in pairs[first : first + together]), prompts.task)
        best = [raw.logits[0].amax(dim=0).sigmoid() for raw in raw_outputs(features, bank)]
        yield from torch.stack(best).mean(dim=0).tolist()
        progress.advance(len(bank.prompts.texts))


def _best_new(entry: PromptClass, old: Collection[str], figures: Mapping[str, float], max_new: int) -> PromptClass:
    best = [text for text in _ordered(entry, figures) if text not in old][:max_new]
    return entry.with_phrases(phrase for phrase in entry.phrases if phrase.text in old or phrase.text in best)


def _rows(
    old: Collection[str], augmented: Prompts, kept: Collection[str], figures: Mapping[str, float]
) -> Iterator[Ranked]:
    for entry in augmented.classes:
        for text in _ordered(entry, figures):
            yield Ranked(entry.label, text, figures[text], text in kept, text not in old)


def _ordered(entry: PromptClass, figures: Mapping[str, float]) -> list[str]:
    """A class's ranked phrases: best figure first; of equals the shorter."""
    texts = [phrase.text for phrase in entry.phrases if phrase.text in figures]
    return sorted(texts, key=lambda text: (-round(figures[text], 9), len(text), text))
