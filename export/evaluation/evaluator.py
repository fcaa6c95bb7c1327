"""How good prompts are: a bank's detections and AP on features that were computed once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from medprompt.core.detections import Detections
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import RawOutputs
from medprompt.export.graph.detection_graph import SelectTopK, input_specs
from medprompt.images.resize import box_scale
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank

MAX_DETECTIONS = 300


class PromptEvaluator:
    """Answers banks on the images of one set as the canonical graph would, without a threshold.

    Args:
        features: The images and their features.
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.labelled = features.labelled
        family = features.family
        self._specs = input_specs(family)
        self._labels_per_query = family.labels_per_query
        self._preprocess = family.preprocess()

    def accuracy(self, bank: PromptBank) -> Accuracy:
        """AP of a bank; its classes are matched to the set's by label."""
        return measure_accuracy(self.labelled, self.detections(bank))

    def detections(self, bank: PromptBank) -> list[Detections]:
        """The detections of every image, ``MAX_DETECTIONS`` or fewer each, best first."""
        return list(self._detections(bank))

    @torch.no_grad()
    def _detections(self, bank: PromptBank) -> Iterable[Detections]:
        feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, self._specs).items()}
        phrase_to_class = feeds.pop("phrase_to_class")
        for index, entry in enumerate(self.labelled.images):
            raw = self.features.core.detect(self.features[index], feeds)
            yield self.selected(raw, phrase_to_class, bank, entry.size_hw)

    def selected(
        self, raw: RawOutputs, phrase_to_class: torch.Tensor, bank: PromptBank, size_hw: tuple[int, int]
    ) -> Detections:
        """Decide as the graph does.

        Args:
            raw: Logits ``[1, Q, P]`` and boxes of one image.
            phrase_to_class: float ``[P, C]``.
            bank: Whose phrases these are.
            size_hw: Height and width of the source in pixels.
        """
        top_k = min(MAX_DETECTIONS, raw.boxes_cxcywh.shape[1])
        select = SelectTopK(top_k, bank.prompts.pooling, self._labels_per_query)
        boxes, scores, class_ids, phrase_ids = (
            tensor[0].numpy() for tensor in select(raw.logits, raw.boxes_cxcywh, phrase_to_class)
        )
        scale = np.array(box_scale(size_hw, self._preprocess) * 2, dtype=np.float32)
        return Detections(boxes * scale, scores, class_ids, phrase_ids, bank.labels, bank.prompts.texts, size_hw)
