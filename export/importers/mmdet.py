"""Grounding DINO and MM-Grounding DINO as mmdetection 3.3 saves them; LLMDet's detector too.

Names and defaults are of mmdet 3.3.0 and mmengine 0.10.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import TrainedRules
from medprompt.export.families.image_processors import grounding_processor
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.grounding import (
    HEADS,
    POINTS,
    SWIN,
    TEXT,
    Sizes,
    attention,
    deformable,
    fusion,
)
from medprompt.export.importers.mapping import DROP, Rules, Target, both, scalar
from medprompt.export.importers.sizes import SwinNames, bert_rules

NAMES = SwinNames("backbone.", "projection", "stages", "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1", unfolds=True)
BERT = "language_model.language_backbone.body.model."
CLASS_BIAS = "bbox_head.cls_branches.{i}.bias"
STATED = {
    "d_model": "model.encoder.layer_cfg.self_attn_cfg.embed_dims",
    "num_feature_levels": "model.encoder.layer_cfg.self_attn_cfg.num_levels",
    "encoder_layers": "model.encoder.num_layers",
    "decoder_layers": "model.decoder.num_layers",
    "encoder_ffn_dim": "model.encoder.layer_cfg.ffn_cfg.feedforward_channels",
    "decoder_ffn_dim": "model.decoder.layer_cfg.ffn_cfg.feedforward_channels",
    "num_queries": "model.num_queries",
}
SERVED = {
    "model.as_two_stage": True,
    "model.with_box_refine": True,
    "model.positional_encoding.normalize": True,
    "model.positional_encoding.offset": 0.0,
    "model.language_model.use_sub_sentence_represent": True,
    "model.neck.norm_cfg.num_groups": 32,
    "model.data_preprocessor.pad_size_divisor": 1,
}
NEUTRAL = {"LoadImageFromFile", "LoadAnnotations", "PackDetInputs"}
"""Steps of a test pipeline that change no pixel."""


class MMDetGroundingDino(Importer):
    """mmdetection's port of IDEA's Grounding DINO: each layer has a box head of its own, none has a class bias."""

    name = "mmdet-grounding-dino"
    marks = (
        "query_embedding.weight",
        "text_feat_map.weight",
        "backbone.patch_embed.projection.weight",
        "{rest}.gamma_l",
    )
    states = ("model.bbox_head", "model.data_preprocessor")
    head: str | bool = False
    """What the config says of the logits' scale; see ``_log_scale``."""
    model_type, architecture = "grounding-dino", "GroundingDinoForObjectDetection"

    def recognises(self, foreign: Foreign) -> bool:
        """See ``Importer.recognises``."""
        return super().recognises(foreign) and not foreign.weights.count(CLASS_BIAS)

    def rules(self, foreign: Foreign) -> Rules:
        """See ``Importer.rules``."""
        enc, to = "encoder.layers.{i}", "model.encoder.layers.{i}"
        text, into = "encoder.text_layers.{i}", "model.encoder.layers.{i}.text_enhancer_layer"
        return {
            **NAMES.rules(SWIN, bgr=not _turns_to_rgb(foreign)),
            **{f"backbone.norm{n}.{{w}}": f"{SWIN}hidden_states_norms.stage{n + 1}.{{w}}" for n in range(4)},
            **bert_rules(BERT, TEXT),
            **_neck(foreign.weights.count("neck.convs.{i}.conv.weight")),
            **self._heads(foreign.weights.count("decoder.layers.{i}.norms.0.weight")),
            **_decoder(),
            "text_feat_map.{w}": "model.text_projection.{w}",
            "level_embed": "model.level_embed",
            "query_embedding.weight": "model.query_position_embeddings.weight",
            "memory_trans_fc.{w}": "model.enc_output.{w}",
            "memory_trans_norm.{w}": "model.enc_output_norm.{w}",
            "dn_query_generator.label_embedding.weight": DROP,
            # LLMDet's language model, and what only its training reads.
            **{f"{name}.{{rest}}": DROP for name in ("lmm", "connector", "region_connector", "ref_point_head")},
            "image_seperate.weight": DROP,
            **deformable(f"{enc}.self_attn", f"{to}.deformable_layer.self_attn"),
            f"{enc}.norms.0.{{w}}": f"{to}.deformable_layer.self_attn_layer_norm.{{w}}",
            f"{enc}.ffn.layers.0.0.{{w}}": f"{to}.deformable_layer.fc1.{{w}}",
            f"{enc}.ffn.layers.1.{{w}}": f"{to}.deformable_layer.fc2.{{w}}",
            f"{enc}.norms.1.{{w}}": f"{to}.deformable_layer.final_layer_norm.{{w}}",
            **attention(f"{text}.self_attn", f"{into}.self_attn", wrapped="attn."),
            f"{text}.norms.0.{{w}}": f"{into}.layer_norm_before.{{w}}",
            f"{text}.ffn.layers.0.0.{{w}}": f"{into}.fc1.{{w}}",
            f"{text}.ffn.layers.1.{{w}}": f"{into}.fc2.{{w}}",
            f"{text}.norms.1.{{w}}": f"{into}.layer_norm_after.{{w}}",
            **fusion("encoder.fusion_layers.{i}", f"{to}.fusion_layer"),
        }

    def _heads(self, layers: int) -> dict[str, str | Target]:
        """A head a layer, and behind them the one of the encoder's proposals."""
        rules: dict[str, str | Target] = {}
        for part, index in enumerate((0, 2, 4)):
            for layer in range(layers):
                names = [f"{of}bbox_embed.{layer}.layers.{part}.{{w}}" for of in ("", "model.decoder.")]
                rules[f"bbox_head.reg_branches.{layer}.{index}.{{w}}"] = both(*names)
            proposals = f"model.encoder_output_bbox_embed.layers.{part}.{{w}}"
            rules[f"bbox_head.reg_branches.{layers}.{index}.{{w}}"] = proposals
        return rules

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        stated = foreign.stated
        for path, served in SERVED.items():
            stated.needs(path, served)
        _check_logits(self.head, stated.get("model.bbox_head.contrastive_cfg", {}), stated.where)
        own = "model.encoder.layer_cfg.self_attn_cfg"
        heads, points = stated.get(f"{own}.num_heads", HEADS), stated.get(f"{own}.num_points", POINTS)
        for part in ("self_attn_cfg", "cross_attn_cfg", "cross_attn_text_cfg"):
            stated.needs(f"model.decoder.layer_cfg.{part}.num_heads", heads)
        stated.needs("model.decoder.layer_cfg.cross_attn_cfg.num_points", points)
        for path in ("fusion_layer_cfg.num_heads", "text_layer_cfg.self_attn_cfg.num_heads"):
            stated.needs(f"model.encoder.{path}", heads // 2)
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            **Sizes(weights, foreign, STATED).config(heads, points),
            "positional_embedding_temperature": stated.get("model.positional_encoding.temperature", 10000),
            "max_text_len": stated.get("model.language_model.max_tokens", 256),
            "decoder_bbox_embed_share": False,
            # transformers 5 would tie heads of equal value, and warn of others.
            "tie_word_embeddings": False,
        }

    def processor(self, foreign: Foreign) -> Any:
        """See ``Importer.processor``."""
        turns = _turns_to_rgb(foreign)
        channels = slice(None) if turns else slice(None, None, -1)
        mean, std = (
            [value / 255 for value in foreign.stated.get(f"model.data_preprocessor.{name}", default)][channels]
            for name, default in (("mean", [0.0] * 3), ("std", [255.0] * 3))
        )
        return grounding_processor(foreign.tokenizer, _size(_resize_step(foreign)), mean, std)

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``: the best pairs of query and class, by the mean over the class's tokens."""
        return TrainedRules(token_rule="mean", labels_per_query="many", names="mmdet", closing_stop=True)

    def warnings(self, foreign: Foreign) -> tuple[str, ...]:
        """See ``Importer.warnings``."""
        found = []
        if _resize_step(foreign).get("backend", "cv2") != "pillow":
            found.append(
                "The project's test pipeline resizes with OpenCV, which does not smooth before it shrinks; this model "
                "sees images as Pillow resizes them."
            )
        chunk = foreign.stated.get("model.test_cfg.chunked_size", -1)
        if chunk > 0:
            found.append(
                f"The project's test shows the model {chunk} classes at a time; this model sees all phrases at once."
            )
        return tuple(found)


