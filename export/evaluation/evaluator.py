"""How good prompts are: a bank's detections and AP on features that were computed once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from medprompt.core.detections import Detections
from medprompt.core.progress import Progress
from medprompt.data import read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import RawOutputs
from medprompt.export.graph.detection_graph import SelectTopK, input_specs
from medprompt.images.resize import box_scale
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.metrics.matching import MAX_DETECTIONS
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank


def evaluator_of_checkpoint(
    checkpoint: Path, data: str, cache: Path | None, image_size: tuple[int, int] | None, progress: Progress
) -> PromptEvaluator:
    """Load a checkpoint and labelled images, and compute the images' features.

    Args:
        checkpoint: The model's folder.
        data: Labelled images, see ``medprompt.data.read_detection_set``.
        cache: Folder for image features; None to keep them in memory only.
        image_size: Height and width of the model's image, for families whose size is free.
        progress: Told of each step.

    Raises:
        CheckpointError: See ``family_from_checkpoint``.
        DataError: See ``read_detection_set``.
    """
    labelled = read_detection_set(data)
    progress.step("load checkpoint")
    features = FeatureSet(family_from_checkpoint(checkpoint, image_size), labelled, cache)
    features.prepare(progress)
    return PromptEvaluator(features)


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
