"""What IDEA's and mmdetection's Grounding DINO have in common: the config, the processor, the names that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.export.importers.base import Foreign, Weights
from medprompt.export.importers.mapping import Rules, thirds
from medprompt.export.importers.sizes import bert_config, swin_config

SWIN = "model.backbone.conv_encoder.model."
TEXT = "model.text_backbone."
HEADS = 8
"""Attention heads and sampling points where a config says nothing: the defaults of both projects' code."""
POINTS = 4


def attention(source: str, to: str, *, wrapped: str = "") -> Rules:
    """The table of an ``nn.MultiheadAttention``; ``wrapped`` is what mmcv's wrapper puts before its names."""
    parts = [f"{to}.{part}.{{w}}" for part in ("query", "key", "value")]
    return {
        f"{source}.{wrapped}in_proj_{{w}}": thirds(*parts),
        f"{source}.{wrapped}out_proj.{{w}}": f"{to}.out_proj.{{w}}",
    }


def deformable(source: str, to: str) -> Rules:
    """The table of a deformable attention, whose parts have the same names everywhere."""
    parts = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    return {f"{source}.{part}.{{w}}": f"{to}.{part}.{{w}}" for part in parts}


def fusion(source: str, to: str) -> Rules:
    """The table of a fusion of image and text, which mmdetection took over from IDEA."""
    sides = {"v_proj": "vision_proj", "l_proj": "text_proj", "values_v_proj": "values_vision_proj"}
    sides |= {"values_l_proj": "values_text_proj", "out_v_proj": "out_vision_proj", "out_l_proj": "out_text_proj"}
    return {
        f"{source}.gamma_v": f"{to}.vision_param",
        f"{source}.gamma_l": f"{to}.text_param",
        f"{source}.layer_norm_v.{{w}}": f"{to}.layer_norm_vision.{{w}}",
        f"{source}.layer_norm_l.{{w}}": f"{to}.layer_norm_text.{{w}}",
        **{f"{source}.attn.{one}.{{w}}": f"{to}.attn.{other}.{{w}}" for one, other in sides.items()},
    }


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Grounding DINO as transformers calls them, and where the project's config states each."""

    weights: Weights
    foreign: Foreign
    paths: Mapping[str, str]

    def config(self, heads: int, points: int) -> dict[str, Any]:
        """The sizes that weights show, held against the config; attention heads and points are handed in.

        Raises:
            CheckpointError: The config contradicts the weights.
        """
        shape, count = self.weights.shape, self.weights.count
        levels, width = shape("model.level_embed")
        sizes = {
            "d_model": width,
            "num_feature_levels": levels,
            "encoder_layers": count("model.encoder.layers.{i}.deformable_layer.fc1.bias"),
            "decoder_layers": count("model.decoder.layers.{i}.fc1.bias"),
            "encoder_ffn_dim": shape("model.encoder.layers.0.deformable_layer.fc1.bias")[0],
            "decoder_ffn_dim": shape("model.decoder.layers.0.fc1.bias")[0],
            "num_queries": shape("model.query_position_embeddings.weight")[0],
        }
        for name, size in sizes.items():
            if name in self.paths:
                self.foreign.stated.agrees(self.paths[name], size)
        offsets = {
            shape(f"model.{part}.sampling_offsets.bias")[0]
            for part in ("encoder.layers.0.deformable_layer.self_attn", "decoder.layers.0.encoder_attn")
        }
        if offsets != {heads * levels * points * 2}:
            raise CheckpointError(
                "The config contradicts the weights: it is another model's.",
                where=f"{self.foreign.stated.where}: attention heads and sampling points",
                expected=f"heads x levels x points x 2 = {sorted(offsets)}, the sampling offsets of the weights",
                got=f"{heads} x {levels} x {points} x 2 = {heads * levels * points * 2}",
                fix="name the config that this checkpoint was trained with",
            )
        return {
            **sizes,
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_n_points": points,
            "decoder_n_points": points,
            "backbone_config": swin_config(self.weights, SWIN),
            "text_config": bert_config(self.foreign, self.weights, TEXT),
            "two_stage": True,
            "embedding_init_target": True,
            "activation_function": "relu",
            "position_embedding_type": "sine",
        }
