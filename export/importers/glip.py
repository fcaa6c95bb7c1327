"""GLIP as microsoft/GLIP and mmdetection 3.3 save it.

Names, defaults and rules are of microsoft/GLIP 9dda955 and mmdet 3.3.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import TrainedRules
from medprompt.export.families.image_processors import grounding_processor
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.mapping import DROP, Rules, Target, single
from medprompt.export.importers.sizes import SwinNames, bert_config, bert_rules, swin_config
from medprompt.export.importers.stated import Stated

SWIN = "backbone."
TEXT = "text_model."
LEVELS = 5
FUSION_HEADS = 8
"""A literal of both projects' code."""
MEAN_BGR, STD_BGR = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
SHORT_EDGE, LONG_EDGE = 800, 1333
SERVED = {
    "MODEL.RPN_ARCHITECTURE": "VLDYHEAD",
    "MODEL.SWINT.APE": False,
    "MODEL.SWINT.VERSION": "v1",
    "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "bert-base-uncased",
    "MODEL.LANGUAGE_BACKBONE.N_LAYERS": 1,
    "MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL": False,
    "MODEL.DYHEAD.SCORE_AGG": "MEAN",
    "MODEL.DYHEAD.USE_DYRELU": True,
    "MODEL.DYHEAD.USE_DYFUSE": True,
    "MODEL.DYHEAD.USE_DFCONV": True,
    "MODEL.DYHEAD.USE_GN": True,
    "MODEL.DYHEAD.FUSE_CONFIG.SEPARATE_BIDIRECTIONAL": False,
    "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER": False,
    "MODEL.DYHEAD.FUSE_CONFIG.USE_DOT_PRODUCT_TOKEN_LOSS": True,
    "MODEL.RPN.ANCHOR_SIZES": [64, 128, 256, 512, 1024],
    "MODEL.RPN.ANCHOR_STRIDE": [8, 16, 32, 64, 128],
    "MODEL.RPN.ASPECT_RATIOS": [1.0],
    "MODEL.RPN.SCALES_PER_OCTAVE": 1,
    "INPUT.TO_BGR255": True,
    "GLIPKNOW.PARALLEL_LANGUAGE_INPUT": False,
}
"""Forms of the model that are served; the config may state no other."""


def sizes_of(foreign: Foreign, weights: Weights) -> dict[str, Any]:
    """What the weights show, by the family's names."""
    fused = "tower.0.fusion.image_scale" in weights.tensors
    return {
        "model_type": "glip",
        "architectures": ["GlipForObjectDetection"],
        "backbone_config": swin_config(weights, SWIN),
        "text_config": bert_config(foreign, weights, TEXT),
        "width": weights.shape("neck.lateral.0.weight")[0],
        "tower_layers": weights.count("tower.{i}.convs.offset.weight"),
        "fused": fused,
        "fusion_width": weights.shape("tower.0.fusion.image_proj.weight")[0] if fused else 2048,
        "fusion_heads": FUSION_HEADS,
    }


def processor_of(foreign: Foreign, mean_bgr: list[float], std_bgr: list[float], edges: tuple[int, int]) -> Any:
    """A processor of RGB in 0 … 255 that resizes with Pillow to a short edge, or a long one where that is less."""
    size = {"shortest_edge": edges[0], "longest_edge": edges[1]}
    return grounding_processor(foreign.tokenizer, size, mean_bgr[::-1], std_bgr[::-1], rescale_factor=1.0)


