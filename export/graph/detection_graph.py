"""The canonical graph: image and prompt tensors in, top-K detections out, the same for every family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medprompt.core.manifest import Postprocess, Preprocess, TensorSpec
from medprompt.export.families.base import OUTSIDE, Core, Family, RawOutputs

OUTPUT_NAMES = ("boxes_xyxy", "scores", "class_ids", "phrase_ids")
MASKS = "masks"
"""One more output, of models that make masks."""


def input_specs(family: Family) -> tuple[TensorSpec, ...]:
    """The graph's inputs in order: image, the family's prompt tensors, ``phrase_to_class``."""
    spec = family.preprocess()
    dtype: Literal["uint8", "float32"] = "uint8" if spec.rounds else "float32"
    image = TensorSpec(name="image", dtype=dtype, shape=("B", *model_axes(spec), 3), source="image")
    classes = TensorSpec(name="phrase_to_class", dtype="float32", shape=("P", "C"), source="phrase_to_class")
    return (image, *family.prompt_specs(), classes)


def model_axes(preprocess: Preprocess) -> tuple[int | str, int | str]:
    """Height and width of the model's image as in ``TensorSpec.shape``."""
    return ("h", "w") if preprocess.sizes == "own" else preprocess.size_hw


def output_specs(top_k: int, mask_hw: tuple[int, int] | None = None) -> tuple[TensorSpec, ...]:
    """The graph's outputs in order; boxes are in 0 … 1 of the (padded) model image.

    ``mask_hw``: height and width of ``masks``, the probabilities of each pixel of that image, where there are masks.
    """
    masks = () if mask_hw is None else (TensorSpec(name=MASKS, dtype="float32", shape=("B", top_k, *mask_hw)),)
    return (
        TensorSpec(name="boxes_xyxy", dtype="float32", shape=("B", top_k, 4)),
        TensorSpec(name="scores", dtype="float32", shape=("B", top_k)),
        TensorSpec(name="class_ids", dtype="int64", shape=("B", top_k)),
        TensorSpec(name="phrase_ids", dtype="int64", shape=("B", top_k)),
        *masks,
    )


class Normalise(nn.Module):
    """RGB levels ``[B, h, w, 3]`` to normalised ``[B, 3, h, w]``: rescale, mean and std as one product and sum."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", preprocess.rescale_factor / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise. The cast precedes the permute: TensorRT refuses to permute uint8."""
        return (image.to(torch.float32) * self.scale + self.shift).permute(0, 3, 1, 2)


