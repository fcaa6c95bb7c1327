"""Which attribute words a model tells apart: on objects it was trained on, and on a class it never was.

Where prompts fail on an untrained class, this says why: a word that separates trained objects badly was never
learned; one that separates them well, and the untrained ones badly, did not carry over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medprompt.core.boxes import iou_matrix, xyxy_from_cxcywh
from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.finetune import attribute_phrases
from medprompt.images.read import load_image
from medprompt.images.resize import box_scale
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts


@dataclass(frozen=True)
class WordSeparation:
    """How a word ranks objects, as the area under the ROC curve: 1 right, 0.5 by chance; NaN with nothing to compare.

    Attributes:
        word: The word; the prompt is "WORD object".
        learned: Trained objects that it is true of against trained ones that it is false of.
        carried: Objects of the held-out class that it is true of against trained ones of the same sets that it is
            false of.
        trained_true, held_out_true: How many objects it is true of.
    """

    word: str
    learned: float
    carried: float
    trained_true: int
    held_out_true: int


@dataclass(frozen=True)
class Answers:
    """What is true of the objects of one set, and what the model says.

    Attributes:
        fits: int8 ``[N, W]``, see ``fitting_words``.
        scores: float ``[N, W]``: the logit of each word at the query whose box overlaps the object most.
        held_out: bool ``[N]``.
    """

    fits: NDArray[np.int8]
    scores: NDArray[np.float64]
    held_out: NDArray[np.bool_]


def word_separation(family: Family, sets: Sequence[DetectionSet], held_out: str) -> list[WordSeparation]:
    """Ask a model for each word at each labelled object.

    Args:
        family: The model.
        sets: Labelled images.
        held_out: Label of the class that was not trained.
    """
    predictions = [_answers(family, labelled, held_out) for labelled in sets]
    carrying = [entry for entry in predictions if entry.held_out.any()]
    found = []
    for n, word in enumerate(attribute_phrases.ATTRIBUTE_WORDS):
        trained_true, trained_false = (
            _scores(predictions, n, 1, held_out=False),
            _scores(predictions, n, -1, held_out=False),
        )
        novel, beside = _scores(predictions, n, 1, held_out=True), _scores(carrying, n, -1, held_out=False)
        learned, carried = roc_area(trained_true, trained_false), roc_area(novel, beside)
        found.append(WordSeparation(word.texts[0], learned, carried, len(trained_true), len(novel)))
    return found


def roc_area(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Probability that a positive scores over a negative, ties counting half; NaN where one side is empty."""
    if not len(positive) or not len(negative):
        return math.nan
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(negative))


def _scores(predictions: Sequence[Answers], word: int, verdict: int, *, held_out: bool) -> NDArray[np.float64]:
    parts = [
        entry.scores[(entry.fits[:, word] == verdict) & (entry.held_out == held_out), word] for entry in predictions
    ]
    return np.concatenate([np.zeros(0), *parts])


@torch.no_grad()
def _answers(family: Family, labelled: DetectionSet, held_out: str) -> Answers:
    features = FeatureSet(family, labelled)
    phrases = [
        {"label": word.texts[0], "phrases": [f"{word.texts[0]} object"]} for word in attribute_phrases.ATTRIBUTE_WORDS
    ]
    bank = bank_from_prompts(family, Prompts.model_validate({"classes": phrases}))
    feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, family.prompt_specs()).items()}
    fits, scores, novel = [], [], []
    for index, image in enumerate(labelled.images):
        raw = features.core.detect(features[index], feeds)
        fits.append(_true_words(image))
        scores.append(_scores_at(raw, image, box_scale(image.size_hw, family.preprocess())))
        novel.append(np.array([labelled.labels[n] == held_out for n in image.class_ids], dtype=bool))
    return Answers(np.concatenate(fits), np.concatenate(scores), np.concatenate(novel))


def _true_words(image: LabelledImage) -> NDArray[np.int8]:
    height, width = image.size_hw
    left_top, right_bottom = (image.boxes_xyxy / np.array([width, height] * 2)).reshape(-1, 2, 2).swapaxes(0, 1)
    boxes = np.concatenate([(left_top + right_bottom) / 2, right_bottom - left_top], axis=1).astype(np.float32)
    return attribute_phrases.fitting_words(
        attribute_phrases.measure_attributes(load_image(image.path), boxes, width / height)
    )


def _scores_at(raw: RawOutputs, image: LabelledImage, scale: tuple[float, float]) -> NDArray[np.float64]:
    """``[N, W]``: each word's logit at each object."""
    boxes = xyxy_from_cxcywh(raw.boxes_cxcywh[0].numpy()) * np.array(scale * 2, dtype=np.float32)
    logits: NDArray[np.float64] = raw.logits[0].numpy().astype(np.float64)
    at_objects: NDArray[np.float64] = logits[iou_matrix(image.boxes_xyxy, boxes).argmax(axis=1)]
    return at_objects