class MMDetMMGroundingDino(MMDetGroundingDino):
    """MM-Grounding DINO and LLMDet: logits scaled by the width, and a bias a layer."""

    name = "mmdet-mm-grounding-dino"
    head = "auto"
    model_type, architecture = "mm-grounding-dino", "MMGroundingDinoForObjectDetection"

    def recognises(self, foreign: Foreign) -> bool:
        """See ``Importer.recognises``."""
        return Importer.recognises(self, foreign) and foreign.weights.count(CLASS_BIAS) > 0

    def _heads(self, layers: int) -> dict[str, str | Target]:
        classes: dict[str, str | Target] = {
            f"bbox_head.cls_branches.{layer}.bias": scalar(
                f"class_embed.{layer}.bias", f"model.decoder.class_embed.{layer}.bias"
            )
            for layer in range(layers)
        }
        proposals = scalar("model.encoder_output_class_embed.bias")
        return {**super()._heads(layers), **classes, f"bbox_head.cls_branches.{layers}.bias": proposals}

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        return {**super().config(foreign, weights), "decoder_cls_embed_share": False}


def _neck(maps: int) -> Rules:
    """Each map has a convolution; the coarsest is made of the last of them."""
    rules: dict[str, str | Target] = {}
    for source, target in (("convs.{i}", "{i}"), ("extra_convs.0", str(maps))):
        rules[f"neck.{source}.conv.{{w}}"] = f"model.input_proj_vision.{target}.0.{{w}}"
        rules[f"neck.{source}.gn.{{w}}"] = f"model.input_proj_vision.{target}.1.{{w}}"
    return rules


