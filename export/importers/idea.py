"""Grounding DINO as IDEA-Research/GroundingDINO and longzw1997/Open-GroundingDino save it.

Names and defaults are of IDEA-Research/GroundingDINO 856dde2 and Open-GroundingDino d248268.
"""

from __future__ import annotations

from typing import Any

from medprompt.core.manifest import TrainedRules
from medprompt.export.families.image_processors import grounding_processor
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.grounding import HEADS, POINTS, SWIN, TEXT, Sizes, attention, deformable, fusion
from medprompt.export.importers.mapping import DROP, Rules, both, equal
from medprompt.export.importers.sizes import SwinNames, bert_rules

NAMES = SwinNames("backbone.0.")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SHORT_EDGE, LONG_EDGE = 800, 1333
"""Literals of the project's inference; a training states its own as ``data_aug_scales`` and ``data_aug_max_size``."""

STATED = {
    "d_model": "hidden_dim",
    "num_feature_levels": "num_feature_levels",
    "encoder_layers": "enc_layers",
    "decoder_layers": "dec_layers",
    "encoder_ffn_dim": "dim_feedforward",
    "decoder_ffn_dim": "dim_feedforward",
    "num_queries": "num_queries",
}
SERVED = {
    "two_stage_type": "standard",
    "position_embedding": "sine",
    "transformer_activation": "relu",
    "embed_init_tgt": True,
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_text_cross_attention": True,
    "sub_sentence_present": True,
    "pre_norm": False,
    "query_dim": 4,
    "num_patterns": 0,
}
"""Forms of the model that transformers' class has; the config may state no other."""

BOXES = both("bbox_embed.{i}.layers.{j}.{w}", "model.decoder.bbox_embed.{i}.layers.{j}.{w}")


