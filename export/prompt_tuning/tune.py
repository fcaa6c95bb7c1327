"""Embedding tuning: the phrases' own tensors learn from labelled images, every weight stays what it is.

Concept-embedding search, as in ConES (arXiv 2305.18993): what is optimised is what the text encoder would have said.
Image features are computed once, so a step costs what the prompts' part of the model costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medprompt.core.errors import PromptError
from medprompt.core.manifest import Preprocess
from medprompt.core.progress import Progress, Silent
from medprompt.data import LabelledImage
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.evaluation.losses import LossWeights, detection_loss
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.prompt_tuning.tuned_rows import TunedRows
from medprompt.images.resize import box_scale
from medprompt.metrics.coco import Accuracy
from medprompt.prompts.assemble import SOURCES
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Origin, Phrase

WEIGHTS = LossWeights(one_to_many=0)
"""The fine-tuning's, without its additional queries: they teach boxes, which are not tuned."""


@dataclass(frozen=True)
class TuneOptions:
    """What decides a run.

    Attributes:
        steps, batch: Maximum number of steps of Adam, and images a step.
        learning_rate: Of directions, which have length 1.
        anchor: Weight of the mean 1 - cosine between the rows and the text encoder's own.
        measures: How often AP is measured on the images to stop by, spread over the steps.
        min_gain: Minimum gain in AP on the images to stop by for which the start is given up; AP of few images wavers.
            Demo checkpoint, 10 shots, AP on 40 more training images: from class names, gains under 0.006 came with
            -0.0004 there (mean of 16 runs, 8 of them below 0); from nonsense words, at an anchor of 1 or less, 0.32 and
            more with 0.21 and more.
        patience: Stop after so many measures without a gain.
        seed: Decides the order of the images.
    """

    steps: int = 200
    learning_rate: float = 0.01
    anchor: float = 1.0
    batch: int = 8
    min_gain: float = 0.01
    measures: int = 20
    patience: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """A run's outcome.

    Attributes:
        bank: The best bank; the start itself, unchanged, where no step was better.
        step, steps: Which step it is of, 0 for the start; how many were made.
        losses: Loss of each step, on the images of that step.
        start, best: AP of start and bank on the images to stop by.
        drift: Mean 1 - cosine between the bank's rows and the start's.
        gain: Greatest gain in AP that was seen, whether it was enough or not.
    """

    bank: PromptBank
    step: int
    steps: int
    losses: tuple[float, ...]
    start: Accuracy
    best: Accuracy
    drift: float
    gain: float

    @property
    def improved(self) -> bool:
        """Whether a step was better than the start by ``min_gain``."""
        return self.step > 0


class BankTuner:
    """One bank (``rows`` is as it is now) learning from one set's features, labels indexed by the bank's classes."""

    def __init__(self, images: FeatureSet, start: PromptBank, options: TuneOptions) -> None:
        _check_queries_are_shared(images.family)
        self.images, self.options = images, options
        self.rows = TunedRows(images.family, start)
        self._pooling = start.prompts.pooling
        self._phrase_to_class = torch.from_numpy(SOURCES["phrase_to_class"](start, "phrase_to_class"))
        self._centres = images.core.query_centres()
        self._targets = [_target(entry, images.family.preprocess()) for entry in images.labelled.images]
        self._optimiser = torch.optim.Adam(self.rows.directions.values(), lr=options.learning_rate)

    def learn(self, indices: Sequence[int]) -> float:
        """Make one step on some images; return its loss, the anchor's share included."""
        self._optimiser.zero_grad()
        loss = self.loss(indices) + self.options.anchor * self.rows.drift()
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def loss(self, indices: Sequence[int]) -> Tensor:
        """The fine-tuning's detection loss on some images, per labelled object."""
        kept = [self.images[index] for index in indices]
        features = {name: torch.cat([one[name] for one in kept]) for name in kept[0]}
        annotated = torch.ones(len(indices), self._phrase_to_class.shape[1], dtype=torch.bool)
        targets = [self._targets[index] for index in indices]
        losses = [
            detection_loss(self._pooled(raw), targets, annotated, WEIGHTS, self._centres)
            for raw in self.images.core.training_outputs(features, self.rows.prompts())
        ]
        return torch.stack(losses).sum()

    def _pooled(self, raw: RawOutputs) -> RawOutputs:
        return RawOutputs(class_logits(raw.logits, self._phrase_to_class, self._pooling), raw.boxes_cxcywh)


def _check_queries_are_shared(family: Family) -> None:
    """The loss matches objects with queries that every phrase scores."""
    if family.core_class.boxes_follow_phrases:
        raise PromptError(
            "The prompts of this model cannot be tuned: each phrase has queries of its own.",
            where=family.architecture,
            fix="try phrases with `medprompt prompts search`, or train the text side: `mode: prompt` in a recipe",
        )


