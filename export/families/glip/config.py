"""config.json of a GLIP folder: what the weights do not say, with the published models' values as defaults."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class GlipConfig(PreTrainedConfig):
    """GLIP's sizes and rules; defaults are GLIP-T's.

    Attributes:
        backbone_config: Backbone of transformers whose maps have strides 8, 16 and so on; GLIP's own is a Swin.
        text_config: BERT.
        width: Channels of feature pyramid and tower.
        tower_layers: Rounds of fusion, text layer and dynamic convolution.
        fused: Whether text and image meet in the tower; GLIP-A's do not.
        fusion_width, fusion_heads: Of the attention between them.
        norm_groups: Of the tower's group norms.
        anchor_scale: Side of a cell's anchor in strides.
        max_text_len: Most tokens of a caption.
        size_divisor: Images are padded to multiples of it, after normalisation, at the right and bottom.
        separator: What stands between a caption's phrases.
        least_probability: A phrase is a candidate where the mean over its tokens is more than this.
        level_top_k: Candidates kept on each level of the pyramid.
        nms_iou: Overlap with a better box of its class over which a candidate is dropped.
        max_detections: Most detections of an image.
        ranked_by: What a level's candidates are chosen by: their score, or the phrase's probability alone.
        limits_shrinking: Whether a box has at least 1/62.5 of its anchor's sides.
        nms_pixels, min_side, end_pixels: See ``medprompt.core.manifest.Postprocess``.
    """

    model_type = "glip"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig, "text_config": AutoConfig}

    backbone_config: Any = None
    text_config: Any = None
    width: int = 256
    tower_layers: int = 6
    fused: bool = True
    fusion_width: int = 2048
    fusion_heads: int = 8
    norm_groups: int = 16
    anchor_scale: int = 8
    max_text_len: int = 256
    size_divisor: int = 32
    separator: str = ". "
    least_probability: float = 0.05
    level_top_k: int = 1000
    nms_iou: float = 0.6
    max_detections: int = 100
    ranked_by: Literal["score", "probability"] = "score"
    limits_shrinking: bool = False
    nms_pixels: Literal["inclusive", "exclusive"] = "inclusive"
    min_side: float | None = None
    end_pixels: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Make config objects of what config.json holds."""
        self.backbone_config = _config_of(
            self.backbone_config or {"model_type": "swin", "out_features": ["stage2", "stage3", "stage4"]}
        )
        self.text_config = _config_of(self.text_config or {"model_type": "bert"})
        super().__post_init__(**kwargs)


def _config_of(stated: Any) -> Any:
    return AutoConfig.for_model(**stated) if isinstance(stated, dict) else stated
