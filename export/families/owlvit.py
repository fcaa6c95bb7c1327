"""OWL-ViT: a ViT whose patches are the queries; a phrase is one unit vector.

Offline: text model, projection, L2 norm. In the graph: vision model, box head, class head (Hugging Face's modules as
they are). The query mask of transformers only marks padding between images' phrase lists, which a dynamic phrase axis
makes needless.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import Preprocess, TensorSpec, Tolerance
from medprompt.export.families.base import Core, EncodedPhrases, Family, ImageSize, RawOutputs
from medprompt.prompts.bank import Layout

UNSTATED_LENGTH = 10**6
"""transformers gives a tokenizer of no stated length one of 1e30."""


class OwlCore(Core):
    """Vision side of an OWL detector."""

    phrases_meet = False

    def image_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See ``Core.image_features``: ``patches`` ``[B, Q, width]`` and their boxes ``[B, Q, 4]``."""
        feature_map, _ = self.model.image_embedder(pixel_values=pixel_values)
        patches = feature_map.flatten(1, 2)
        # The bias centres each box on its own patch: the head predicts offsets (Minderer et al. 2022).
        boxes = self.model.box_head(patches) + self.model.box_bias
        return {"patches": patches, "boxes_cxcywh": torch.sigmoid(boxes)}

    def detect(self, features: Mapping[str, Tensor], prompts: Mapping[str, Tensor]) -> RawOutputs:
        """See ``Core.detect``; ``query_embeds`` is ``[1, P, D]``."""
        logits, _ = self.model.class_head(features["patches"], prompts["query_embeds"], None)
        return RawOutputs(logits, features["boxes_cxcywh"])

    def query_centres(self) -> Tensor:
        """Centres of the patches."""
        rows, columns = self.model.num_patches_height, self.model.num_patches_width
        y = (torch.arange(rows) + 0.5) / rows
        x = (torch.arange(columns) + 0.5) / columns
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


