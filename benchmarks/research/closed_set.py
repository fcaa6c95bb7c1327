"""A supervised closed-set detector on the backbone, data and loss of our small VLMs: what they are compared with.

It is transformers' RT-DETR (arXiv 2304.08069), whose encoder and decoder OmDet-Turbo took over. All that differs is the
last step: a column of weights a class here, the text of a phrase there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medprompt.core.detections import Detections
from medprompt.core.manifest import Preprocess
from medprompt.data import DetectionSet
from medprompt.export.evaluation.losses import LossWeights, detection_loss
from medprompt.export.families.base import RawOutputs
from medprompt.export.finetune.callbacks import AveragedWeights
from medprompt.export.finetune.loop import DetectionTrainer, training_arguments
from medprompt.export.finetune.model import one_to_many_weight
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.samples import Augmentation, Collator, TrainingSamples
from medprompt.export.finetune.small_models.nano_resnet import CHANNELS, MEAN, load_resnet, resnet_config
from medprompt.images.read import load_image
from medprompt.images.resize import box_scale, resize_on_host
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.prompts.schema import Prompts

WIDTH = 128
MAX_PAIRS = 300
"""Detections kept an image, as everywhere here."""


class ClosedSetDetector(nn.Module):
    """RT-DETR of the small VLMs' size; its forward is their loss.

    Args:
        labels: Its classes.
        side: Height and width of its image.
        recipe: Weights of the loss.
    """

    def __init__(self, labels: Sequence[str], side: int, recipe: Recipe) -> None:
        from transformers import RTDetrForObjectDetection

        super().__init__()
        self.labels = tuple(labels)
        self.preprocess = Preprocess(size_hw=(side, side), resample="bilinear", rescale_factor=1.0)
        self.recipe = recipe
        self.weights = LossWeights(class_loss=recipe.class_loss, l1_loss=recipe.l1_loss, giou_loss=recipe.giou_loss)
        self.detector = RTDetrForObjectDetection(_config(len(labels)))
        with torch.no_grad():
            load_resnet(self.detector.model.backbone.model)
        self.register_buffer("mean", torch.tensor(MEAN)[None, :, None, None], persistent=False)
        self.step = 0

    def forward(
        self, image: Tensor, texts: Sequence[str], targets: list[dict[str, Tensor]], annotated: Tensor, asked: Tensor
    ) -> dict[str, Tensor]:
        """Return ``{"loss": scalar}``; see ``Collator``. The texts are not read; every class is asked."""
        outputs = self.outputs(image)
        losses = [
            detection_loss(
                one, targets, annotated, self.weights, one.centres, one_to_many_weight(one, self.recipe, self.step)
            )
            for one in outputs
        ]
        return {"loss": torch.stack(losses).sum()}

    def outputs(self, image: Tensor) -> list[RawOutputs]:
        """The output of every cell, then every decoder layer's, for uint8 ``[B, h, w, 3]``."""
        pixels = image.permute(0, 3, 1, 2).float() - self.mean
        found = self.detector(pixels)
        centres = _centres(self.preprocess.size_hw).to(pixels)
        boxes = found.enc_outputs_coord_logits.float().sigmoid()
        usable = found.enc_outputs_coord_logits.isfinite().all(dim=2).all(dim=0)
        first = RawOutputs(found.enc_outputs_class.float()[:, usable], boxes[:, usable], centres[usable])
        layers = zip(found.intermediate_logits.unbind(1), found.intermediate_reference_points.unbind(1), strict=True)
        return [first, *(RawOutputs(logits.float(), points.float()) for logits, points in layers)]

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over an earlier detector's weights, but for those that belong to its classes."""
        own = self.detector.state_dict()
        same = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
        self.detector.load_state_dict(same, strict=False)

    @torch.no_grad()
    def detect(self, image_rgb: NDArray[np.uint8]) -> Detections:
        """Detect in one image, uint8 ``[H, W, 3]``: the ``MAX_PAIRS`` best of all pairs of query and class."""
        resized = torch.from_numpy(resize_on_host(image_rgb, self.preprocess))
        *_, last = self.outputs(resized[None])
        scores, indices = last.logits[0].sigmoid().flatten().topk(min(MAX_PAIRS, last.logits[0].numel()))
        queries, classes = (part.numpy() for part in (indices // len(self.labels), indices % len(self.labels)))
        centre_x, centre_y, width, height = last.boxes_cxcywh[0].numpy()[queries].T
        corners = np.stack(
            [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2], 1
        )
        size_hw = (image_rgb.shape[0], image_rgb.shape[1])
        scale = np.array(box_scale(size_hw, self.preprocess) * 2, dtype=np.float32)
        return Detections(
            (corners * scale).astype(np.float32),
            scores.numpy(),
            classes.astype(np.int64),
            classes.astype(np.int64),
            self.labels,
            self.labels,
            size_hw,
        )


def train_closed_set(
    labels: Sequence[str],
    training: DetectionSet,
    recipe: Recipe,
    side: int,
    work: Path,
    start: Mapping[str, Tensor] | None = None,
) -> ClosedSetDetector:
    """Train one on a labelled set, and return it with its averaged weights, in evaluation mode.

    Args:
        labels: Its classes.
        training: Images and boxes.
        recipe: As for the VLM; what concerns text is not used.
        side: Height and width of its image.
        work: Folder for the trainer's saves.
        start: Weights of an earlier one.
    """
    torch.manual_seed(recipe.seed)
    model = ClosedSetDetector(labels, side, recipe)
    if start is not None:
        model.start_from(start)
    prompts = Prompts.model_validate({"classes": [{"label": label, "phrases": [label]} for label in labels]})
    augmentation = Augmentation((recipe.scale_min, recipe.scale_max), recipe.flips, recipe.colour)
    samples = TrainingSamples(
        [training.relabelled(labels)],
        [np.ones(len(labels), dtype=bool)],
        [1],
        model.preprocess,
        augmentation,
        recipe.steps * recipe.batch,
        recipe.seed,
    )
    averaged = AveragedWeights(model, recipe.ema)
    trainer = DetectionTrainer(
        model=model,
        args=training_arguments(recipe, work),
        data_collator=Collator(prompts, recipe.seed),
        train_dataset=samples,
        callbacks=[averaged],
        recipe=recipe,
        text_prefixes=(),
    )
    trainer.train()
    model.detector.load_state_dict(averaged.averaged.module.state_dict())
    model.eval()
    return model


def closed_set_accuracy(model: ClosedSetDetector, labelled: DetectionSet) -> Accuracy:
    """COCO figures on a labelled set."""
    return measure_accuracy(labelled, [model.detect(load_image(image.path)) for image in labelled.images])


def _config(classes: int) -> Any:
    from transformers import RTDetrConfig

    return RTDetrConfig(
        backbone_config=resnet_config(),
        freeze_backbone_batch_norms=True,
        encoder_hidden_dim=WIDTH,
        encoder_in_channels=list(CHANNELS),
        feat_strides=[8, 16],
        encode_proj_layers=[1],
        encoder_ffn_dim=4 * WIDTH,
        encoder_attention_heads=4,
        d_model=WIDTH,
        decoder_in_channels=[WIDTH, WIDTH],
        decoder_ffn_dim=4 * WIDTH,
        num_feature_levels=2,
        decoder_layers=3,
        decoder_attention_heads=4,
        num_queries=200,
        num_denoising=0,
        num_labels=classes,
    )


def _centres(size_hw: tuple[int, int]) -> Tensor:
    """``[N, 2]`` (x, y) in 0 … 1 of the cells of both maps."""
    parts = []
    for stride in (8, 16):
        rows, columns = (torch.arange(side // stride) for side in size_hw)
        y, x = torch.meshgrid((rows + 0.5) / len(rows), (columns + 0.5) / len(columns), indexing="ij")
        parts.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(parts)
