"""A family as the module that is trained: core and text side together, whose forward is the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from medprompt.export.evaluation.losses import LossWeights, detection_loss
from medprompt.export.families.base import EncodedPhrases, Family, RawOutputs
from medprompt.export.finetune.modes import freeze
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.graph.detection_graph import Normalise
from medprompt.export.weights import constant_channels
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts


class TrainableDetector(nn.Module):
    """A family's core and text side as one module whose forward is the loss."""

    centres: Tensor | None

    def __init__(self, family: Family, weights: LossWeights, recipe: Recipe) -> None:
        super().__init__()
        self.detector = family.model
        self._family = family
        self._core = [family.core()]  # in a list: its parameters are the detector's, named once
        self.normalise = Normalise(family.preprocess())
        self.weights = weights
        self.recipe = recipe
        self.register_buffer("centres", self._core[0].query_centres(), persistent=False)
        self.step = 0

    def train(self, mode: bool = True) -> TrainableDetector:
        """As ``nn.Module``; what the recipe's mode freezes stays in evaluation mode, and so do backbone batch norms.

        Their statistics of a few pictures would replace what thousands taught (as in DETR, arXiv 2005.12872).
        """
        super().train(mode)
        for name, module in self.detector.named_modules():
            if name.startswith(self._family.backbone_prefixes) and isinstance(module, nn.BatchNorm2d):
                module.eval()
        if mode and self.recipe.mode != "full":
            freeze(self.detector)
        return self

    def revive_channels(self) -> tuple[str, ...]:
        """Give infinite variances of the batch norms that training measures a finite start, and name these norms.

        A running mean that holds an infinity stays infinite: in training the channel would be seen, afterwards not.
        """
        self.train()
        revived = []
        for name in constant_channels(self.detector):
            norm = self.detector.get_submodule(name)
            if isinstance(norm, nn.BatchNorm2d) and norm.training:  # others keep their statistics
                variance = norm.get_buffer("running_var")
                variance[variance.isinf()] = torch.finfo(torch.float16).max
                revived.append(name)
        return tuple(revived)

    def forward(
        self,
        image: Tensor,
        texts: Sequence[str],
        targets: list[dict[str, Tensor]],
        annotated: Tensor,
        asked: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return ``{"loss": scalar}``; see ``Collator`` for the arguments. Without ``asked`` it is every class."""
        weights = self.weights if asked is None else self.weights.of_classes(asked.tolist())
        prompts = prompt_tensors(self._family, self._family.encode(texts))
        features = self._core[0].image_features(self.normalise(image))
        own = self._core[0].own_loss(features, prompts, targets, annotated, weights.balance)
        if own is not None:
            return {"loss": own}
        outputs = self._core[0].training_outputs(features, prompts)
        with torch.autocast(image.device.type, enabled=False):  # distances of boxes need more than eight bits
            losses = [self._loss(_float32(output), targets, annotated, weights) for output in outputs]
            return {"loss": torch.stack(losses).sum()}

    def _loss(
        self, output: RawOutputs, targets: list[dict[str, Tensor]], annotated: Tensor, weights: LossWeights
    ) -> Tensor:
        centres = self.centres if output.centres is None else output.centres
        share = one_to_many_weight(output, self.recipe, self.step)
        return detection_loss(output, targets, annotated, weights, centres, share)


def one_to_many_weight(output: RawOutputs, recipe: Recipe, step: int) -> float:
    """How much further queries at an object count as positives at a step, 0 … 1.

    Less and less, that one may stand out in the end. Cells that only propose (``output.centres``) may go on being many:
    the decoder after them chooses one. Without that, rare small objects, such as platelets, are found and scored like
    background.
    """
    if output.centres is not None:
        return recipe.one_to_many_weight
    return recipe.one_to_many_weight * max(0.0, 1 - float(step) / recipe.one_to_many_steps)


def _float32(outputs: RawOutputs) -> RawOutputs:
    return replace(outputs, logits=outputs.logits.float(), boxes_cxcywh=outputs.boxes_cxcywh.float())


def prompt_tensors(family: Family, encoded: EncodedPhrases) -> dict[str, Tensor]:
    """The graph's prompt inputs for encoded phrases, with their gradients, one class a phrase.

    Masks and indices come from ``assemble`` (they carry no gradient); features are the encoder's own tensors.
    """
    encoded_rows = len(encoded.token_counts) or len(next(iter(encoded.tensors.values())))
    classes = [{"label": str(n), "phrases": [f"phrase {n}"]} for n in range(encoded_rows)]
    bank = PromptBank(
        Prompts.model_validate({"classes": classes}),
        encoder="",
        tensors={name: tensor.detach().cpu().float().numpy() for name, tensor in encoded.tensors.items()},
        layouts={name: family.layouts.get(name, "shared") for name in encoded.tensors},
        token_counts=np.array(encoded.token_counts, dtype=np.int64),
        separator_tokens=encoded.separator_tokens,
    )
    specs = family.prompt_specs()
    feeds: dict[str, Tensor] = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, specs).items()}
    for spec in specs:
        if spec.source in ("phrase", "shared"):
            feeds[spec.name] = encoded.tensors[spec.name][None]
        elif spec.source == "token":
            sides = [encoded.tensors.get(f"{spec.name}.{side}") for side in ("before", "after")]
            pieces = [sides[0], encoded.tensors[spec.name], sides[1]]
            feeds[spec.name] = torch.cat([piece for piece in pieces if piece is not None])[None]
    return feeds
