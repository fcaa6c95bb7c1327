"""``sam3.pt``: a tiny model under the project's own names becomes the same model again, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.sam3.configuration_sam3 import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model

from medprompt.core.errors import CheckpointError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.imported import write_checkpoint
from medprompt.export.importers.mapping import FIELD, OPS, Rules, Target
from medprompt.export.importers.mapping import _pattern as pattern_of
from medprompt.export.importers.run import ImportOptions
from medprompt.export.importers.sam3 import MetaSam3
from tests.tiny.clip import clip_tokenizer
from tests.tiny.sam3 import CONTEXT, LICENCE, WIDTH, spread, tiny_config

Table = dict[str, Tensor]
INVERSE: dict[str, Callable[..., Tensor]] = {
    "copy": lambda one: one,
    "thirds": lambda *parts: torch.cat(parts),
    "transposed": lambda one: one.T,
    "without_first": lambda one: torch.cat([torch.zeros_like(one[:, :1]), one], dim=1),
}
BESIDE = {
    "tracker.maskmem_backbone.fuser.layers.0.gamma": torch.ones(2),
    "detector.backbone.vision_backbone.sam2_convs.0.conv_1x1.weight": torch.ones(2),
    "detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis": torch.ones(2, dtype=torch.complex64),
    "detector.geometry_encoder.points_direct_project.weight": torch.ones(2),
    "detector.transformer.decoder.instance_query_embed.weight": torch.ones(2),
}


def tokenizer() -> Any:
    return clip_tokenizer(CONTEXT, pad_token="<|endoftext|>")


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model of the form that the project's code builds: windows, one head of 64 or fewer, images 96 wide."""
    words = tokenizer()
    ids = {name: getattr(words, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "projection_dim": 16, "max_position_embeddings": CONTEXT}
    text = {"model_type": "clip_text_model", "vocab_size": len(words), "hidden_act": "gelu", **ids, **sizes}
    config = tiny_config(Sam3Config, text)
    image = config.vision_config.backbone_config
    image.image_size, image.num_attention_heads, image.global_attn_indexes = 96, 1, []
    image.layer_scale_init_value = None
    config.vision_config.backbone_feature_sizes = [[48, 48], [24, 24], [12, 12]]
    config.text_config.num_attention_heads = 1
    for part in (config.geometry_encoder_config, config.detr_encoder_config, config.detr_decoder_config):
        part.num_attention_heads = 1
    config.mask_decoder_config.num_attention_heads = 1
    torch.manual_seed(0)
    made = Sam3Model(Sam3Config(**config.to_dict())).eval()
    spread(made)
    return made


def originals(state: Mapping[str, Tensor], rules: Rules) -> Table:
    """The project's names of each tensor: the table, read from right to left."""
    back: Table = {}
    for source, to in rules.items():
        target = Target((to,)) if isinstance(to, str) else to
        for name in [name for name in state if target.names and pattern_of(target.names[0]).fullmatch(name)]:
            fields = pattern_of(target.names[0]).fullmatch(name).groupdict()  # type: ignore[union-attr]
            if FIELD.search(source) and "{i}" in source and "i" not in fields:
                continue
            parts = [state[one.format_map(fields)] for one in target.names]
            back[source.format_map(fields)] = INVERSE[target.op](*parts)
    return back


@pytest.fixture(scope="module")
def foreign(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sam3.pt`` of that model, a tokenizer beside it, and what else such a file holds."""
    folder = tmp_path_factory.mktemp("sam3")
    tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "LICENSE").write_text(LICENCE, encoding="utf-8")
    state = {
        name.replace("text_encoder.", "text_encoder.text_model.", 1)
        if name.startswith(("text_encoder.embeddings", "text_encoder.encoder", "text_encoder.final"))
        else name: tensor
        for name, tensor in model.state_dict().items()
    }
    table = originals(state, MetaSam3().rules(_named(["detector.x"])))
    torch.save({"model": {**table, **BESIDE}}, folder / "sam3.pt")
    return folder


def _named(names: list[str]) -> Any:
    class Named:
        class weights:
            tensors = dict.fromkeys(names)

    return Named


def imported(foreign: Path, out: Path, change: Any = None) -> Path:
    content = torch.load(foreign / "sam3.pt")
    source = foreign
    if change is not None:
        change(content["model"])
        source = out / "source"
        source.mkdir(parents=True)
        torch.save(content, source / "sam3.pt")
    folder = out / "imported"
    folder.mkdir(parents=True)
    write_checkpoint(source / "sam3.pt", folder, ImportOptions(tokenizer=foreign / "tokenizer"))
    return folder


def test_a_file_of_the_projects_becomes_the_model_that_it_was(foreign: Path, model: Any, tmp_path: Path) -> None:
    folder = imported(foreign, tmp_path)
    family = family_from_checkpoint(folder)
    own = family.model.state_dict()
    assert own.keys() == model.state_dict().keys()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(own[name], tensor)] == []
    assert family.image_size.size_hw == (96, 96)
    assert (folder / "LICENSE").read_text() == LICENCE
    stated = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    assert stated["image_processor_type"] == "Sam3ImageProcessor"
    with torch.no_grad():
        words = family.processor(text=["red cell"], return_tensors="pt")
        assert torch.equal(*(one.get_text_features(**words).pooler_output for one in (family.model, model)))


def test_a_training_saves_the_detector_alone(foreign: Path, tmp_path: Path) -> None:
    def bare(table: Table) -> None:
        for name in list(table):
            tensor = table.pop(name)
            if name.startswith("detector."):
                table[name.removeprefix("detector.")] = tensor

    assert family_from_checkpoint(imported(foreign, tmp_path, bare)).architecture == "Sam3Model"


def another_name(table: Table) -> None:
    table["detector.transformer.decoder.layers.0.lora_A.weight"] = torch.ones(2)


def without_a_layer(table: Table) -> None:
    for name in [name for name in table if "transformer.decoder.layers.1.norm" in name]:
        del table[name]


@pytest.mark.parametrize(
    ("change", "said"), [(another_name, "lora_A"), (without_a_layer, "missing")], ids=["unknown", "missing"]
)
def test_what_the_table_does_not_explain_is_refused(foreign: Path, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        imported(foreign, tmp_path, change)


def test_every_operation_is_known() -> None:
    targets = [to for to in MetaSam3().rules(_named([])).values() if isinstance(to, Target)]
    assert {target.op for target in targets} <= OPS.keys()