def tuned_bank(
    images: FeatureSet,
    start: PromptBank,
    evaluator: PromptEvaluator,
    options: TuneOptions,
    progress: Progress | None = None,
) -> Tuned:
    """Tune a bank on ``images``, indexed by its classes, and keep the best of what ``evaluator`` saw, to stop by.

    It is the start, unless something was better by ``min_gain``.
    """
    progress = progress or Silent()
    tuner, order = BankTuner(images, start, options), _batches(len(images), options)
    before = evaluator.accuracy(start)
    kept = best = Tuned(start, 0, 0, (), before, before, 0.0, 0.0)
    losses: list[float] = []
    every = max(1, options.steps // options.measures)
    progress.step(f"tuning on {len(images)} images", options.steps)
    with _frozen(images.family.model):
        for step in range(1, options.steps + 1):
            losses.append(tuner.learn(next(order)))
            progress.advance()
            if not tuner.rows.finite() or step - best.step > options.patience * every:
                break
            if step % every == 0 or step == options.steps:
                best = _better(best, tuner, evaluator, step)
    if best.gain >= options.min_gain:
        kept = best
    return replace(kept, steps=len(losses), losses=tuple(losses), gain=best.gain)


def _better(best: Tuned, tuner: BankTuner, evaluator: PromptEvaluator, step: int) -> Tuned:
    bank = tuner.rows.bank_now()
    accuracy = evaluator.accuracy(bank)
    if not accuracy.ap > best.best.ap:
        return best
    drift, gain = float(tuner.rows.drift().detach()), accuracy.ap - best.start.ap
    return replace(best, bank=bank, step=step, best=accuracy, drift=drift, gain=gain)


def _batches(images: int, options: TuneOptions) -> Iterator[list[int]]:
    """Endless batches: all images in a new order each epoch, the last batch smaller."""
    rng = np.random.default_rng((options.seed, images))
    while True:
        order = rng.permutation(images).tolist()
        for first in range(0, images, options.batch):
            yield order[first : first + options.batch]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Take every weight out of the gradient inside a ``with`` block."""
    learning = nn.ParameterList(parameter for parameter in model.parameters() if parameter.requires_grad)
    learning.requires_grad_(False)
    try:
        yield
    finally:
        learning.requires_grad_(True)


def _target(entry: LabelledImage, preprocess: Preprocess) -> dict[str, Tensor]:
    """Boxes cxcywh in 0 … 1 of the (padded) model image, and classes."""
    boxes = torch.from_numpy(entry.boxes_xyxy) / torch.tensor(box_scale(entry.size_hw, preprocess) * 2)
    left_top, right_bottom = boxes[:, :2], boxes[:, 2:]
    cxcywh = torch.cat([(left_top + right_bottom) / 2, right_bottom - left_top], dim=1)
    return {"boxes": cxcywh.float(), "classes": torch.from_numpy(entry.class_ids)}


def signed_as_tuned(bank: PromptBank, images: int, date: str | None) -> PromptBank:
    """Note in every phrase that its tensors were tuned: source, parent (its own text), date, number of images.

    A calibration of weights and thresholds is no longer claimed: it was made with the start's scores.
    """

    def signed(phrase: Phrase) -> Phrase:
        changes = {"parent": phrase.text, "date": date, "images": images}
        origin = (phrase.origin or Origin()).model_copy(update=changes)
        return phrase.model_copy(update={"source": "tuned", "origin": origin})

    prompts = bank.prompts.with_classes(
        entry.with_phrases(map(signed, entry.phrases)) for entry in bank.prompts.classes
    )
    return replace(bank, prompts=prompts.model_copy(update={"calibration": None}))


def class_logits(logits: Tensor, phrase_to_class: Tensor, pooling: Literal["max", "mean"]) -> Tensor:
    """Pool the phrases of each class; the sigmoid of the answer is the class score of ``SelectTopK``.

    It is computed on logits throughout: scores near 0 and 1 would lose their gradient. Under ``max`` the best phrase
    of a class alone gets one.

    Args:
        logits: float ``[B, Q, P]``.
        phrase_to_class: float ``[P, C]``, see ``medprompt.prompts.assemble``: one class a phrase.
        pooling: The bank's own.

    Returns:
        float ``[B, Q, C]``.
    """
    pool = _best if pooling == "max" else _mean
    members = [phrase_to_class[:, index].nonzero()[:, 0] for index in range(phrase_to_class.shape[1])]
    pooled = [pool(logits[..., rows], phrase_to_class[rows, index]) for index, rows in enumerate(members)]
    return torch.stack(pooled, dim=-1)


def _best(logits: Tensor, weights: Tensor) -> Tensor:
    """Logit of max(w · sigmoid(x)): log w - log((1 - w) + exp(-x)) for each phrase, which is x where w is 1."""
    return (weights.log() - torch.logaddexp(torch.log1p(-weights), -logits)).amax(dim=-1)


def _mean(logits: Tensor, weights: Tensor) -> Tensor:
    """Logit of sum(w · sigmoid(x)), the weights summing to 1, so that its complement is sum(w · sigmoid(-x))."""
    shares = weights.log()
    yes = torch.logsumexp(shares + functional.logsigmoid(logits), dim=-1)
    no = torch.logsumexp(shares + functional.logsigmoid(-logits), dim=-1)
    return yes - no
