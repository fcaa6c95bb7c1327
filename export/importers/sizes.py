"""Tables and sizes that formats share: Swin and BERT, by the names that the published folders of transformers have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.export.importers.base import Foreign, Weights
from medprompt.export.importers.mapping import DROP, Rules, Target, rgb_from_bgr, swapped, thirds

HEAD_WIDTH = 64
"""Width of an attention head in every BERT and CLIP text model that these projects use."""


@dataclass(frozen=True)
class SwinNames:
    """What a project calls the parts of its Swin.

    Attributes:
        prefix: Before all its names.
        patches, stages, attention, first, second: Its patch projection, stages, attention and two linear layers.
        unfolds: Whether patch merging is ``nn.Unfold``, whose channels are in another order.
    """

    prefix: str
    patches: str = "proj"
    stages: str = "layers"
    attention: str = "attn"
    first: str = "mlp.fc1"
    second: str = "mlp.fc2"
    unfolds: bool = False

    def rules(self, to: str, *, bgr: bool = False) -> dict[str, str | Target]:
        """The table of all but the norms of the outputs, to the names of transformers below ``to``."""
        of, into = f"{self.prefix}{self.stages}.{{i}}.blocks.{{j}}", f"{to}encoder.layers.{{i}}.blocks.{{j}}"
        merging = f"{self.prefix}{self.stages}.{{i}}.downsample"
        table = "relative_position_bias_table"
        pixels = f"{to}embeddings.patch_embeddings.projection"
        merged = {
            f"{merging}.{part}": f"{to}encoder.layers.{{i}}.downsample.{part}"
            for part in ("reduction.weight", "norm.weight", "norm.bias")
        }
        return {
            f"{self.prefix}patch_embed.{self.patches}.weight": rgb_from_bgr(f"{pixels}.weight")
            if bgr
            else f"{pixels}.weight",
            f"{self.prefix}patch_embed.{self.patches}.bias": f"{pixels}.bias",
            f"{self.prefix}patch_embed.norm.{{w}}": f"{to}embeddings.norm.{{w}}",
            f"{of}.norm1.{{w}}": f"{into}.layernorm_before.{{w}}",
            f"{of}.norm2.{{w}}": f"{into}.layernorm_after.{{w}}",
            f"{of}.{self.attention}.qkv.{{w}}": thirds(
                *(f"{into}.attention.self.{part}.{{w}}" for part in ("query", "key", "value"))
            ),
            f"{of}.{self.attention}.proj.{{w}}": f"{into}.attention.output.dense.{{w}}",
            f"{of}.{self.attention}.{table}": f"{into}.attention.self.{table}",
            f"{of}.{self.attention}.relative_position_index": DROP,
            f"{of}.attn_mask": DROP,
            f"{of}.{self.first}.{{w}}": f"{into}.intermediate.dense.{{w}}",
            f"{of}.{self.second}.{{w}}": f"{into}.output.dense.{{w}}",
            **({name: swapped(target) for name, target in merged.items()} if self.unfolds else merged),
        }


def swin_config(weights: Weights, at: str) -> dict[str, Any]:
    """The config of a Swin below ``at``, read off its weights.

    Raises:
        CheckpointError: Its stages have windows of different size.
    """
    layers = f"{at}encoder.layers"
    stages = range(weights.count(f"{layers}.{{i}}.blocks.0.layernorm_before.weight"))
    tables = [
        weights.shape(f"{layers}.{stage}.blocks.0.attention.self.relative_position_bias_table") for stage in stages
    ]
    width, _, patch, _ = weights.shape(f"{at}embeddings.patch_embeddings.projection.weight")
    windows = {(isqrt(table[0]) + 1) // 2 for table in tables}
    if len(windows) != 1:
        raise CheckpointError("The stages of the Swin differ in their window.", where=weights.where, got=f"{windows}")
    norms = [number for number in (1, 2, 3, 4) if f"{at}hidden_states_norms.stage{number}.weight" in weights.tensors]
    return {
        "model_type": "swin",
        "patch_size": patch,
        "embed_dim": width,
        "depths": [weights.count(f"{layers}.{stage}.blocks.{{i}}.layernorm_before.weight") for stage in stages],
        "num_heads": [table[1] for table in tables],
        "window_size": windows.pop(),
        "mlp_ratio": weights.shape(f"{layers}.0.blocks.0.intermediate.dense.weight")[0] / width,
        "out_indices": norms,
    }


def bert_rules(prefix: str, to: str) -> Rules:
    """The table of a BERT of transformers below ``prefix``."""
    parts = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
    return {
        **{f"{prefix}embeddings.{part}.{{w}}": f"{to}embeddings.{part}.{{w}}" for part in parts},
        f"{prefix}encoder.{{rest}}": f"{to}encoder.{{rest}}",
        f"{prefix}embeddings.position_ids": DROP,
        f"{prefix}pooler.{{rest}}": DROP,
    }


def bert_config(foreign: Foreign, weights: Weights, at: str) -> dict[str, Any]:
    """The config of a BERT below ``at``; its heads are those of the tokenizer's config.json, else 64 wide.

    Raises:
        CheckpointError: The tokenizer is another model's, or the heads are not known.
    """
    words, hidden = weights.shape(f"{at}embeddings.word_embeddings.weight")
    sizes = {
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": weights.count(f"{at}encoder.layer.{{i}}.output.dense.bias"),
        "intermediate_size": weights.shape(f"{at}encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": weights.shape(f"{at}embeddings.position_embeddings.weight")[0],
        "type_vocab_size": weights.shape(f"{at}embeddings.token_type_embeddings.weight")[0],
    }
    return {"model_type": "bert", "pad_token_id": 0, **text_sizes(foreign, sizes)}


def text_sizes(foreign: Foreign, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """``sizes``, and the number of attention heads, which no weight shows.

    Raises:
        CheckpointError: The tokenizer's config.json is of another model, or the heads cannot be told.
    """
    for name, size in sizes.items():
        foreign.text.agrees(name, size)
    heads = foreign.text.get("num_attention_heads")
    if heads is None and sizes["hidden_size"] % HEAD_WIDTH:
        raise CheckpointError(
            "The number of attention heads of the text model is not known: no weight shows it.",
            where="tokenizer",
            expected=f"a width that is a multiple of {HEAD_WIDTH}, or num_attention_heads in config.json beside it",
            got=f"a width of {sizes['hidden_size']}, and no such config.json",
            fix="put the text model's config.json into the tokenizer's folder",
        )
    return {**sizes, "num_attention_heads": heads or sizes["hidden_size"] // HEAD_WIDTH}