class MicrosoftGlip(Importer):
    """GLIP-T, GLIP-L and GLIP-A, released or trained further with the project's code."""

    name = "glip"
    marks = ("backbone.body.patch_embed.proj.weight", "rpn.head.dyhead_tower.{i}.DyConv.{j}.conv.weight")
    states = ("MODEL.DYHEAD",)

    def rules(self, foreign: Foreign) -> Rules:
        """See ``Importer.rules``. ``cls_logits`` is in every file, and no score comes from it."""
        rules: dict[str, str | Target] = {
            **SwinNames("backbone.body.").rules(SWIN, bgr=True),
            **{f"backbone.body.norm{n}.{{w}}": f"{SWIN}hidden_states_norms.stage{n + 1}.{{w}}" for n in (1, 2, 3)},
            **bert_rules("language_backbone.body.model.", TEXT),
            **{f"backbone.fpn.top_blocks.p{n}.{{w}}": f"neck.extra.{n - 6}.{{w}}" for n in (6, 7)},
            "rpn.head.cls_logits.{w}": DROP,
            "rpn.anchor_generator.cell_anchors.{i}": DROP,
            **_tower(foreign.weights, "rpn.head.", "DyConv", "AttnConv"),
        }
        for level in (2, 3, 4):
            rules[f"backbone.fpn.fpn_inner{level}.{{w}}"] = f"neck.lateral.{level - 2}.{{w}}"
            rules[f"backbone.fpn.fpn_layer{level}.{{w}}"] = f"neck.output.{level - 2}.{{w}}"
        return rules

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        stated = foreign.stated
        for path, served in SERVED.items():
            stated.needs(path, served)
        sizes = sizes_of(foreign, weights)
        stated.agrees("MODEL.DYHEAD.CHANNELS", sizes["width"])
        stated.agrees("MODEL.DYHEAD.NUM_CONVS", sizes["tower_layers"])
        fusion = "MODEL.DYHEAD.FUSE_CONFIG"
        stated.agrees(f"{fusion}.EARLY_FUSE_ON", sizes["fused"])
        stated.agrees(f"{fusion}.USE_FUSED_FEATURES_DOT_PRODUCT", sizes["fused"])
        if sizes["fused"]:
            stated.needs(f"{fusion}.TYPE", "MHA-B")
        return {
            **sizes,
            "norm_groups": stated.get("MODEL.GROUP_NORM.NUM_GROUPS", 16),
            "max_text_len": stated.get("MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", 256),
            "size_divisor": stated.get("DATALOADER.SIZE_DIVISIBILITY", 32),
            "separator": stated.get("DATASETS.SEPARATION_TOKENS", ". "),
            "least_probability": stated.get("MODEL.ATSS.INFERENCE_TH", 0.05),
            "level_top_k": stated.get("MODEL.ATSS.PRE_NMS_TOP_N", 1000),
            "nms_iou": stated.get("MODEL.ATSS.NMS_TH", 0.6),
            "max_detections": stated.get("MODEL.ATSS.DETECTIONS_PER_IMG", 100),
        }

    def processor(self, foreign: Foreign) -> Any:
        """See ``Importer.processor``: the weights' channels are turned, and so are mean and deviation.

        Raises:
            CheckpointError: The config leaves mean or deviation to the project's code.
        """
        stated = foreign.stated
        mean, std = stated.get("INPUT.PIXEL_MEAN"), stated.get("INPUT.PIXEL_STD")
        if mean is None or std is None:
            raise CheckpointError(
                "The config does not say how pixels are normalised.",
                where=f"{stated.where}: INPUT",
                expected="PIXEL_MEAN and PIXEL_STD, as every published config of GLIP has them",
                got="one is missing",
                fix="name the config that the training wrote beside its checkpoints",
            )
        edges = (stated.get("INPUT.MIN_SIZE_TEST", SHORT_EDGE), stated.get("INPUT.MAX_SIZE_TEST", LONG_EDGE))
        return processor_of(foreign, mean, std, edges)

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``: those of the project's evaluation."""
        return TrainedRules(token_rule="mean", labels_per_query="many", names="mmdet", closing_stop=False)

    def warnings(self, foreign: Foreign) -> tuple[str, ...]:
        """See ``Importer.warnings``."""
        found = []
        if foreign.stated.get("DATASETS.USE_CAPTION_PROMPT", False):
            found.append(
                "The training put words around each class name (CAPTION_PROMPT); write them into the phrases, of which "
                "this model scores every word."
            )
        if foreign.stated.get("TEST.CHUNKED_EVALUATION", -1) > 0:
            found.append("The project's test shows the model some classes at a time; this model sees all at once.")
        return tuple(found)


