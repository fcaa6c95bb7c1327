"""Names and shapes of the real models, as built from the projects' own configs: each has one place in our class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from medprompt.core.errors import CheckpointError
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.mapping import convert, mapping_sha256
from medprompt.export.importers.run import importer_of
from medprompt.export.importers.stated import Stated
from tests.export.importers.goldens import FOLDER

MMDET = {"model": {"data_preprocessor": {"bgr_to_rgb": True}, "positional_encoding": {"temperature": 20}}}
SCALED = {"model": {**MMDET["model"], "bbox_head": {"contrastive_cfg": {"log_scale": "auto", "bias": True}}}}
UNREAD = {f"model.backbone.conv_encoder.model.swin.layernorm.{part}" for part in ("weight", "bias")}
"""What no computation of transformers reads; see ``medprompt.export.weights``."""
TRAINING_ONLY = ("lmm.layers.0.weight", "connector.0.bias", "region_connector.w.weight", "image_seperate.weight")
"""Of LLMDet, whose detector is MM-Grounding DINO's."""


def foreign(keys: str, stated: dict[str, Any], drop: str = "", more: tuple[str, ...] = ()) -> Foreign:
    shapes = json.loads((FOLDER / "keys" / f"{keys}.json").read_text()) | {name: [1] for name in more}
    tensors = {
        name.removeprefix("module."): torch.empty(shape, device="meta")
        for name, shape in shapes.items()
        if not drop or drop not in name
    }
    return Foreign(Path(keys), Weights(tensors, keys), frozenset(), Stated(stated, "config"), None, Stated({}, "none"))


def converted(source: Foreign, importer: Importer) -> Weights:
    return Weights(convert(source.weights.tensors, importer.rules(source), "file"), "file")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (foreign("idea-groundingdino-swin-t", {}), "idea-grounding-dino"),
        pytest.param(foreign("idea-groundingdino-swin-b", {}), "idea-grounding-dino", marks=pytest.mark.slow),
        (foreign("mmdet-mm-groundingdino-swin-t", SCALED, more=TRAINING_ONLY), "mmdet-mm-grounding-dino"),
        (foreign("mmdet-mm-groundingdino-swin-t", MMDET, drop="cls_branches"), "mmdet-grounding-dino"),
    ],
)
def test_every_name_has_its_place(source: Foreign, name: str) -> None:
    importer = importer_of(source)
    assert importer.name == name
    weights = converted(source, importer)
    config = importer.config(source, weights)
    architecture = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = architecture(architecture.config_class.from_dict(config))
    wanted = revert_weight_conversion(model, dict(model.state_dict()))
    assert wanted.keys() - weights.tensors.keys() == UNREAD
    assert weights.tensors.keys() - wanted.keys() == set()
    assert [key for key, tensor in weights.tensors.items() if tensor.shape != wanted[key].shape] == []


def test_a_name_of_none_or_of_two_rules_is_listed() -> None:
    tensors = {"a.0.weight": torch.ones(1), "a.1.other": torch.ones(1), "b": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        convert(tensors, {"a.{i}.{w}": "x.{i}.{w}", "a.0.{rest}": "y.{rest}"}, "file")
    assert caught.value.got == "3: a.0.weight, a.1.other, b"


def test_two_names_of_one_weight_must_agree() -> None:
    rules = {"a": "x", "b": "x"}
    assert convert({"a": torch.ones(2), "b": torch.ones(2)}, rules, "file").keys() == {"x"}
    with pytest.raises(CheckpointError, match="Two names stand for one weight"):
        convert({"a": torch.ones(2), "b": torch.zeros(2)}, rules, "file")


def test_half_precision_becomes_float32() -> None:
    tensors = {"a": torch.ones(2, dtype=torch.float16), "b": torch.ones(2, dtype=torch.int64)}
    found = convert(tensors, {"a": "a", "b": "b"}, "file")
    assert (found["a"].dtype, found["b"].dtype) == (torch.float32, torch.int64)


def test_a_changed_table_has_another_hash() -> None:
    assert mapping_sha256({"a": "b"}) != mapping_sha256({"a": "c"})
    assert mapping_sha256({"a": "b", "c": "d"}) == mapping_sha256({"c": "d", "a": "b"})