def _decoder() -> Rules:
    of, to = "decoder.layers.{i}", "model.decoder.layers.{i}"
    return {
        **attention(f"{of}.self_attn", f"{to}.self_attn", wrapped="attn."),
        **attention(f"{of}.cross_attn_text", f"{to}.encoder_attn_text", wrapped="attn."),
        **deformable(f"{of}.cross_attn", f"{to}.encoder_attn"),
        f"{of}.norms.0.{{w}}": f"{to}.self_attn_layer_norm.{{w}}",
        f"{of}.norms.1.{{w}}": f"{to}.encoder_attn_text_layer_norm.{{w}}",
        f"{of}.norms.2.{{w}}": f"{to}.encoder_attn_layer_norm.{{w}}",
        f"{of}.norms.3.{{w}}": f"{to}.final_layer_norm.{{w}}",
        f"{of}.ffn.layers.0.0.{{w}}": f"{to}.fc1.{{w}}",
        f"{of}.ffn.layers.1.{{w}}": f"{to}.fc2.{{w}}",
        "decoder.norm.{w}": "model.decoder.layer_norm.{w}",
        "decoder.ref_point_head.layers.{i}.{w}": "model.decoder.reference_points_head.layers.{i}.{w}",
    }


def _check_logits(head: str | bool, contrastive: Mapping[str, Any], where: str) -> None:
    """A learned scale a layer (``log_scale`` a number) is neither class of transformers."""
    stated = contrastive.get("log_scale") or False
    if stated != head or contrastive.get("log_scale") == 0.0:
        raise CheckpointError(
            "This form of the class head is not served, or the config is another model's.",
            where=f"{where}: model.bbox_head.contrastive_cfg.log_scale",
            expected=f"{head or 'none'}, as the weights have it",
            got=f"{contrastive.get('log_scale')}",
            fix="name the config that this checkpoint was trained with",
        )


def _turns_to_rgb(foreign: Foreign) -> bool:
    """Whether the model sees RGB: mmdetection reads images as BGR, and turns them where the config says so."""
    return bool(foreign.stated.get("model.data_preprocessor.bgr_to_rgb", False))


def _resize_step(foreign: Foreign) -> Mapping[str, Any]:
    """The one step of the test pipeline that changes pixels.

    Raises:
        CheckpointError: There is none, or there are others.
    """
    stated = foreign.stated
    pipeline = stated.get("test_dataloader.dataset.pipeline") or stated.get("test_pipeline", [])
    steps = [step for step in pipeline if isinstance(step, Mapping) and step.get("type") not in NEUTRAL]
    kinds = [step.get("type") for step in steps]
    if len(steps) != 1 or kinds[0] not in {"FixScaleResize", "Resize"}:
        raise CheckpointError(
            "The test pipeline does something else than resize.",
            where=f"{stated.where}: test_pipeline",
            expected="FixScaleResize or Resize, once",
            got=", ".join(map(str, kinds)) or "no such step",
            fix="name the config that this checkpoint was tested with",
        )
    return steps[0]


def _size(step: Mapping[str, Any]) -> dict[str, int]:
    one, other = step.get("scale", (0, 0))
    if step.get("keep_ratio", step.get("type") == "FixScaleResize"):
        return {"shortest_edge": min(one, other), "longest_edge": max(one, other)}
    return {"height": other, "width": one}
