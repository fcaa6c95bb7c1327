"""AP of many prompt sets on one data set: what they share is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from medprompt.core.detections import Detections
from medprompt.export.embed import unchecked_bank
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.graph.detection_graph import SelectTopK
from medprompt.images.resize import box_scale
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.metrics.matching import MAX_DETECTIONS
from medprompt.prompts.assemble import SOURCES, prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Phrase, PromptClass, Prompts

KEPT_BYTES = 2 << 30
"""Logits that are kept in memory; the phrases used longest ago are forgotten first."""
ENCODED_TOGETHER = 32
IMAGES_TOGETHER = 64
"""Images whose queries are selected at once: more would only move more memory."""


@torch.no_grad()
def raw_outputs(features: FeatureSet, bank: PromptBank) -> Iterator[RawOutputs]:
    """Each image's logits ``[1, Q, P]`` and boxes, before phrases are pooled."""
    specs = features.family.prompt_specs()
    feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, specs).items()}
    for index in range(len(features)):
        yield features.core.detect(features[index], feeds)


def bank_of_phrases(family: Family, phrases: Iterable[Phrase], task: str | None = None) -> PromptBank:
    """Phrases as one class, to be answered each alone."""
    tried = PromptClass(label="any", phrases=tuple(phrases))
    for phrase in tried.phrases:
        family.check_phrases([phrase.text])
    return unchecked_bank(family, Prompts.model_construct(classes=(tried,), task=task))


class AnswerScorer:
    """AP of prompt sets, each evaluated anew: for families whose phrases meet, where a phrase has no logits of its own.

    Args:
        features: The images, their features and labels.
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self._judge = PromptEvaluator(features)

    def prepare(self, texts: Sequence[str]) -> None:
        """See ``Scorer.prepare``: nothing can be learned beforehand."""

    def score(self, prompts: Prompts) -> float:
        """See ``Scorer.score``: AP."""
        return self.accuracy(prompts).ap

    def accuracy(self, prompts: Prompts) -> Accuracy:
        """AP of a prompt set."""
        return measure_accuracy(self.features.labelled, self.detections(prompts))

    def detections(self, prompts: Prompts) -> list[Detections]:
        """See ``PromptEvaluator.detections``."""
        found: list[Detections] = self._judge.detections(unchecked_bank(self.features.family, prompts))
        return found


class KeptScorer(AnswerScorer):
    """The same for families whose phrases do not meet: each phrase's logits are computed once and kept.

    A prompt set then costs pooling, the choice of the best and the comparison with the labels.
    """

    def __init__(self, features: FeatureSet) -> None:
        super().__init__(features)
        self._kept: dict[str, Tensor] = {}  # [images, queries] by text, used last at the end
        self._boxes = torch.zeros(0)
        spec = features.family.preprocess()
        scales = [np.array(box_scale(entry.size_hw, spec) * 2) for entry in features.labelled.images]
        self._scales = np.array(scales, dtype=np.float32).reshape(-1, 1, 4)

    @torch.no_grad()
    def prepare(self, texts: Sequence[str]) -> None:
        """Compute the logits of the phrases that have none yet.

        Raises:
            PromptError: A phrase is longer than the text encoder reads.
        """
        wanted = dict.fromkeys(texts)
        fresh = [text for text in wanted if text not in self._kept]
        for first in range(0, len(fresh), ENCODED_TOGETHER):
            some = fresh[first : first + ENCODED_TOGETHER]
            logits = self._logits(some)
            self._forget(logits.nbytes, wanted)
            self._kept |= {text: logits[..., n].clone() for n, text in enumerate(some)}

    @torch.no_grad()
    def detections(self, prompts: Prompts) -> list[Detections]:
        """See ``PromptEvaluator.detections``: the same, from kept logits.

        Phrases that become one embedding have no logits of their own: they are answered anew.
        """
        if prompts.ensemble:
            return super().detections(prompts)
        self.prepare(prompts.texts)
        for text in prompts.texts:
            self._kept[text] = self._kept.pop(text)
        bank = PromptBank(prompts, "", {}, {}, np.zeros(0, np.int64))  # only its classes and weights are read
        phrase_to_class = torch.from_numpy(SOURCES["phrase_to_class"](bank, "phrase_to_class"))
        return list(self._selected(prompts, phrase_to_class, bank.labels))

    def _selected(self, prompts: Prompts, phrase_to_class: Tensor, labels: tuple[str, ...]) -> Iterator[Detections]:
        top_k = min(MAX_DETECTIONS, self._boxes.shape[1])
        select = SelectTopK(top_k, prompts.pooling, self.features.family.labels_per_query)
        images = self.features.labelled.images
        for first in range(0, len(images), IMAGES_TOGETHER):
            part = slice(first, first + IMAGES_TOGETHER)
            logits = torch.stack([self._kept[text][part] for text in prompts.texts], dim=-1)
            selected = select(logits, self._boxes[part], phrase_to_class)
            boxes, scores, class_ids, phrase_ids, _ = (tensor.numpy() for tensor in selected)
            columns = zip(boxes * self._scales[part], scores, class_ids, phrase_ids, strict=True)
            for entry, one in zip(images[part], columns, strict=True):
                yield Detections(*one, labels, prompts.texts, entry.size_hw)

    def _logits(self, texts: Sequence[str]) -> Tensor:
        """Logits ``[images, queries, phrases]``; the boxes, which no phrase changes, are kept on the way."""
        bank = bank_of_phrases(self.features.family, [Phrase(text=text) for text in texts])
        raw = list(raw_outputs(self.features, bank))
        self._boxes = torch.cat([one.boxes_cxcywh for one in raw])
        return torch.cat([one.logits for one in raw])

    def _forget(self, size: int, wanted: dict[str, None]) -> None:
        used = size + sum(tensor.nbytes for tensor in self._kept.values())
        for text in [text for text in self._kept if text not in wanted]:
            if used <= KEPT_BYTES:
                return
            used -= self._kept.pop(text).nbytes


def scorer_for(features: FeatureSet, prompts: Prompts | None = None) -> AnswerScorer:
    """The quicker scorer where the family, and the way ``prompts`` combine phrases, allow it."""
    core = features.core
    anew = core.phrases_meet or core.boxes_follow_phrases or (prompts is not None and prompts.ensemble is not None)
    return AnswerScorer(features) if anew else KeptScorer(features)
