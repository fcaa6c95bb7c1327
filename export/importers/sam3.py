"""SAM 3 as facebookresearch/sam3 saves it (``sam3.pt``), and as projects that train that code further save it.

Names are those of transformers' own conversion (``convert_sam3_to_hf.py``); what the weights do not show is what
``sam3/model_builder.py`` of facebookresearch/sam3 0384b4a builds, which knows no other form.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from medprompt.core.manifest import TrainedRules
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.mapping import DROP, Rules, Target, thirds, transposed, without_first

PREFIX = "detector."
"""Before the detector's names in ``sam3.pt``, which holds a tracker too; trainings save the detector alone."""
NECK, TEXT = "backbone.vision_backbone.convs", "backbone.language_backbone.encoder"
LAYERS = "vision_encoder.backbone.layers"
HEAD_WIDTH = 64
"""Of the image's and the text's attention; 32 in the rest."""
EVERY, TIMES_WIDER = 8, 3
"""Each eighth layer attends to the whole image, the others to windows as wide as pretraining's images; three such are
an image's side."""


class MetaSam3(Importer):
    """The project's own names."""

    name = "meta-sam3"
    marks = (
        f"{{before}}{TEXT}.transformer.resblocks.{{i}}.ln_1.weight",
        "{before}backbone.vision_backbone.trunk.pos_embed",
        "{before}transformer.decoder.presence_token.weight",
    )
    needs_config = False

    def rules(self, foreign: Foreign) -> Rules:
        """See ``Importer.rules``. The tracker, and the heads and pyramid that only it reads, are dropped."""
        before = _before(foreign)
        table = {**_image(), **_text(), **_geometry(), **_encoder(), **_decoder(), **_heads(), **_unread()}
        beside: dict[str, str | Target] = {"tracker.{rest}": DROP}
        return {f"{before}{source}": target for source, target in table.items()} | (beside if before else {})

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        shape, count = weights.shape, weights.count
        width = shape("detr_decoder.query_embed.weight")[1]
        detr = {
            "hidden_size": width,
            "num_attention_heads": max(1, width // 32),
            "intermediate_size": shape("detr_encoder.layers.0.mlp.fc1.bias")[0],
        }
        return {
            "model_type": "sam3",
            "architectures": ["Sam3Model"],
            "vision_config": _vision(weights),
            "text_config": _text_config(foreign, weights),
            "geometry_encoder_config": {**detr, "num_layers": count("geometry_encoder.layers.{i}.mlp.fc1.bias")},
            "detr_encoder_config": {**detr, "num_layers": count("detr_encoder.layers.{i}.mlp.fc1.bias")},
            "detr_decoder_config": {
                **detr,
                "num_layers": count("detr_decoder.layers.{i}.mlp.fc1.bias"),
                "num_queries": shape("detr_decoder.query_embed.weight")[0],
            },
            "mask_decoder_config": {
                "hidden_size": width,
                "num_attention_heads": detr["num_attention_heads"],
                "num_upsampling_stages": count("mask_decoder.pixel_decoder.conv_layers.{i}.bias"),
            },
        }

    def processor(self, foreign: Foreign) -> Any:
        """See ``Importer.processor``: a square of the size that the window and the patches make, levels in -1 … 1."""
        from transformers import ViTImageProcessorPil
        from transformers.models.sam3.processing_sam3 import Sam3Processor

        # Its name is what is saved: transformers' own class of that name needs torchvision.
        images_class = type("Sam3ImageProcessorPil", (ViTImageProcessorPil,), {})
        trunk = f"{_before(foreign)}backbone.vision_backbone.trunk"
        side = _side(foreign.weights.shape(f"{trunk}.pos_embed")[1] - 1, foreign.weights.shape(_patches(trunk))[-1])
        images = images_class(
            size={"height": side, "width": side}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        return Sam3Processor(images, foreign.tokenizer)

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``: the family's own."""
        return TrainedRules()

    def warnings(self, foreign: Foreign) -> tuple[str, ...]:
        """See ``Importer.warnings``."""
        return (
            "facebookresearch/sam3 adds a token of an empty geometry prompt to each phrase; transformers, which this "
            "bundle is proven against, does not.",
        )


def _before(foreign: Foreign) -> str:
    """What stands before the detector's names."""
    return PREFIX if any(name.startswith(PREFIX) for name in foreign.weights.tensors) else ""


def _patches(trunk: str) -> str:
    return f"{trunk}.patch_embed.proj.weight"


def _side(patches: int, patch: int) -> int:
    """Pixels of an image's side, given the patches and the patch size of pretraining."""
    return TIMES_WIDER * isqrt(patches) * patch


def _vision(weights: Weights) -> dict[str, Any]:
    shape, layers = weights.shape, weights.count(f"{LAYERS}.{{i}}.layer_norm1.bias")
    hidden, _, patch, _ = shape("vision_encoder.backbone.embeddings.patch_embeddings.projection.weight")
    patches = shape("vision_encoder.backbone.embeddings.position_embeddings")[1]
    side, width = _side(patches, patch), shape("vision_encoder.neck.fpn_layers.0.proj1.bias")[0]
    cells = side // patch
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": hidden,
            "intermediate_size": shape(f"{LAYERS}.0.mlp.fc1.bias")[0],
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, hidden // HEAD_WIDTH),
            "image_size": side,
            "patch_size": patch,
            "pretrain_image_size": side // TIMES_WIDER,
            "window_size": isqrt(patches),
            "global_attn_indexes": list(range(EVERY - 1, layers, EVERY)),
        },
        "fpn_hidden_size": width,
        "backbone_feature_sizes": [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2],
    }


