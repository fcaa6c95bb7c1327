"""SAM 3: a phrase conditions an image's features, and a DETR answers it with boxes, scores and masks.

Offline: tokens, the text encoder, its projection: 32 features a phrase, and which of them are padding. In the graph:
see ``core``.

The reference is transformers' text path. Meta's own code adds a token of an empty geometry prompt to each phrase, which
transformers does for box prompts only: the two answer a little differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, ViTImageProcessorPil
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3.processing_sam3 import Sam3Processor
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from medprompt.core.errors import PromptError
from medprompt.core.manifest import Postprocess, Preprocess, TensorSpec, Tolerance
from medprompt.export.families.base import TOLERANCES_UNTIL_MEASURED, EncodedPhrases, Family, ImageSize, RawOutputs
from medprompt.export.families.image_processors import check_processor_size
from medprompt.export.families.sam3.core import Sam3Core, outputs_of_phrases
from medprompt.prompts.bank import Layout

CONTEXT = 32
"""Tokens that transformers' processor pads every phrase to."""
MASK_THRESHOLD = 0.5
"""Of transformers' ``post_process_instance_segmentation``."""
PHRASES_AT_ONCE = 16
"""Of a full-size engine in float32 that is compiled for so many, TensorRT-RTX states 4.2 GiB of activations."""
TORCHVISION_ONLY = "Sam3ImageProcessor"
"""transformers has this image processor with torchvision alone."""


class Sam3ImageProcessorPil(ViTImageProcessorPil):
    """transformers' ``Sam3ImageProcessor`` by Pillow, as its other processors have both; saved, it has that name."""

    def __call__(self, images: Any, segmentation_maps: None = None, **options: Any) -> Any:
        """As transformers' ``Sam3Processor`` calls it."""
        return super().__call__(images, **options)


