"""OmDet-Turbo as om-ai-lab/OmDet saves it. Names and defaults are of om-ai-lab/OmDet 956e2f3."""

from __future__ import annotations

from typing import Any

from medprompt.core.manifest import TrainedRules
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.grounding import attention, deformable
from medprompt.export.importers.mapping import DROP, Rules, Target, both, thirds
from medprompt.export.importers.sizes import SwinNames, swin_config, text_sizes

NAMES = SwinNames("backbone.")
SWIN = "vision_backbone.vision_backbone."
TEXT = "language_backbone.model.text_model."
ENCODER, DECODER = "MODEL.ELAEncoder", "MODEL.ELADecoder"
SIDE, NMS_IOU = 640, 0.5
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SERVED = {
    f"{ENCODER}.depth_mult": 1.0,
    f"{ENCODER}.expansion": 1.0,
    f"{ENCODER}.num_encoder_layers": 1,
    f"{ENCODER}.use_encoder_idx": [2],
    f"{ENCODER}.act": "gelu",
    f"{DECODER}.activation": "relu",
    f"{DECODER}.eval_idx": -1,
    f"{DECODER}.position_embed_type": "sine",
    "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "clip",
    "INPUT.FORMAT": "RGB",
}
"""Forms of the model that transformers' class has; the config may state no other."""


