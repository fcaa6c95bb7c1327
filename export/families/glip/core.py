"""GLIP in the graph: every cell answers every phrase; the score is its phrase's probability times its centerness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from medprompt.export.families.any_size import split_axis
from medprompt.export.families.base import OUTSIDE, Core, RawOutputs
from medprompt.export.families.glip.anchors import cell_anchors, clipped_shares, decoded_boxes
from medprompt.export.families.glip.loss import dense_loss
from medprompt.export.families.glip.model import DenseOutputs
from medprompt.export.families.swin import backbone_maps

SMALLEST = 1e-7
"""Scores keep so far from 0 and 1 that their logit is a number."""


class GlipCore(Core):
    """Image side, tower and head; without fusion all of the text is in the prompts."""

    phrases_meet: ClassVar[bool] = True

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See ``Core.image_features``: ``level0`` … ``[B, c, h, w]``, finest first, and ``image_hw`` ``[B, 2]``."""
        levels = self.model.neck(backbone_maps(self.model.backbone, self.model.padded(pixel_values)))
        # Sums of ones, for the size may be a dynamic axis.
        sides = (pixel_values[:, 0, :, 0], pixel_values[:, 0, 0, :])
        image_hw = torch.stack([torch.ones_like(side).sum(dim=1) for side in sides], dim=1)
        return {**{f"level{index}": level for index, level in enumerate(levels)}, "image_hw": image_hw}

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """See ``Core.detect`` and ``Glip.prompt_specs``."""
        outputs = self._answer(features, prompts)
        config = self.model.config
        most = config.level_top_k if config.ranked_by == "probability" else None
        scores = phrase_scores(outputs, prompts["phrase_tokens"], config.least_probability, most)
        logits = torch.where(scores > 0, torch.logit(scores, eps=SMALLEST), -OUTSIDE)
        boxes = clipped_shares(self._boxes(outputs), features["image_hw"])
        return RawOutputs(logits, boxes, levels=tuple(height * width for height, width in outputs.sizes))

    def own_loss(
        self,
        features: Mapping[str, Tensor],
        prompts: Mapping[str, Tensor],
        targets: Sequence[dict[str, Tensor]],
        annotated: Tensor,
        balance: Sequence[float],
    ) -> Tensor:
        """See ``Core.own_loss`` and ``dense_loss``."""
        answered = self._answer(features, prompts)
        outputs = DenseOutputs(
            token_logits=answered.token_logits.float(),
            regression=answered.regression.float(),
            centerness=answered.centerness.float(),
            sizes=answered.sizes,
        )
        tokens, image_hw = prompts["phrase_tokens"], features["image_hw"][0].float()
        anchors = cell_anchors(outputs.sizes, self.model.config.anchor_scale, outputs.regression)
        with torch.autocast(image_hw.device.type, enabled=False):
            return dense_loss(outputs, anchors, image_hw, targets, annotated, tokens, balance)

    def _answer(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> DenseOutputs:
        levels = [features[f"level{index}"] for index in range(len(features) - 1)]
        if "text_features" in prompts:
            text = prompts["text_features"].expand(levels[0].shape[0], -1, -1)
            answered: DenseOutputs = self.model.answer(levels, text)
            return answered
        for layer in self.model.tower:
            levels = layer.convs(levels)
        headed: DenseOutputs = self.model.head(levels, prompts["token_vectors"], prompts["token_bias"])
        return headed

    def _boxes(self, outputs: DenseOutputs) -> Tensor:
        config = self.model.config
        anchors = cell_anchors(outputs.sizes, config.anchor_scale, outputs.regression)
        return decoded_boxes(outputs.regression, anchors, config.limits_shrinking)


def phrase_scores(outputs: DenseOutputs, phrase_tokens: Tensor, least: float, most: int | None = None) -> Tensor:
    """√(mean token probability · centerness) ``[B, N, P]``; 0 where the mean over a phrase's tokens is not over least.

    ``phrase_tokens`` ``[P, L]``: short rows repeat their first token, which counts once. Where ``most`` is given, those
    alone score that are among so many of their level by the mean.
    """
    own = phrase_tokens != phrase_tokens[:, :1]
    own = torch.cat([torch.ones_like(own[:, :1]), own[:, 1:]], dim=1).to(outputs.token_logits.dtype)
    picked = outputs.token_logits.sigmoid().index_select(2, phrase_tokens.flatten())
    picked = split_axis(picked, 2, phrase_tokens.shape)
    mean = (picked * own).sum(dim=3) / own.sum(dim=1)
    score = (mean * outputs.centerness.sigmoid()[..., None]).clamp(min=SMALLEST**2).sqrt()
    candidates = mean > least
    if most is not None:
        candidates = candidates & _best_of_levels(mean, outputs.sizes, most)
    return torch.where(candidates, score, 0.0)


def _best_of_levels(values: Tensor, sizes: Sequence[tuple[int, int]], most: int) -> Tensor:
    """Bool ``[B, N, P]``: whether a value is one of the ``most`` best of its level, or ties with the last of them."""
    marks = []
    for level in values.split([height * width for height, width in sizes], dim=1):
        # Padded, for a level may have fewer cells.
        best = torch.topk(functional.pad(level.flatten(1), (0, most)), most, dim=1).values
        marks.append(level >= best[:, -1, None, None])
    return torch.cat(marks, dim=1)