class Sam3(Family):
    """``Sam3Model``."""

    architecture = "Sam3Model"
    core_class = Sam3Core
    layouts: ClassVar[Mapping[str, Layout]] = {"phrase_features": "phrase", "phrase_mask": "phrase"}
    tunable = ("phrase_features",)
    text_prefixes = ("text_encoder.", "text_projection.")
    head_prefixes = ("detr_decoder.", "dot_product_scoring.", "mask_decoder.")
    attention_projections = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")
    backbone_prefixes = ("vision_encoder.backbone.",)
    beside_prefixes = ("tracker_model.", "tracker_neck.")
    top_k = 32
    own_licence = True
    tolerances: ClassVar[Mapping[str, Tolerance]] = {
        **TOLERANCES_UNTIL_MEASURED,
        # Of a small one trained on nuclei, 96 % of the work in fp16 kept 99.1 % of 5,775 decisions: a pixel of a small
        # mask is enough to lose one. At this share 'auto' leaves in fp32 what moves masks.
        "fp16": Tolerance(min_kept=0.995),
    }
    blocks: ClassVar[Mapping[str, str]] = {
        "core.model.vision_encoder.backbone.embeddings": "backbone.embed",
        "core.model.vision_encoder.backbone.layer_norm": "backbone.embed",
        "core.model.vision_encoder.backbone.layers.{i}": "backbone.layer{i}",
        "core.model.vision_encoder.neck": "neck",
        "core.model.detr_encoder.layers.{i}": "encoder.layer{i}",
        "core.model.detr_decoder.layers.{i}": "decoder.layer{i}",
        "core.model.detr_decoder": "decoder.boxes",
        "core.model.dot_product_scoring": "class head",
        "core.model.mask_decoder": "masks",
    }

    @classmethod
    def model_class(cls) -> Any:
        """See ``Family.model_class``; transformers' own name of it is closed to those without torchvision."""
        return Sam3Model

    @classmethod
    def load_processor(cls, folder: Path, **options: Any) -> Any:
        """See ``Family.load_processor``; without torchvision, Pillow's resize under the same settings."""
        images = pillow_processor(folder)
        if images is None:
            return Sam3Processor.from_pretrained(folder, local_files_only=True, **options)
        return Sam3Processor(images, AutoTokenizer.from_pretrained(folder, local_files_only=True))

    def choose_size(self, size_hw: tuple[int, int] | None) -> ImageSize:
        """The position embeddings fix the size; another one is refused."""
        side = self.model.config.vision_config.image_size
        return self.only_size((side, side), size_hw)

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``.

        Raises:
            CheckpointError: The image processor makes images of another size than the model's.
        """
        check_processor_size(self.processor.image_processor, self.image_size.size_hw)
        return self.stated_preprocess()

    def postprocess(self, post: Postprocess) -> Postprocess:
        """See ``Family.postprocess``: masks, and no more rows than the queries of one phrase, for a bank may have one.

        ``queries`` stays open: it depends on the bank.
        """
        own = {"queries": None, "mask_threshold": MASK_THRESHOLD, "phrases_at_once": PHRASES_AT_ONCE}
        top_k = min(post.top_k, self.model.config.detr_decoder_config.num_queries)
        return post.model_copy(update={**own, "top_k": top_k})

    @property
    def mask_hw(self) -> tuple[int, int]:
        """See ``Family.mask_hw``: the finest map of the neck."""
        vision = self.model.config.vision_config
        side = int(vision.image_size // vision.backbone_config.patch_size * vision.scale_factors[0])
        return side, side

    @property
    def image_module(self) -> nn.Module:
        """See ``Family.image_module``."""
        module: nn.Module = self.model.vision_encoder
        return module

    def warnings(self, post: Postprocess) -> tuple[str, ...]:
        """See ``Family.warnings``."""
        if self.processor.image_processor.backend != "pil":
            return super().warnings(post)
        return (
            *super().warnings(post),
            "transformers' own image processor of SAM 3 is torchvision's; this bundle resizes as Pillow does, whose "
            "pixels may differ by a grey level. Export where torchvision is installed to have its pixels.",
        )

    def prompt_specs(self) -> tuple[TensorSpec, ...]:
        """See ``Family.prompt_specs``."""
        width = self.model.config.detr_encoder_config.hidden_size
        return (
            TensorSpec(name="phrase_features", dtype="float32", shape=(1, "P", CONTEXT, width), source="phrase"),
            TensorSpec(name="phrase_mask", dtype="float32", shape=(1, "P", CONTEXT), source="phrase"),
        )

    def phrase_length(self, text: str) -> tuple[int, int]:
        """See ``Family.phrase_length``."""
        return len(self.phrase_tokens(text)), min(CONTEXT, self.model.config.text_config.max_position_embeddings)

    def check_pooling(self, pooling: str) -> None:
        """Refuse the mean of a class's phrases: each has queries of its own, and no other phrase scores them.

        Raises:
            PromptError: ``pooling`` is ``mean``.
        """
        if pooling == "mean":
            raise PromptError(
                "Each phrase has queries of its own in SAM 3: there is no mean score of several phrases.",
                where="pooling: mean",
                expected="pooling: max",
                fix="change 'pooling' in the prompts file",
            )

    def encode(self, texts: Sequence[str], task: str | None = None) -> EncodedPhrases:
        """See ``Family.encode``: features ``[P, 32, d]``, and 1 where a token is no padding, ``[P, 32]``."""
        tokens = self._tokenize(list(texts))
        features = self.model.get_text_features(**tokens, return_dict=True).pooler_output
        return EncodedPhrases({"phrase_features": features, "phrase_mask": tokens["attention_mask"].to(features.dtype)})

    def _tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        tokens = self.processor(text=texts, return_tensors="pt")
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def reference(self, image_rgb: NDArray[np.uint8], texts: Sequence[str], task: str | None = None) -> RawOutputs:
        """See ``Family.reference``: transformers takes one phrase an image, so there is a run for each.

        The image's features are computed once, as transformers' documentation has it.
        """
        pixels = self.processor(images=Image.fromarray(image_rgb), return_tensors="pt").pixel_values
        vision = self.model.get_vision_features(pixel_values=pixels.to(self.model.device))
        answers = [self.model(vision_embeds=vision, **self._tokenize([text])) for text in texts]
        scores = torch.stack([a.pred_logits.double().sigmoid() * a.presence_logits.double().sigmoid() for a in answers])
        corners = torch.cat([answer.pred_boxes for answer in answers], dim=1)
        masks = torch.cat([answer.pred_masks for answer in answers], dim=1)
        return RawOutputs(
            outputs_of_phrases(torch.logit(scores).float().transpose(0, 1)),
            torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], dim=-1),
            masks=lambda rows: torch.take_along_dim(masks, rows[..., None, None], dim=1),
        )


class Sam3LiteText(Sam3):
    """``Sam3LiteTextModel``: the same model behind a smaller text encoder."""

    architecture = "Sam3LiteTextModel"

    @classmethod
    def model_class(cls) -> Any:
        """See ``Family.model_class``."""
        return Sam3LiteTextModel


def pillow_processor(folder: Path) -> Sam3ImageProcessorPil | None:
    """A checkpoint's image processor by Pillow, where transformers' own cannot be loaded for want of torchvision."""
    settings = _image_settings(folder)
    if settings.get("image_processor_type") != TORCHVISION_ONLY or find_spec("torchvision"):
        return None
    names = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize")
    images = Sam3ImageProcessorPil(
        **{name: settings[name] for name in (*names, "image_mean", "image_std") if name in settings}
    )
    for name in ("do_pad", "pad_size", "do_center_crop"):  # not served: whoever reads the settings has to see them
        setattr(images, name, settings.get(name))
    return images


def _image_settings(folder: Path) -> dict[str, Any]:
    """What a checkpoint states of its image processor, in transformers' newer file or its older one."""
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        path = folder / name
        stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        stated = stated.get(key, {}) if key else stated
        if stated:
            return dict(stated)
    return {}
