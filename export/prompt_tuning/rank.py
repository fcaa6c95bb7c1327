"""New phrases ranked by the model: by how strongly it answers them, or, where there are labels, by their AP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import input_specs
from medprompt.export.prompt_tuning.score import ENCODED_TOGETHER, scorer_for
from medprompt.export.prompt_tuning.search import check_boxes, fits
from medprompt.images.read import load_image
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.file import Phrase, PromptClass, Prompts


@dataclass(frozen=True)
class Ranked:
    """A phrase and what it was ranked by.

    Attributes:
        label: Its class.
        text: The phrase.
        figure: AP, or mean response, in 0 … 1.
        kept: Whether it is in the prompts that came out.
        new: Whether it was not in the prompts that went in.
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

    Args:
        family: The model.
        before: The prompts that went in.
        augmented: The same with new phrases.
        images: The images; their boxes count only if ``labelled``.
        max_new: Maximum number of new phrases a class.
        labelled: Whether to rank by AP.
        cache: Folder for image features; None to keep them in memory only.
        progress: Told of each step.

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
    kept = _kept(before, augmented, figures, max_new)
    return kept, tuple(_rows(before, augmented, kept, figures))


def unlabelled_set(paths: Sequence[Path], name: str) -> DetectionSet:
    """Images as a set without boxes.

    Raises:
        ImageError: An image cannot be read.
    """
    no_boxes, no_ids = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    sizes = [load_image(path).shape[:2] for path in paths]
    images = (
        LabelledImage(path, (size[0], size[1]), no_boxes, no_ids) for path, size in zip(paths, sizes, strict=True)
    )
    return DetectionSet(name, (), tuple(images))


Pairs = Sequence[tuple[PromptClass, Phrase]]


def _ap_of_phrase(features: FeatureSet, prompts: Prompts, pairs: Pairs, progress: Progress) -> Iterator[float]:
    scorer = scorer_for(features)
    for entry, phrase in pairs:
        isolated = entry.model_copy(update={"phrases": (phrase,)})
        yield scorer.accuracy(prompts.model_copy(update={"classes": (isolated,)})).ap_by_label[entry.label]
        progress.advance()


def _responses(features: FeatureSet, prompts: Prompts, pairs: Pairs, progress: Progress) -> Iterator[float]:
    together = 1 if features.core.phrases_meet else ENCODED_TOGETHER
    for first in range(0, len(pairs), together):
        phrases = tuple(phrase for _, phrase in pairs[first : first + together])
        yield from _response(features, prompts, phrases)
        progress.advance(len(phrases))


def _response(features: FeatureSet, prompts: Prompts, phrases: tuple[Phrase, ...]) -> list[float]:
    """Mean over images of each phrase's best score."""
    classes = (PromptClass(label="any", phrases=phrases),)
    bank = bank_from_prompts(features.family, Prompts(classes=classes, task=prompts.task))
    arrays = prompt_inputs(bank, input_specs(features.family))
    feeds = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "phrase_to_class"}
    with torch.no_grad():
        best = [features.core.detect(features[n], feeds).logits[0].amax(dim=0).sigmoid() for n in range(len(features))]
    means: list[float] = torch.stack(best).mean(dim=0).tolist()
    return means


def _kept(before: Prompts, augmented: Prompts, figures: Mapping[str, float], max_new: int) -> Prompts:
    old = set(before.texts)
    classes = []
    for entry in augmented.classes:
        new = [phrase for phrase in entry.phrases if phrase.text not in old and phrase.text in figures]
        best = {phrase.text for phrase in sorted(new, key=lambda phrase: _order(phrase.text, figures))[:max_new]}
        phrases = tuple(phrase for phrase in entry.phrases if phrase.text in old or phrase.text in best)
        classes.append(entry.model_copy(update={"phrases": phrases}))
    return augmented.model_copy(update={"classes": tuple(classes)})


def _rows(before: Prompts, augmented: Prompts, kept: Prompts, figures: Mapping[str, float]) -> Iterator[Ranked]:
    old, stays = set(before.texts), set(kept.texts)
    for entry in augmented.classes:
        texts: Iterable[str] = (phrase.text for phrase in entry.phrases if phrase.text in figures)
        for text in sorted(texts, key=lambda text: _order(text, figures)):
            yield Ranked(entry.label, text, figures[text], text in stays, text not in old)


def _order(text: str, figures: Mapping[str, float]) -> tuple[float, int, str]:
    """Best figure first; of equals the shorter."""
    return (-round(figures[text], 9), len(text), text)