def _text_config(foreign: Foreign, weights: Weights) -> dict[str, Any]:
    of = "text_encoder.text_model."
    words, width = weights.shape(f"{of}embeddings.token_embedding.weight")
    sizes = {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": weights.count(f"{of}encoder.layers.{{i}}.mlp.fc1.bias"),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "intermediate_size": weights.shape(f"{of}encoder.layers.0.mlp.fc1.bias")[0],
        "max_position_embeddings": weights.shape(f"{of}embeddings.position_embedding.weight")[0],
        "projection_dim": weights.shape("text_encoder.text_projection.weight")[0],
    }
    ids = {name: getattr(foreign.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return {"model_type": "clip_text_model", "hidden_act": "gelu", **ids, **sizes}


def _attention(source: str, to: str) -> Rules:
    """The table of an ``nn.MultiheadAttention``."""
    return {
        f"{source}.in_proj_{{w}}": thirds(*(f"{to}.{part}_proj.{{w}}" for part in "qkv")),
        f"{source}.out_proj.{{w}}": f"{to}.o_proj.{{w}}",
    }


def _perceptron(source: str, to: str, layers: int) -> Rules:
    return {f"{source}.layers.{index}.{{w}}": f"{to}.layer{index + 1}.{{w}}" for index in range(layers)}


def _renamed(of: str, to: str, names: dict[str, str]) -> Rules:
    return {f"{of}.{source}.{{w}}": f"{to}.{target}.{{w}}" for source, target in names.items()}


def _image() -> Rules:
    trunk, to = "backbone.vision_backbone.trunk", "vision_encoder.backbone"
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    scales = {"dconv_2x2": "scale_layers.0", "dconv_2x2_0": "scale_layers.0", "dconv_2x2_1": "scale_layers.2"}
    qkv = thirds(*(f"{LAYERS}.{{i}}.attention.{part}_proj.{{w}}" for part in "qkv"))
    return {
        f"{trunk}.pos_embed": without_first(f"{to}.embeddings.position_embeddings"),  # the class token's
        _patches(trunk): f"{to}.embeddings.patch_embeddings.projection.weight",
        f"{trunk}.ln_pre.{{w}}": f"{to}.layer_norm.{{w}}",
        **_renamed(f"{trunk}.blocks.{{i}}", f"{LAYERS}.{{i}}", {**names, "attn.proj": "attention.o_proj"}),
        f"{trunk}.blocks.{{i}}.attn.qkv.{{w}}": qkv,
        f"{trunk}.blocks.{{i}}.attn.freqs_cis": DROP,  # angles that both compute of the sizes
        **_renamed(
            f"{NECK}.{{i}}",
            "vision_encoder.neck.fpn_layers.{i}",
            {**scales, "conv_1x1": "proj1", "conv_3x3": "proj2"},
        ),
    }


def _text() -> Rules:
    of, to = f"{TEXT}.transformer.resblocks.{{i}}", "text_encoder.text_model.encoder.layers.{i}"
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    return {
        f"{TEXT}.token_embedding.weight": "text_encoder.text_model.embeddings.token_embedding.weight",
        f"{TEXT}.positional_embedding": "text_encoder.text_model.embeddings.position_embedding.weight",
        f"{TEXT}.ln_final.{{w}}": "text_encoder.text_model.final_layer_norm.{w}",
        f"{TEXT}.text_projection": transposed("text_encoder.text_projection.weight"),
        **_renamed(of, to, {**names, "attn.out_proj": "self_attn.out_proj"}),
        f"{of}.attn.in_proj_{{w}}": thirds(*(f"{to}.self_attn.{part}_proj.{{w}}" for part in "qkv")),
        "backbone.language_backbone.resizer.{w}": "text_projection.{w}",
    }


LAYER = {
    **{f"norm{number}": f"layer_norm{number}" for number in (1, 2, 3)},
    **{"linear1": "mlp.fc1", "linear2": "mlp.fc2"},
}
"""Of a layer that attends to itself, then to something else."""


def _geometry() -> Rules:
    of, to = "geometry_encoder", "geometry_encoder"
    same = ("boxes_direct_project", "boxes_pool_project", "boxes_pos_enc_project", "final_proj")
    norms = {"img_pre_norm": "vision_layer_norm", "norm": "prompt_layer_norm", "encode_norm": "output_layer_norm"}
    return {
        **_renamed(of, to, {**{name: name for name in same}, **norms}),
        **{f"{of}.{name}.weight": f"{to}.{name}.weight" for name in ("cls_embed", "label_embed")},
        **_renamed(f"{of}.encode.{{i}}", f"{to}.layers.{{i}}", LAYER),
        **_attention(f"{of}.encode.{{i}}.self_attn", f"{to}.layers.{{i}}.self_attn"),
        **_attention(f"{of}.encode.{{i}}.cross_attn_image", f"{to}.layers.{{i}}.cross_attn"),
        f"{of}.points_{{rest}}": DROP,  # transformers takes boxes, not points
    }


def _encoder() -> Rules:
    of, to = "transformer.encoder.layers.{i}", "detr_encoder.layers.{i}"
    return {
        **_renamed(of, to, LAYER),
        **_attention(f"{of}.self_attn", f"{to}.self_attn"),
        **_attention(f"{of}.cross_attn_image", f"{to}.cross_attn"),
    }


def _decoder() -> Rules:
    of, to = "transformer.decoder", "detr_decoder"
    norms = {
        **{"norm1": "vision_cross_attn_layer_norm", "catext_norm": "text_cross_attn_layer_norm"},
        **{"norm2": "self_attn_layer_norm", "norm3": "mlp_layer_norm", "linear1": "mlp.fc1", "linear2": "mlp.fc2"},
    }
    attentions = {"self_attn": "self_attn", "ca_text": "text_cross_attn", "cross_attn": "vision_cross_attn"}
    tables = [_attention(f"{of}.layers.{{i}}.{one}", f"{to}.layers.{{i}}.{other}") for one, other in attentions.items()]
    return {
        **{name: target for table in tables for name, target in table.items()},
        **_renamed(f"{of}.layers.{{i}}", f"{to}.layers.{{i}}", norms),
        **{f"{of}.{n}.weight": f"{to}.{n}.weight" for n in ("query_embed", "reference_points", "presence_token")},
        **_perceptron(f"{of}.presence_token_head", f"{to}.presence_head", 3),
        **_perceptron(f"{of}.bbox_embed", f"{to}.box_head", 3),
        **_perceptron(f"{of}.ref_point_head", f"{to}.ref_point_head", 2),
        **_perceptron(f"{of}.boxRPB_embed_x", f"{to}.box_rpb_embed_x", 2),
        **_perceptron(f"{of}.boxRPB_embed_y", f"{to}.box_rpb_embed_y", 2),
        f"{of}.presence_token_out_norm.{{w}}": f"{to}.presence_layer_norm.{{w}}",
        f"{of}.norm.{{w}}": f"{to}.output_layer_norm.{{w}}",
        f"{of}.instance_{{rest}}": DROP,  # queries of clicks, which no text reaches
    }


def _heads() -> Rules:
    of, to = "segmentation_head", "mask_decoder"
    return {
        **_perceptron("dot_prod_scoring.prompt_mlp", "dot_product_scoring.text_mlp", 2),
        "dot_prod_scoring.prompt_mlp.out_norm.{w}": "dot_product_scoring.text_mlp_out_norm.{w}",
        "dot_prod_scoring.prompt_proj.{w}": "dot_product_scoring.text_proj.{w}",
        "dot_prod_scoring.hs_proj.{w}": "dot_product_scoring.query_proj.{w}",
        f"{of}.pixel_decoder.conv_layers.{{i}}.{{w}}": f"{to}.pixel_decoder.conv_layers.{{i}}.{{w}}",
        f"{of}.pixel_decoder.norms.{{i}}.{{w}}": f"{to}.pixel_decoder.norms.{{i}}.{{w}}",
        **{
            f"{of}.{part}mask_embed.layers.{{i}}.{{w}}": f"{to}.mask_embedder.layers.{{i}}.{{w}}"
            for part in ("mask_predictor.", "")
        },
        **_renamed(of, to, {"instance_seg_head": "instance_projection", "semantic_seg_head": "semantic_projection"}),
        **_attention(f"{of}.cross_attend_prompt", f"{to}.prompt_cross_attn"),
        f"{of}.cross_attn_norm.{{w}}": f"{to}.prompt_cross_attn_norm.{{w}}",
    }


def _unread() -> Rules:
    """What only the tracker reads: its pyramid on the same backbone, and itself where it lies inside."""
    return {"backbone.vision_backbone.sam2_convs.{rest}": DROP, "inst_interactive_predictor.{rest}": DROP}