class OwlViT(Family):
    """``OwlViTForObjectDetection``."""

    architecture = "OwlViTForObjectDetection"
    core_class = OwlCore
    processors = ("OwlViTProcessor", "Owlv2Processor")
    layouts: ClassVar[Mapping[str, Layout]] = {"query_embeds": "phrase"}
    tunable = ("query_embeds",)
    text_prefixes = ("owlvit.text_model.", "owlvit.text_projection.")
    head_prefixes = ("layer_norm.", "class_head.", "box_head.")
    attention_projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    tolerances: ClassVar[Mapping[str, Tolerance]] = {
        # Measured on the trained nano checkpoint: ONNX Runtime and OpenVINO fp32 keep all of 8,508 decisions.
        "fp32": Tolerance(min_kept=0.995),
        # OpenVINO bf16 kept 8,506 of 8,508, max |Δscore| 0.013.
        "bf16": Tolerance(min_kept=0.99, max_score_delta=0.02),
        # Demo checkpoint, BCCD and nuclei validation splits, simulated half against fp32: 99.88 % of 4,142 and 99.79 %
        # of 3,407 decisions kept, max |Δscore| 0.0035, |ΔAP| at most 0.0002.
        "fp16": Tolerance(min_kept=0.99),
        # Likewise: AP holds (|ΔAP| at most 0.001) where 94.7 % and more are kept; at 95 %, 4.5 % of the matrix work is
        # int8 and 96.57 % and 97.74 % are kept, max |Δscore| 0.036.
        "int8": Tolerance(min_kept=0.95, max_score_delta=0.05),
        # int8's, until fp8 is measured on labelled images.
        "fp8": Tolerance(min_kept=0.95, max_score_delta=0.05),
    }

    blocks: ClassVar[Mapping[str, str]] = {
        "core.model.{any}.vision_model.embeddings": "backbone.embed",
        "core.model.{any}.vision_model.encoder.layers.{i}": "backbone.layer{i}",
        "core.model.{any}.vision_model": "backbone.norm",
        "core.model.layer_norm": "backbone.norm",
        "core.model.class_head": "class head",
        "core.model.box_head": "box head",
    }

    @property
    def backbone(self) -> Any:
        """The dual encoder inside the detector."""
        return self.model.owlvit

    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """The position embeddings fix the size; another one is refused."""
        side = self.model.config.vision_config.image_size
        return self.only_size((side, side), size_hw)

    def resize_images(self, side: int) -> None:
        """See ``Family.resize_images``: the grid of position embeddings is resampled (bicubic), all else stays."""
        vision = self.model.config.vision_config
        if side % vision.patch_size:
            raise CheckpointError(
                "The image size is not a multiple of the patch size.",
                expected=f"a multiple of {vision.patch_size}",
                got=str(side),
                fix="change image_size in the recipe",
            )
        vision.image_size = side
        resized = type(self.model)(self.model.config)
        state = {name: tensor for name, tensor in self.model.named_parameters() if name != self._positions}
        old = self.model.get_parameter(self._positions).detach()
        state[self._positions] = _resampled_grid(old, side // vision.patch_size)
        resized.load_state_dict(state, strict=False)
        self.model = resized.eval()
        self.image_size = ImageSize((side, side))
        images = self.processor.image_processor
        images.size = {"height": side, "width": side}
        if getattr(images, "crop_size", None):
            images.crop_size = {"height": side, "width": side}

    @property
    def _positions(self) -> str:
        return f"{self.model.base_model_prefix}.vision_model.embeddings.position_embedding.weight"

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``."""
        processor = self.processor.image_processor
        size = (processor.size.get("height"), processor.size.get("width"))
        if size != self.image_size.size_hw or getattr(processor, "do_center_crop", False):
            raise CheckpointError(
                "The image processor does not fit the model.",
                expected=f"resize to {self.image_size.size_hw}, no centre crop",
                got=f"resize to {size}, do_center_crop={getattr(processor, 'do_center_crop', False)}",
                where="preprocessor_config.json",
                fix="save the processor that the model was trained with",
            )
        return self.stated_preprocess()

    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Family.prompt_specs``."""
        width = self.model.config.projection_dim
        return (TensorSpec(name="query_embeds", dtype="float32", shape=(1, "P", width), source="phrase"),)

    def check_tokenizer(self) -> None:
        """See ``Family.check_tokenizer``; transformers' processor pads phrases to the tokenizer's own length."""
        super().check_tokenizer()
        context, length = (
            self.model.config.text_config.max_position_embeddings,
            self.processor.tokenizer.model_max_length,
        )
        if length > context:
            raise CheckpointError(
                "The tokenizer does not say how long a phrase may be.",
                where="tokenizer_config.json: model_max_length",
                expected=f"at most {context}, the text model's positions",
                got="nothing" if length > UNSTATED_LENGTH else str(length),
                fix=f'put "model_max_length": {context} into tokenizer_config.json',
            )

    def phrase_length(self, text: str) -> tuple[int, int]:
        """See ``Family.phrase_length``."""
        positions = self.model.config.text_config.max_position_embeddings
        return len(self.phrase_tokens(text)), min(positions, self.processor.tokenizer.model_max_length)

    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """See ``Family.encode``: unit vectors ``[P, D]``."""
        tokens = self.tokenize(texts)
        pooled = self.backbone.text_model(**tokens).pooler_output
        projected = self.backbone.text_projection(pooled)
        return EncodedPhrases({"query_embeds": projected / projected.norm(dim=-1, keepdim=True)})

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask ``[P, context]``, padded as transformers' processor does."""
        context = self.model.config.text_config.max_position_embeddings
        tokens = self.processor.tokenizer(list(texts), padding="max_length", max_length=context, return_tensors="pt")
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """See ``Family.reference``."""
        picture = Image.fromarray(image_rgb)
        inputs = self.processor(text=[list(texts)], images=picture, return_tensors="pt").to(self.model.device)
        outputs = self.model(**inputs)
        return RawOutputs(outputs.logits, outputs.pred_boxes)


def _resampled_grid(positions: Tensor, side: int) -> Tensor:
    """Position embeddings ``[1 + n², width]`` (class token first) for a grid of ``side`` rows."""
    old = math.isqrt(len(positions) - 1)
    grid = positions[1:].T.reshape(1, -1, old, old)
    resampled = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    # The class token has no position in the grid and stays as it is.
    return torch.cat([positions[:1], resampled.flatten(2)[0].T])