class MMDetGlip(Importer):
    """mmdetection's port: the same network in other names, patch merging by ``nn.Unfold``."""

    name = "mmdet-glip"
    marks = ("backbone.patch_embed.projection.weight", "bbox_head.head.dyhead_tower.{i}.dyconvs.{j}.conv.weight")
    states = ("model.bbox_head", "model.data_preprocessor")

    def rules(self, foreign: Foreign) -> Rules:
        """See ``Importer.rules``."""
        names = ("projection", "stages", "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1")
        bgr = not foreign.stated.get("model.data_preprocessor.bgr_to_rgb", False)
        rules: dict[str, str | Target] = {
            **SwinNames("backbone.", *names, unfolds=True).rules(SWIN, bgr=bgr),
            **{f"backbone.norm{n}.{{w}}": f"{SWIN}hidden_states_norms.stage{n + 1}.{{w}}" for n in (1, 2, 3)},
            **bert_rules("language_model.language_backbone.body.model.", TEXT),
            "neck.lateral_convs.{i}.conv.{w}": "neck.lateral.{i}.{w}",
            **_tower(foreign.weights, "bbox_head.head.", "dyconvs", "attnconv"),
        }
        for level in range(LEVELS):
            to = f"neck.output.{level}" if level < LEVELS - 2 else f"neck.extra.{level - LEVELS + 2}"
            rules[f"neck.fpn_convs.{level}.conv.{{w}}"] = f"{to}.{{w}}"
        return rules

    def config(self, foreign: Foreign, weights: Weights) -> dict[str, Any]:
        """See ``Importer.config``."""
        stated, sizes = foreign.stated, sizes_of(foreign, weights)
        stated.agrees("model.bbox_head.early_fuse", sizes["fused"])
        stated.agrees("model.bbox_head.num_dyhead_blocks", sizes["tower_layers"])
        return {
            **sizes,
            "norm_groups": 16,
            "max_text_len": stated.get("model.language_model.max_tokens", 256),
            "size_divisor": stated.get("model.data_preprocessor.pad_size_divisor", 1),
            "separator": ". ",
            "ranked_by": "probability",
            "limits_shrinking": True,
            "nms_pixels": "exclusive",
            "min_side": _least_side(stated),
            "end_pixels": 1.0,
            "least_probability": stated.get("model.test_cfg.score_thr", 0.05),
            "level_top_k": stated.get("model.test_cfg.nms_pre", 1000),
            "nms_iou": stated.get("model.test_cfg.nms.iou_threshold", 0.6),
            "max_detections": stated.get("model.test_cfg.max_per_img", 100),
        }

    def processor(self, foreign: Foreign) -> Any:
        """See ``Importer.processor``."""
        stated = foreign.stated
        mean = stated.get("model.data_preprocessor.mean", MEAN_BGR)
        std = stated.get("model.data_preprocessor.std", STD_BGR)
        if stated.get("model.data_preprocessor.bgr_to_rgb", False):
            mean, std = mean[::-1], std[::-1]
        return processor_of(foreign, mean, std, (SHORT_EDGE, LONG_EDGE))

    def trained_rules(self, foreign: Foreign) -> TrainedRules:
        """See ``Importer.trained_rules``."""
        return TrainedRules(token_rule="mean", labels_per_query="many", names="mmdet", closing_stop=False)


def _least_side(stated: Stated) -> float | None:
    """Boxes of no more than this size are dropped, and none where it is negative."""
    side = stated.get("model.test_cfg.min_bbox_size", -1)
    return float(side) if side >= 0 else None


def _tower(weights: Weights, head: str, convs: str, attention: str) -> Rules:
    """The table of tower and head. With fusion, a round is three parts of the source: fusion, text, convolutions."""
    fused = weights.count(f"{head}dyhead_tower.{{i}}.b_attn.gamma_v") > 0
    parts = 3 if fused else 1
    rounds = weights.count(f"{head}dyhead_tower.{{i}}.offset.weight")
    rules: dict[str, str | Target] = {
        f"{head}scales.{{i}}.scale": single("head.box_scales.{i}"),
        f"{head}log_scale": single("head.log_scale"),
        f"{head}bias0": single("head.bias"),
        f"{head}bias_lang": "head.text_bias",
        f"{head}bbox_pred.{{w}}": "head.box.{w}",
        f"{head}centerness.{{w}}": "head.centerness.{w}",
        f"{head}dot_product_projection_text.{{w}}": "head.text_proj.{w}",
    }
    for index in range(rounds):
        at = f"{head}dyhead_tower.{parts * index + parts - 1}"
        rules |= dict(_convolutions(at, f"tower.{index}.convs", convs, attention))
        if fused:
            rules |= dict(_fusion(f"{head}dyhead_tower.{parts * index}.b_attn", f"tower.{index}.fusion"))
            rules[f"{head}dyhead_tower.{parts * index + 1}.{{rest}}"] = f"tower.{index}.text_layer.{{rest}}"
    return rules


def _convolutions(at: str, to: str, convs: str, attention: str) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(("from_coarser", "from_own", "from_finer")):
        yield f"{at}.{convs}.{index}.conv.{{w}}", f"{to}.{name}.conv.{{w}}"
        yield f"{at}.{convs}.{index}.bn.{{w}}", f"{to}.{name}.norm.{{w}}"
    yield f"{at}.{attention}.1.{{w}}", f"{to}.attention.{{w}}"
    yield f"{at}.offset.{{w}}", f"{to}.offset.{{w}}"
    yield f"{at}.relu.fc.0.{{w}}", f"{to}.activation.fc1.{{w}}"
    yield f"{at}.relu.fc.2.{{w}}", f"{to}.activation.fc2.{{w}}"


def _fusion(at: str, to: str) -> Iterator[tuple[str, str]]:
    for short, side in (("v", "image"), ("l", "text")):
        yield f"{at}.gamma_{short}", f"{to}.{side}_scale"
        yield f"{at}.layer_norm_{short}.{{w}}", f"{to}.norm_{side}.{{w}}"
        for part in ("", "values_", "out_"):
            yield f"{at}.attn.{part}{short}_proj.{{w}}", f"{to}.{part}{side}_proj.{{w}}"