class IdeaGroundingDino(Importer):
    """The released checkpoints, and what is trained with the same code: a query answers with its best token."""

    name = "idea-grounding-dino"
    marks = ("transformer.tgt_embed.weight", "feat_map.weight", "backbone.0.patch_embed.proj.weight", "{rest}.gamma_l")
    states = ("hidden_dim", "enc_layers", "num_queries")

    def rules(self, foreign: Foreign) -> Rules:
        """See ``Importer.rules``. The decoder's norms are crossed: the first follows the image, the second itself."""
        of, to = "transformer.encoder", "model.encoder.layers.{i}"
        dec, into = "transformer.decoder.layers.{i}", "model.decoder.layers.{i}"
        return {
            **NAMES.rules(SWIN),
            **{f"backbone.0.norm{n}.{{w}}": f"{SWIN}hidden_states_norms.stage{n + 1}.{{w}}" for n in range(4)},
            **bert_rules("bert.", TEXT),
            "input_proj.{i}.{j}.{w}": "model.input_proj_vision.{i}.{j}.{w}",
            "feat_map.{w}": "model.text_projection.{w}",
            "label_enc.{rest}": DROP,
            "transformer.level_embed": "model.level_embed",
            "transformer.tgt_embed.weight": "model.query_position_embeddings.weight",
            "transformer.enc_output.{w}": "model.enc_output.{w}",
            "transformer.enc_output_norm.{w}": "model.enc_output_norm.{w}",
            "transformer.enc_out_bbox_embed.layers.{i}.{w}": "model.encoder_output_bbox_embed.layers.{i}.{w}",
            "transformer.decoder.norm.{w}": "model.decoder.layer_norm.{w}",
            "transformer.decoder.ref_point_head.layers.{i}.{w}": "model.decoder.reference_points_head.layers.{i}.{w}",
            # Both names hold one tensor.
            "bbox_embed.{i}.layers.{j}.{w}": BOXES,
            "transformer.decoder.bbox_embed.{i}.layers.{j}.{w}": BOXES,
            **deformable(f"{of}.layers.{{i}}.self_attn", f"{to}.deformable_layer.self_attn"),
            f"{of}.layers.{{i}}.norm1.{{w}}": f"{to}.deformable_layer.self_attn_layer_norm.{{w}}",
            f"{of}.layers.{{i}}.linear1.{{w}}": f"{to}.deformable_layer.fc1.{{w}}",
            f"{of}.layers.{{i}}.linear2.{{w}}": f"{to}.deformable_layer.fc2.{{w}}",
            f"{of}.layers.{{i}}.norm2.{{w}}": f"{to}.deformable_layer.final_layer_norm.{{w}}",
            **attention(f"{of}.text_layers.{{i}}.self_attn", f"{to}.text_enhancer_layer.self_attn"),
            f"{of}.text_layers.{{i}}.linear1.{{w}}": f"{to}.text_enhancer_layer.fc1.{{w}}",
            f"{of}.text_layers.{{i}}.linear2.{{w}}": f"{to}.text_enhancer_layer.fc2.{{w}}",
            f"{of}.text_layers.{{i}}.norm1.{{w}}": f"{to}.text_enhancer_layer.layer_norm_before.{{w}}",
            f"{of}.text_layers.{{i}}.norm2.{{w}}": f"{to}.text_enhancer_layer.layer_norm_after.{{w}}",
            **fusion(f"{of}.fusion_layers.{{i}}", f"{to}.fusion_layer"),
            **deformable(f"{dec}.cross_attn", f"{into}.encoder_attn"),
            **attention(f"{dec}.self_attn", f"{into}.self_attn"),
            **attention(f"{dec}.ca_text", f"{into}.encoder_attn_text"),
            f"{dec}.norm1.{{w}}": f"{into}.encoder_attn_layer_norm.{{w}}",
            f"{dec}.catext_norm.{{w}}": f"{into}.encoder_attn_text_layer_norm.{{w}}",
            f"{dec}.norm2.{{w}}": f"{into}.self_attn_layer_norm.{{w}}",
            f"{dec}.linear1.{{w}}": f"{into}.fc1.{{w}}",
            f"{dec}.linear2.{{w}}": f"{into}.fc2.{{w}}",
            f"{dec}.norm3.{{w}}": f"{into}.final_layer_norm.{{w}}",
        }

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        stated = foreign.stated
        for path, served in SERVED.items():
            stated.needs(path, served)
        if "roberta" in str(stated.get("text_encoder_type", "")):  # a BERT may be named by the path to it
            stated.needs("text_encoder_type", "bert-base-uncased")
        points = stated.get("enc_n_points", POINTS)
        stated.needs("dec_n_points", points)
        temperature = stated.get("pe_temperatureH", 20)
        stated.needs("pe_temperatureW", temperature, default=20)
        return {
            "model_type": "grounding-dino",
            "architectures": ["GroundingDinoForObjectDetection"],
            **Sizes(weights, foreign, STATED).config(stated.get("nheads", HEADS), points),
            "positional_embedding_temperature": temperature,
            "max_text_len": stated.get("max_text_len", 256),
            "decoder_bbox_embed_share": _one_box_head(weights),
        }

    def processor(self, foreign: Foreign) -> Any:
        """See ``Importer.processor``."""
        short = max(foreign.stated.get("data_aug_scales", [SHORT_EDGE]))
        size = {"shortest_edge": short, "longest_edge": foreign.stated.get("data_aug_max_size", LONG_EDGE)}
        return grounding_processor(foreign.tokenizer, size, MEAN, STD)

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``: the family's own."""
        return TrainedRules(closing_stop=True)


class OpenGroundingDino(IdeaGroundingDino):
    """Open-GroundingDino trains the same model, and chooses checkpoints by the mean over a class's tokens."""

    name = "open-grounding-dino"

    def recognises(self, foreign: Foreign) -> bool:
        """See ``Importer.recognises``: the names are IDEA's; its training loop saves its arguments beside them."""
        return super().recognises(foreign) and "args" in foreign.top_level

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``: the best pairs of query and class, of all."""
        return TrainedRules(token_rule="mean", labels_per_query="many", closing_stop=True)


def _one_box_head(weights: Weights) -> bool:
    """Whether all layers have the same box head: further training may have parted them."""
    layers = range(1, weights.count("bbox_embed.{i}.layers.0.weight"))
    heads = [name for name in weights.tensors if name.startswith("bbox_embed.0.")]
    return all(
        equal(weights.tensors[name], weights.tensors[name.replace("bbox_embed.0.", f"bbox_embed.{layer}.")])
        for layer in layers
        for name in heads
    )
