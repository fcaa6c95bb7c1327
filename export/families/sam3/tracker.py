"""SAM 3's interactive side: a prompt encoder and a mask decoder on the features of the image encoder.

A box is one prompt and gets one mask (``multimask_output=False``), as it leaves nothing open; where that mask is not
stable the decoder itself takes the best of three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.sam3_tracker import modeling_sam3_tracker
from transformers.models.sam3_tracker.processing_sam3_tracker import Sam3TrackerProcessor

from medprompt.core.manifest import Preprocess, TensorSpec
from medprompt.core.masks import Masks
from medprompt.export.families.image_processors import check_processor_size, preprocess_of
from medprompt.export.families.sam3.core import SLICED, attending
from medprompt.export.families.sam3.family import pillow_processor
from medprompt.export.segmenters.base import BoxSegmenter


class Sam3Tracker(BoxSegmenter):
    """``Sam3TrackerModel``, also out of a checkpoint of ``Sam3VideoModel``, whose part it is."""

    architecture = "Sam3TrackerModel"
    own_licence = True
    beside_prefixes = ("detector_model.",)

    @classmethod
    def model_class(cls) -> Any:
        """See ``BoxSegmenter.model_class``."""
        return modeling_sam3_tracker.Sam3TrackerModel

    @classmethod
    def load_processor(cls, folder: Path) -> Any:
        """See ``BoxSegmenter.load_processor``; without torchvision, Pillow's resize under the same settings."""
        images = pillow_processor(folder)
        if images is None:
            return Sam3TrackerProcessor.from_pretrained(folder, local_files_only=True)
        return Sam3TrackerProcessor(images)

    def preprocess(self) -> Preprocess:
        """See ``BoxSegmenter.preprocess``.

        Raises:
            CheckpointError: The image processor makes images of another size, or does more than resize.
        """
        images, side = self.processor.image_processor, self.model.prompt_encoder.input_image_size
        check_processor_size(images, (side, side))
        return preprocess_of(images, (side, side))

    def encoder(self, normalise: nn.Module) -> nn.Module:
        """See ``BoxSegmenter.encoder``."""
        return Encoder(self.model, normalise)

    def decoder(self) -> nn.Module:
        """See ``BoxSegmenter.decoder``."""
        return Decoder(self.model)

    def feature_specs(self) -> tuple[TensorSpec, ...]:
        """See ``BoxSegmenter.feature_specs``: finest first, of an eighth, a quarter and all of the model's width."""
        width, sizes = self.model.hidden_dim, self.model.backbone_feature_sizes
        return tuple(
            TensorSpec(name=f"features{level}", dtype="float32", shape=(1, width // share, *size))
            for level, (share, size) in enumerate(zip((8, 4, 1), sizes, strict=True))
        )

    @property
    def mask_hw(self) -> tuple[int, int]:
        """See ``BoxSegmenter.mask_hw``: those of the finest features."""
        height, width = self.model.backbone_feature_sizes[0]
        return height, width

    @torch.no_grad()
    def reference(self, image_rgb: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Masks:
        """See ``BoxSegmenter.reference``.

        The last step is that of ``post_process_masks``, which transformers has with torchvision alone.
        """
        boxes = [[[float(side) for side in box] for box in boxes_xyxy]]
        size_hw = image_rgb.shape[:2]
        pixels = self.processor.image_processor(Image.fromarray(image_rgb), return_tensors="pt")["pixel_values"]
        prompts = self.processor(input_boxes=boxes, original_sizes=[list(size_hw)], return_tensors="pt")
        answer = self.model(pixel_values=pixels, input_boxes=prompts["input_boxes"], multimask_output=False)
        logits = functional.interpolate(answer.pred_masks[0], size_hw, mode="bilinear", align_corners=False)
        return Masks.of((logits[:, 0] > self.mask_threshold).numpy())


class Encoder(nn.Module):
    """Features of an image ``[1, h, w, 3]``, see ``Sam3Tracker.feature_specs``."""

    def __init__(self, model: Any, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise, self.model = normalise, model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode, as transformers does before it is asked anything."""
        with attending(SLICED, self.model.config.vision_config.backbone_config):
            return tuple(self.model.get_image_embeddings(self.normalise(image)))


class Decoder(nn.Module):
    """Masks of boxes. Each is an image of its own to the model: so their number may differ from call to call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, boxes: Tensor, *features: Tensor) -> Tensor:
        """Logits ``[N, h_m, w_m]`` of boxes ``[N, 4]`` in 0 … 1."""
        count, side = boxes.shape[0], self.model.prompt_encoder.input_image_size
        sparse, dense = self.model.prompt_encoder(
            input_points=None, input_labels=None, input_boxes=boxes[:, None] * side, input_masks=None
        )
        *fine, coarse = (feature.expand(count, -1, -1, -1) for feature in features)
        positions = self.model.get_image_wide_positional_embeddings().expand(count, -1, -1, -1)
        with attending("eager", self.model.config.mask_decoder_config):  # the fused one keeps the number of boxes
            masks: Tensor = self.model.mask_decoder(
                image_embeddings=coarse,
                image_positional_embeddings=positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
                high_resolution_features=fine,
            )[0]
        return masks[:, 0, 0]