class OmDetTurboOriginal(Importer):
    """The project's own names. The target is transformers' own Swin, not timm's, which the published folder names."""

    name = "omdet-turbo"
    marks = (
        "neck.encoder_layer.linear1.weight",
        "decoder.task_project.weight",
        "language_backbone.token_embedding.weight",
    )
    states = (ENCODER, DECODER)

    def rules(self, foreign: Foreign) -> Rules:
        """See ``Importer.rules``. The backbone norms its maps itself; the other norms of them must exist, unused."""
        norms = {
            f"backbone.norm{n}.{{w}}": both(
                f"{SWIN}hidden_states_norms.stage{n + 1}.{{w}}", f"vision_backbone.layer_norms.{n - 1}.{{w}}"
            )
            for n in (1, 2, 3)
        }
        return {**NAMES.rules(SWIN), **norms, **_neck(), **_decoder(), **_text()}

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        stated, shape = foreign.stated, weights.shape
        for path, served in SERVED.items():
            stated.needs(path, served)
        width = shape("decoder.task_project.weight")[0]
        levels = weights.count("encoder.channel_projection_layers.{i}.0.weight")
        layers = weights.count("decoder.layers.{i}.norm1.weight")
        encoder_width = shape("encoder.channel_projection_layers.0.0.weight")[0]
        sizes = {
            f"{ENCODER}.hidden_dim": encoder_width,
            f"{DECODER}.hidden_dim": width,
            f"{DECODER}.num_decoder_layers": layers,
            f"{DECODER}.num_levels": levels,
            f"{ENCODER}.dim_feedforward": shape("encoder.encoder.0.layers.0.fc1.bias")[0],
            f"{DECODER}.dim_feedforward": shape("decoder.layers.0.linear1.bias")[0],
        }
        read = {path: stated.agrees(path, size) for path, size in sizes.items()}
        learned = "decoder.tgt_embed.weight" in weights.tensors
        stated.needs(f"{DECODER}.learnt_init_query", learned)
        heads, points = stated.get(f"{DECODER}.nhead", 8), stated.get(f"{DECODER}.num_decoder_points", 4)
        offsets = shape("decoder.layers.0.cross_attn.sampling_offsets.bias")[0]
        stated.agrees(f"{DECODER}.num_decoder_points", offsets // (heads * levels * 2))
        return {
            "model_type": "omdet-turbo",
            "architectures": ["OmDetTurboForObjectDetection"],
            "backbone_config": {**swin_config(weights, SWIN), "image_size": _side(foreign)},
            "text_config": _text_config(foreign, weights),
            "apply_layernorm_after_vision_backbone": False,
            "image_size": _side(foreign),
            "num_queries": stated.get(f"{DECODER}.num_queries", 300),
            "class_distance_type": stated.get(f"{DECODER}.cls_type", "cosine"),
            "text_projection_in_dim": shape("language_backbone.text_projection")[0],
            "text_projection_out_dim": shape("language_backbone.text_projection")[1],
            "class_embed_dim": shape("decoder.task_project.weight")[1],
            "task_encoder_hidden_dim": shape("decoder.task_encoder.mlp.linear1.bias")[0],
            "encoder_in_channels": [
                shape(f"encoder.channel_projection_layers.{level}.0.weight")[1] for level in range(levels)
            ],
            "encoder_hidden_dim": encoder_width,
            "d_model": encoder_width,
            "encoder_attention_heads": 8,
            "encoder_dim_feedforward": read[f"{ENCODER}.dim_feedforward"],
            "positional_encoding_temperature": stated.get(f"{ENCODER}.pe_temperature", 10000),
            "vision_features_channels": [
                shape(f"decoder.channel_projection_layers.{level}.0.weight")[1] for level in range(levels)
            ],
            "num_feature_levels": levels,
            "decoder_hidden_dim": width,
            "decoder_num_heads": heads,
            "decoder_num_layers": layers,
            "decoder_num_points": points,
            "decoder_dim_feedforward": read[f"{DECODER}.dim_feedforward"],
            "learn_initial_query": learned,
        }

    def processor(self, foreign: Foreign) -> Any:
        """See ``Importer.processor``: one square size, and no division by 255."""
        from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
        from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

        images = DetrImageProcessorPil(
            size={"height": _side(foreign), "width": _side(foreign)},
            do_rescale=False,
            do_pad=False,
            image_mean=foreign.stated.get("MODEL.PIXEL_MEAN", MEAN),
            image_std=foreign.stated.get("MODEL.PIXEL_STD", STD),
        )
        return OmDetTurboProcessor(images, foreign.tokenizer)

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``: the family's own, and suppression class by class."""
        return TrainedRules(nms_iou=NMS_IOU)


def _side(foreign: Foreign) -> int:
    """The side of the square that images are resized to."""
    side: int = foreign.stated.get("INPUT.MAX_SIZE_TEST", SIDE)
    foreign.stated.needs("INPUT.MIN_SIZE_TEST", side)
    return side


def _text_config(foreign: Foreign, weights: Weights) -> dict[str, Any]:
    words, width = weights.shape(f"{TEXT}embeddings.token_embedding.weight")
    sizes = {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": weights.count(f"{TEXT}encoder.layers.{{i}}.mlp.fc1.bias"),
        "intermediate_size": weights.shape(f"{TEXT}encoder.layers.0.mlp.fc1.bias")[0],
        "max_position_embeddings": weights.shape(f"{TEXT}embeddings.position_embedding.weight")[0],
    }
    ids = {name: getattr(foreign.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return {"model_type": "clip_text_model", **ids, **text_sizes(foreign, sizes)}


def _neck() -> Rules:
    layer = "encoder.encoder.0.layers.0"
    blocks: dict[str, str | Target] = {}
    for part in ("fpn_blocks", "pan_blocks"):
        for source, target in (("cv{j}", "conv{j}"), ("m.{k}.conv{j}", "bottlenecks.{k}.conv{j}")):
            blocks[f"neck.{part}.{{i}}.{source}.conv.weight"] = f"encoder.{part}.{{i}}.{target}.conv.weight"
            blocks[f"neck.{part}.{{i}}.{source}.bn.{{stat}}"] = f"encoder.{part}.{{i}}.{target}.norm.{{stat}}"
    for part in ("lateral_convs", "downsample_convs"):
        blocks[f"neck.{part}.{{i}}.conv.weight"] = f"encoder.{part}.{{i}}.conv.weight"
        blocks[f"neck.{part}.{{i}}.bn.{{stat}}"] = f"encoder.{part}.{{i}}.norm.{{stat}}"
    return {
        **blocks,
        "neck.input_proj.{i}.0.weight": "encoder.channel_projection_layers.{i}.0.weight",
        "neck.input_proj.{i}.1.{stat}": "encoder.channel_projection_layers.{i}.1.{stat}",
        **attention("neck.encoder_layer.self_attn", f"{layer}.self_attn"),
        "neck.encoder_layer.linear1.{w}": f"{layer}.fc1.{{w}}",
        "neck.encoder_layer.linear2.{w}": f"{layer}.fc2.{{w}}",
        "neck.encoder_layer.norm1.{w}": f"{layer}.self_attn_layer_norm.{{w}}",
        "neck.encoder_layer.norm2.{w}": f"{layer}.final_layer_norm.{{w}}",
    }


def _decoder() -> Rules:
    of, to = "decoder.decoder.layers.{i}", "decoder.layers.{i}"
    return {
        **deformable(f"{of}.cross_attn", f"{to}.cross_attn"),
        "decoder.input_proj.{i}.0.weight": "decoder.channel_projection_layers.{i}.0.weight",
        "decoder.input_proj.{i}.1.{stat}": "decoder.channel_projection_layers.{i}.1.{stat}",
        **attention(f"{of}.self_attn", f"{to}.self_attn"),
        **{f"{of}.{name}.{{w}}": f"{to}.{name}.{{w}}" for name in ("linear1", "linear2", "norm1", "norm2", "norm3")},
        **{
            f"decoder.{name}.{{w}}": f"decoder.{name}.{{w}}"
            for name in (
                "task_encoder.mlp.linear1",
                "task_encoder.mlp.linear2",
                "task_encoder.res1.norm1",
                "task_project",
            )
        },
        "decoder.query_pos_head.layers.{i}.{w}": "decoder.query_position_head.layers.{i}.{w}",
        "decoder.enc_output.{i}.{w}": "decoder.encoder_vision_features.{i}.{w}",
        "decoder.enc_score_head.{w}": "decoder.encoder_class_head.{w}",
        "decoder.enc_bbox_head.layers.{i}.{w}": "decoder.encoder_bbox_head.layers.{i}.{w}",
        "decoder.dec_score_head.{i}.{w}": "decoder.decoder_class_head.{i}.{w}",
        "decoder.dec_bbox_head.{i}.layers.{j}.{w}": "decoder.decoder_bbox_head.{i}.layers.{j}.{w}",
        "decoder.tgt_embed.weight": "decoder.tgt_embed.weight",
        "decoder.denoising_embed_proj.{w}": DROP,
    }


def _text() -> Rules:
    of, to = "language_backbone.transformer.resblocks.{i}", f"{TEXT}encoder.layers.{{i}}"
    return {
        "language_backbone.token_embedding.weight": f"{TEXT}embeddings.token_embedding.weight",
        "language_backbone.positional_embedding": f"{TEXT}embeddings.position_embedding.weight",
        "language_backbone.ln_final.{w}": f"{TEXT}final_layer_norm.{{w}}",
        "language_backbone.text_projection": "language_backbone.text_projection",  # used as x @ P by both
        f"{of}.attn.in_proj_{{w}}": thirds(*(f"{to}.self_attn.{part}_proj.{{w}}" for part in "qkv")),
        f"{of}.attn.out_proj.{{w}}": f"{to}.self_attn.out_proj.{{w}}",
        f"{of}.ln_{{j}}.{{w}}": f"{to}.layer_norm{{j}}.{{w}}",
        f"{of}.mlp.c_fc.{{w}}": f"{to}.mlp.fc1.{{w}}",
        f"{of}.mlp.c_proj.{{w}}": f"{to}.mlp.fc2.{{w}}",
        "language_backbone.visual.{rest}": DROP,
        "language_backbone.logit_scale": DROP,
    }