class SelectTopK(nn.Module):
    """Pool phrases into classes and keep the K best detections.

    With one label a query, a query answers its best class. With many, every class of a query competes; the K best
    (query, class) pairs lie within the K queries of best score, so the product over classes is made for those alone.
    """

    def __init__(self, top_k: int, pooling: Literal["max", "mean"], labels_per_query: Literal["one", "many"]) -> None:
        super().__init__()
        self.top_k = top_k
        self.pooling = pooling
        self.labels_per_query = labels_per_query

    def forward(
        self, logits: Tensor, boxes_cxcywh: Tensor, phrase_to_class: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """From ``[B, Q, P]``, ``[B, Q, 4]`` and ``[P, C]`` (see ``medprompt.prompts.assemble``), select.

        Returns:
            Boxes xyxy ``[B, K, 4]``, scores, class ids, phrase ids and queries ``[B, K]``.
        """
        phrase_scores = torch.sigmoid(logits)
        most = phrase_scores.shape[1]
        # Where their number is open, a family keeps ``top_k`` within it: torch cannot prove a minimum of the two.
        most = self.top_k if isinstance(most, torch.SymInt) else min(self.top_k, most)
        _, queries = torch.topk(self._query_scores(phrase_scores, phrase_to_class), most, dim=1)
        rows = torch.gather(phrase_scores, 1, queries[..., None].expand(-1, -1, phrase_scores.shape[2]))
        boxes = torch.gather(boxes_cxcywh, 1, queries[..., None].expand(-1, -1, 4))
        if self.labels_per_query == "one" and self.pooling == "max":
            # The best phrase decides: no [K, P, C] product, which 100 phrases make as dear as a small model's layer.
            scores, phrase_ids = (rows * phrase_to_class.amax(dim=1)).max(dim=2)
            return xyxy_from_cxcywh(boxes), scores, phrase_to_class.argmax(dim=1)[phrase_ids], phrase_ids, queries
        class_scores = self._class_scores(rows, phrase_to_class)
        if self.labels_per_query == "one":
            scores, class_ids = class_scores.max(dim=2)
        else:
            scores, kept, class_ids = self._best_pairs(class_scores)
            boxes = torch.gather(boxes, 1, kept[..., None].expand(-1, -1, 4))
            rows = torch.gather(rows, 1, kept[..., None].expand(-1, -1, rows.shape[2]))
            queries = torch.gather(queries, 1, kept)
        # Phrases of other classes weigh 0 here, so the greatest product names the phrase that decided.
        speaking = rows * phrase_to_class.t()[class_ids]
        return xyxy_from_cxcywh(boxes), scores, class_ids, speaking.argmax(dim=2), queries

    def _best_pairs(self, class_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, queries and classes ``[B, K]``; where queries are fewer than K, what is left over scores 0."""
        queries, classes = class_scores.shape[1], class_scores.shape[2]
        pairs = class_scores.flatten(1)
        if queries < self.top_k:
            pairs = functional.pad(pairs, (0, self.top_k - queries))
        scores, best = torch.topk(pairs, self.top_k, dim=1)
        kept = best // classes
        return scores, kept.clamp(max=queries - 1), best - kept * classes

    def _query_scores(self, phrase_scores: Tensor, phrase_to_class: Tensor) -> Tensor:
        """Best class score ``[B, Q]`` of each query."""
        if self.pooling == "mean":
            return (phrase_scores @ phrase_to_class).amax(dim=2)
        # Scores are never negative, so a phrase scores highest for the class that weighs it most.
        return (phrase_scores * phrase_to_class.amax(dim=1)).amax(dim=2)

    def _class_scores(self, rows: Tensor, phrase_to_class: Tensor) -> Tensor:
        """Class scores ``[B, K, C]`` of chosen queries."""
        if self.pooling == "mean":
            return rows @ phrase_to_class
        return (rows[..., None] * phrase_to_class).amax(dim=2)


def xyxy_from_cxcywh(boxes_cxcywh: Tensor) -> Tensor:
    """Centre-size boxes ``[..., 4]`` to corners, same unit."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


class DetectionGraph(nn.Module):
    """The module that is exported: ``forward(image, *prompts, phrase_to_class)``."""

    def __init__(self, core: Core, inputs: tuple[TensorSpec, ...], preprocess: Preprocess, post: Postprocess) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess)
        self.core = core
        self.least_pixels = preprocess.least_pixels
        self.by_level, self.masks = post.level_top_k is not None, post.mask_threshold is not None
        self.select = SelectTopK(post.level_top_k or post.top_k, post.pooling, post.labels_per_query)
        self.prompt_names = [spec.name for spec in inputs[1:-1]]

    def forward(self, image: Tensor, *prompts: Tensor) -> tuple[Tensor, ...]:
        """See ``selected_of`` for the outputs; the last prompt is ``phrase_to_class``."""
        return _answered(self, self.core.image_features(self.normalise(image)), prompts)


class ImagePart(nn.Module):
    """``forward(image)``: the features that no prompt changes, in the order of ``Core.feature_specs``."""

    def __init__(self, graph: DetectionGraph) -> None:
        super().__init__()
        self.normalise, self.core = graph.normalise, graph.core

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See ``Core.image_features``."""
        features = self.core.image_features(self.normalise(image))
        return tuple(features[spec.name] for spec in self.core.feature_specs())


class PhrasePart(nn.Module):
    """``forward(*features, *prompts, phrase_to_class)``: the rest of a graph, whose modules keep their paths."""

    def __init__(self, graph: DetectionGraph, features: Sequence[TensorSpec]) -> None:
        super().__init__()
        self.core, self.select = graph.core, graph.select
        self.by_level, self.masks, self.prompt_names = graph.by_level, graph.masks, graph.prompt_names
        self.feature_names = [spec.name for spec in features]

    def forward(self, first: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """See ``selected_of``."""
        tensors, count = (first, *others), len(self.feature_names)
        return _answered(self, dict(zip(self.feature_names, tensors[:count], strict=True)), tensors[count:])


def _answered(
    part: DetectionGraph | PhrasePart, features: Mapping[str, Tensor], prompts: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    named = dict(zip(part.prompt_names, prompts[:-1], strict=True))
    raw = part.core.detect(features, named)
    raw = raw if part.by_level else replace(raw, levels=())
    return selected_of(raw if part.masks else replace(raw, masks=None), part.select, prompts[-1])


def selected_of(raw: RawOutputs, select: SelectTopK, phrase_to_class: Tensor) -> tuple[Tensor, ...]:
    """The best of all queries, or of each level's: the first four of ``SelectTopK.forward``, then masks, if any.

    Masks are probabilities ``[B, K, h_m, w_m]``.
    """
    if not raw.levels:
        *whole, queries = select(raw.logits, raw.boxes_cxcywh, phrase_to_class)
        return (*whole, *(() if raw.masks is None else (raw.masks(queries).sigmoid(),)))
    # Filled up with nothing, for a level may have fewer queries than it keeps.
    logits, boxes = (
        [functional.pad(level, (0, 0, 0, select.top_k), value=value) for level in tensor.split(raw.levels, dim=1)]
        for tensor, value in ((raw.logits, -OUTSIDE), (raw.boxes_cxcywh, 0.0))
    )
    chosen = [select(*level, phrase_to_class) for level in zip(logits, boxes, strict=True)]
    boxes, scores, class_ids, phrase_ids, _ = (torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True))
    return boxes, scores, class_ids, phrase_ids
