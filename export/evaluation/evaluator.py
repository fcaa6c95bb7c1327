"""How good prompts and checkpoints are: detections and AP in PyTorch, on features that were computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medprompt.core.detections import Detections
from medprompt.core.manifest import Postprocess
from medprompt.core.progress import Progress
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.graph.detection_graph import SelectTopK, input_specs, selected_of
from medprompt.images.resize import box_scale
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.metrics.matching import MAX_DETECTIONS
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import PromptClass, Prompts
from medprompt.runtime.decode import is_candidate, suppressed


def evaluator_of_checkpoint(
    checkpoint: Path,
    data: DetectionSet | str,
    cache: Path | None,
    image_size: tuple[int, int] | None,
    progress: Progress,
) -> PromptEvaluator:
    """Load a checkpoint and labelled images, and compute the images' features (kept in the folder ``cache``, if any).

    Raises:
        CheckpointError: See ``family_from_checkpoint``.
        DataError: See ``read_detection_set``.
    """
    labelled = data if isinstance(data, DetectionSet) else read_detection_set(data)
    progress.step("load checkpoint")
    features = FeatureSet(family_from_checkpoint(checkpoint, image_size), labelled, cache)
    features.prepare(progress)
    return PromptEvaluator(features)


class PromptEvaluator:
    """Answers banks on the images of one set as the canonical graph would, without a threshold."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.labelled = features.labelled
        self._family = features.family
        self._preprocess = self._family.preprocess()

    def accuracy(self, bank: PromptBank) -> Accuracy:
        """AP of a bank; its classes are matched to the set's by label."""
        return measure_accuracy(self.labelled, self.detections(bank))

    @torch.no_grad()
    def detections(self, bank: PromptBank) -> list[Detections]:
        """The detections of every image, ``MAX_DETECTIONS`` or fewer each, best first."""
        inputs = prompt_inputs(bank, input_specs(self._family))
        feeds = {name: torch.from_numpy(array) for name, array in inputs.items()}
        phrase_to_class = feeds.pop("phrase_to_class")
        answers = (self.features.core.detect(self.features[index], feeds) for index in range(len(self.features)))
        pairs = zip(answers, self.labelled.images, strict=True)
        return [self.selected(raw, phrase_to_class, bank, entry.size_hw) for raw, entry in pairs]

    def selected(
        self, raw: RawOutputs, phrase_to_class: torch.Tensor, bank: PromptBank, size_hw: tuple[int, int]
    ) -> Detections:
        """Decide as the graph does, from logits ``[1, Q, P]`` and boxes of an image of ``size_hw`` pixels.

        ``phrase_to_class``: float ``[P, C]``, of the bank's phrases.
        """
        top_k = min(MAX_DETECTIONS, raw.boxes_cxcywh.shape[1])
        post = self._family.postprocess(Postprocess(top_k=top_k, labels_per_query=self._family.labels_per_query))
        select = SelectTopK(post.level_top_k or top_k, bank.prompts.pooling, post.labels_per_query)
        boxes, scores, class_ids, phrase_ids = (
            tensor[0].numpy() for tensor in selected_of(replace(raw, masks=None), select, phrase_to_class)
        )
        scale = np.array(box_scale(size_hw, self._preprocess) * 2, dtype=np.float32)
        ids = (class_ids, phrase_ids)
        found = Detections(boxes * scale, scores, *ids, bank.labels, bank.prompts.texts, size_hw)
        order = np.argsort(-scores, kind="stable")
        return suppressed(found[order[is_candidate(scores[order], post)]], post, self._preprocess)


def evaluate_family(family: Family, prompts: Prompts, sets: Sequence[DetectionSet]) -> dict[str, Any]:
    """Measure AP on labelled sets, each with the first phrase of its own classes.

    Returns:
        ``{"ap/NAME": …, "ap50/NAME": …, "ap50/NAME/LABEL": …}``, rounded to 4 digits.
    """
    row: dict[str, Any] = {}
    for labelled in sets:
        chosen = _first_phrases(prompts, labelled.labels)
        bank = bank_from_prompts(family, chosen)
        accuracy = PromptEvaluator(FeatureSet(family, labelled)).accuracy(bank)
        name = labelled.name.replace("\\", "/").rsplit("/", 2)[-1 if ":" in labelled.name else -2].split(":")[0]
        row |= {f"ap/{name}": round(accuracy.ap, 4), f"ap50/{name}": round(accuracy.ap50, 4)}
        row |= {f"ap50/{name}/{label}": round(value, 4) for label, value in accuracy.ap50_by_label.items()}
    return row


def _first_phrases(prompts: Prompts, labels: Sequence[str]) -> Prompts:
    wanted = {label.casefold() for label in labels}
    classes = tuple(
        PromptClass(label=entry.label, phrases=entry.phrases[:1])
        for entry in prompts.classes
        if entry.label.casefold() in wanted
    )
    return Prompts(classes=classes)
