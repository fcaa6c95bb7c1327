"""Folders as they come: what transformers would pass over, fill in or take for something else is refused in words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import checkpoint_sha256
from medprompt.export.families import FAMILIES, family_class
from medprompt.export.parity.images import drawn_image
from medprompt.export.weights import channel_warnings
from tests.tiny import TINY

Copy = Callable[[str], Path]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt")
TEXTS = ("red blood cell", "polyp")


@pytest.fixture
def copy_of(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Copy:
    """``copy_of(model_type)``: a tiny checkpoint to be changed."""

    def copied(model_type: str) -> Path:
        shutil.copytree(tiny_checkpoint(model_type), tmp_path / model_type)
        return tmp_path / model_type

    return copied


def edit_json(path: Path, **changes: Any) -> None:
    """Set values; those of None are taken out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def refusal(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        family_from_checkpoint(folder)
    assert caught.value.exit_code == 2
    return caught.value


# Weights: every tensor of the file must be in the model.


def with_lora(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in sorted(tensors) if name.endswith(("q_proj.weight", "query.weight")))
    lora = {f"{name.removesuffix('weight')}lora_{part}.default.weight": torch.ones(2, 2) for part in "AB"}
    return tensors | lora


def with_one_more_layer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    layer = {name: tensor for name, tensor in tensors.items() if "layers.1." in name}
    assert layer
    return tensors | {name.replace("layers.1.", "layers.7."): tensor + 1 for name, tensor in layer.items()}


def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != sorted(tensors)[0]}


def compiled_by_torch(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}


def of_another_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    return tensors | {name: torch.zeros(tensors[name].shape[0] + 1, tensors[name].shape[1])}


NORM = "encoder.channel_projection_layers.0.1.running_var"


def diverged(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
        return tensors | {name: torch.full_like(tensors[name], value)}

    return change


def test_channels_that_a_half_precision_switched_off_are_served_and_told_of(copy_of: Copy) -> None:
    folder = copy_of("omdet-turbo")
    assert not list(channel_warnings(family_from_checkpoint(folder).model))

    def switched_off(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        variance = tensors[NORM].clone()
        variance[:3] = float("inf")
        return tensors | {NORM: variance}

    edit_weights(folder, switched_off)
    (warning,) = channel_warnings(family_from_checkpoint(folder).model)
    assert warning.startswith(f"3 channels of {NORM.removesuffix('.running_var')} are constant")


@pytest.mark.parametrize("model_type", ["owlvit", "grounding-dino", "omdet-turbo"])
@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        (with_lora, "the model does not take", "merge_and_unload(), then save_pretrained"),
        (with_one_more_layer, "the model does not take", "config.json may be of another variant"),
        (without_one, "Weights are missing", "save the whole model"),
        (compiled_by_torch, "Weights are missing", "take '_orig_mod.' off every name"),
        (of_another_shape, "another shape", "config.json and weights together"),
        (diverged(float("nan")), "NaN or infinite", "an earlier checkpoint"),
        (diverged(float("-inf")), "NaN or infinite", "an earlier checkpoint"),
    ],
)
def test_a_file_that_the_model_does_not_hold_is_refused(
    model_type: str, change: Any, problem: str, fix: str, copy_of: Copy, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(model_type)
    edit_weights(folder, change)
    capfd.readouterr()
    error = refusal(folder)
    assert problem in error.problem
    assert fix in error.fix
    assert capfd.readouterr() == ("", "")  # transformers' table of the loading included


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(model_type: str, dtype: torch.dtype, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    edit_weights(folder, lambda tensors: {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()})
    state = family_from_checkpoint(folder).model.state_dict()
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}


def sharded(folder: Path) -> None:
    """The weights in two parts, as ``save_pretrained`` cuts large ones."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / part, {"format": "pt"})
    places = {name: part for part, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_parts_are_one_model(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    before = family_from_checkpoint(folder).model.state_dict()
    sharded(folder)
    after = family_from_checkpoint(folder).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "index" in refusal(folder).problem


@pytest.mark.parametrize("name", ["model_1.safetensors", "pytorch_lora_weights.safetensors", "ema.safetensors"])
def test_weights_beside_the_model_are_refused(name: str, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    save_file({"one": torch.ones(1)}, folder / name)
    error = refusal(folder)
    assert (error.problem, error.got) == ("The checkpoint holds weights that its model does not read.", name)


def test_weights_of_another_name_are_not_a_model(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert refusal(folder).got == "weights.safetensors"


@pytest.mark.parametrize("whole_model_too", [True, False])
@pytest.mark.parametrize("config_too", [True, False])
def test_an_adapter_is_named(whole_model_too: bool, config_too: bool, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"one": torch.ones(1)}, folder / "adapter_model.safetensors")
    for name, kept in {"model.safetensors": whole_model_too, "config.json": config_too}.items():
        if not kept:
            (folder / name).unlink()
    error = refusal(folder)
    assert "an adapter (PEFT, LoRA) that is not merged" in error.problem
    assert "merge_and_unload()" in error.fix


# Layouts of transformers 4.


def apart(model_type: str, folder: Path, share: bool | None) -> None:
    """Save a model each of whose decoder layers has a box head of its own, as transformers 4.55 to 4.57 lay it out."""
    TINY[model_type](folder)
    config = json.loads((folder / "config.json").read_text()) | {"decoder_bbox_embed_share": False}
    architecture = getattr(transformers, family_class(model_type).architecture)
    torch.manual_seed(0)
    model = architecture(architecture.config_class.from_dict(config))
    for number, head in enumerate(model.bbox_embed):
        torch.nn.init.constant_(head.layers[-1].bias, 0.1 * (number + 1))
    model.save_pretrained(folder)

    def moved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = {name: f"model.decoder.{name}" for name in tensors if name.startswith("bbox_embed.1.")}
        assert names
        return {names.get(name, name): tensor for name, tensor in tensors.items()}

    edit_weights(folder, moved)
    edit_json(folder / "config.json", decoder_bbox_embed_share=share)


@pytest.mark.parametrize("model_type", ["grounding-dino", "mm-grounding-dino"])
@pytest.mark.parametrize("share", [None, True])
def test_heads_that_differ_are_not_taken_for_one(model_type: str, share: bool | None, tmp_path: Path) -> None:
    apart(model_type, tmp_path, share)
    error = refusal(tmp_path)
    assert error.problem == "The file holds several tensors where config.json says that they are one."
    assert "bbox_embed.1.layers" in error.where
    assert "put decoder_bbox_embed_share: false into config.json" in error.fix
    edit_json(tmp_path / "config.json", decoder_bbox_embed_share=False)
    model = family_from_checkpoint(tmp_path).model
    for heads in (model.bbox_embed, model.model.decoder.bbox_embed):
        assert [round(head.layers[-1].bias.mean().item(), 3) for head in heads] == [0.1, 0.2]


def as_transformers_4(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """No norm at the end of the backbone, which is not read, and tables that transformers 5 makes itself."""
    kept = {name: tensor for name, tensor in tensors.items() if "swin.layernorm." not in name}
    tables = {
        f"{name.rpartition('.')[0]}.relative_position_index": torch.zeros(16, 16, dtype=torch.int64)
        for name in kept
        if name.endswith("relative_position_bias_table")
    }
    assert tables
    return kept | tables


@pytest.mark.parametrize("model_type", ["grounding-dino", "mm-grounding-dino", "omdet-turbo"])
def test_a_swin_of_transformers_4_is_the_same_model(
    model_type: str, copy_of: Copy, tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = copy_of(model_type)
    edit_weights(folder, as_transformers_4)
    image = drawn_image((96, 128), 1)
    old, new = (family_from_checkpoint(one).reference(image, TEXTS) for one in (folder, tiny_checkpoint(model_type)))
    assert torch.equal(old.logits, new.logits)
    assert torch.equal(old.boxes_cxcywh, new.boxes_cxcywh)


def test_a_named_backbone_asks_nobody(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import backbone_utils

    def asked(*_: Any) -> Any:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(backbone_utils, "hf_api", asked)
    folder = copy_of("omdet-turbo")
    named = {"backbone": "swin_tiny_patch4_window7_224", "backbone_config": None}
    edit_json(folder / "config.json", **named, backbone_kwargs={"out_indices": [1, 2, 3]}, use_timm_backbone=True)
    error = refusal(folder)
    assert "pip install timm" in error.fix
    assert "timm" in error.got
    edit_json(folder / "config.json", use_timm_backbone=False)
    assert (refusal(folder).got, "save_pretrained(NEW_FOLDER)" in refusal(folder).fix) == (named["backbone"], True)


# Tokenizers.


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_folder_without_a_tokenizer_is_refused(model_type: str, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    assert refusal(folder).problem == "The checkpoint has no tokenizer files."
    (folder / "vocab.json").write_text("{}")  # of byte pairs without their merges every word is letters
    assert refusal(folder).problem == "The checkpoint has no tokenizer files."


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_tokenizer_of_another_model_is_refused(
    model_type: str, copy_of: Copy, tiny_checkpoint: Callable[[str], Path]
) -> None:
    folder = copy_of(model_type)
    other = "owlvit" if "grounding" in model_type or model_type == "glip" else "grounding-dino"
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
        if (tiny_checkpoint(other) / name).exists():
            shutil.copy(tiny_checkpoint(other) / name, folder / name)
    assert "tokenizer" in str(refusal(folder))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("resized", [False, True])
def test_added_tokens_need_rows(model_type: str, resized: bool, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    family = family_from_checkpoint(folder)
    family.processor.tokenizer.add_tokens(["adenoma"])
    family.processor.save_pretrained(folder)
    if not resized:
        error = refusal(folder)
        assert error.problem == "The tokenizer does not fit the text model."
        assert "resize_token_embeddings" in error.fix
        return
    family.model.config.text_config.vocab_size += 1
    family.check_tokenizer()


@pytest.mark.parametrize(("rows", "fits"), [(0, True), (511, True), (512, False), (40_000, False), (-1, False)])
def test_a_vocabulary_may_be_padded_not_replaced(
    rows: int, fits: bool, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_from_checkpoint(tiny_checkpoint("owlvit"))
    text = family.model.config.text_config
    monkeypatch.setattr(text, "vocab_size", text.vocab_size + rows)
    if fits:
        family.check_tokenizer()
        return
    with pytest.raises(CheckpointError, match="does not fit the text model"):
        family.check_tokenizer()


@pytest.mark.parametrize("model_type", ["grounding-dino", "mm-grounding-dino"])
@pytest.mark.parametrize("swapped", [(".", "a"), ("[CLS]", "b"), ("?", "c"), ("[PAD]", "d")])
def test_other_special_ids_are_refused(model_type: str, swapped: tuple[str, str], copy_of: Copy) -> None:
    folder = copy_of(model_type)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    ids = content["model"]["vocab"]
    first, second = swapped
    ids[first], ids[second] = ids[second], ids[first]
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    path.write_text(json.dumps(content))
    error = refusal(folder)
    assert "other ids than transformers' Grounding DINO code takes for granted" in error.problem
    assert f"{first} {ids[first]}" in error.got


@pytest.mark.parametrize("model_type", ["owlvit", "owlv2"])
@pytest.mark.parametrize(("length", "got"), [(None, "nothing"), (77, "77")])
def test_a_length_that_is_not_the_text_models_is_refused(
    model_type: str, length: int | None, got: str, copy_of: Copy
) -> None:
    folder = copy_of(model_type)
    edit_json(folder / "tokenizer_config.json", model_max_length=length)
    error = refusal(folder)
    assert (error.got, error.fix) == (got, 'put "model_max_length": 16 into tokenizer_config.json')


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_tokenizer_that_pads_before_the_words_is_refused(model_type: str, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    edit_json(folder / "tokenizer_config.json", padding_side="left")
    error = refusal(folder)
    assert (error.expected, error.got) == ("right", "left")


def test_a_tokenizers_own_length_counts(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    edit_json(folder / "tokenizer_config.json", model_max_length=4)
    family = family_from_checkpoint(folder)
    assert family.phrase_length("polyp")[1] == 4
    with pytest.raises(PromptError, match="longer than the text encoder reads"):
        family.check_phrases(["red blood cell"])


# Image processors.


def edit_images(folder: Path, **changes: Any) -> None:
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    edit_json(path, image_processor=content["image_processor"] | changes)


@pytest.mark.parametrize("model_type", ["owlvit", "grounding-dino", "omdet-turbo", "sam3"])
@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"size": {"height": 0, "width": 64}}, "size.height: 0"),
        ({"size": {"height": 64.5, "width": 64}}, "size.height: 64.5"),
        ({"size": {"height": -64, "width": 64}}, "size.height: -64"),
        ({"do_resize": "false"}, "do_resize: 'false'"),
        ({"do_normalize": "no"}, "do_normalize: 'no'"),
        ({"do_rescale": False, "do_normalize": False}, "both off"),
        ({"do_rescale": True, "rescale_factor": 0.0}, "rescale_factor: 0.0"),
        ({"do_rescale": True, "rescale_factor": "1/255"}, "rescale_factor: '1/255'"),
        ({"image_mean": [0.5]}, "image_mean: "),
        ({"image_mean": ["0.4", "0.4", "0.4"]}, "image_mean: "),
        ({"image_std": [0.0, 0.2, 0.2]}, "image_std: "),
        ({"image_std": [0.2, 0.2, 0.2, 0.2]}, "image_std: "),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    model_type: str, changes: dict[str, Any], got: str, copy_of: Copy
) -> None:
    folder = copy_of(model_type)
    edit_images(folder, **changes)
    error = refusal(folder)
    assert "settings that mean nothing" in error.problem
    assert got in error.got


@pytest.mark.parametrize("model_type", ["owlvit", "grounding-dino", "omdet-turbo", "glip"])
def test_one_mean_is_that_of_all_channels(model_type: str, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    edit_images(folder, image_mean=0.25, image_std=0.5)
    family = family_from_checkpoint(folder)
    assert (family.preprocess().mean, family.preprocess().std) == ((0.25,) * 3, (0.5,) * 3)


def test_a_border_of_sam3_is_not_passed_over(copy_of: Copy) -> None:
    folder = copy_of("sam3")
    edit_images(folder, do_pad=True, pad_size={"height": 80, "width": 80})
    with pytest.raises(CheckpointError, match="pad_size"):
        family_from_checkpoint(folder).preprocess()


def test_owlv2_has_an_image_processor_of_its_own(copy_of: Copy) -> None:
    folder = copy_of("owlv2")
    edit_images(folder, image_processor_type="ViTImageProcessor")
    with pytest.raises(CheckpointError, match="pads to a square before it resizes"):
        family_from_checkpoint(folder).preprocess()


@pytest.mark.parametrize("model_type", ["owlvit", "owlv2", "grounding-dino", "mm-grounding-dino"])
def test_a_processor_of_another_model_is_refused(model_type: str, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    edit_json(folder / "processor_config.json", processor_class="CLIPProcessor")
    error = refusal(folder)
    assert (error.problem, error.got) == ("The processor is of another model.", "CLIPProcessor")


@pytest.mark.parametrize("model_type", ["owlvit", "glip", "sam3"])
def test_a_folder_without_an_image_processor_is_refused(model_type: str, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    edit_json(folder / "processor_config.json", image_processor=None)
    assert refusal(folder).got == "processor_config.json without 'image_processor'"
    (folder / "processor_config.json").unlink()
    assert (refusal(folder).got, "no image processor" in refusal(folder).problem) == ("neither", True)


@pytest.mark.parametrize("mean", [None, [0.0, 0.0, 0.0]])
def test_two_files_of_an_image_processor_must_agree(mean: list[float] | None, copy_of: Copy) -> None:
    """transformers 5 reads one of them, transformers 4 the other."""
    folder = copy_of("owlvit")
    stated = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(stated | ({"image_mean": mean} if mean else {})))
    if mean is None:
        assert family_from_checkpoint(folder)
        return
    assert "image_mean: " in refusal(folder).got


def test_a_feature_extractor_is_named(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    edit_images(folder, image_processor_type="OwlViTFeatureExtractor")
    assert '"image_processor_type": "OwlViTImageProcessor"' in refusal(folder).fix


# Files that only stand for the real ones, or that a system left.


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>Access is restricted</html>", "text, such as a web page"),
        (b'{"error": "gated"}', "text, such as a web page"),
        (b"PK\3\4" + bytes(40), "a zip archive or a pickle"),
        (bytes(range(64)), "other bytes"),
    ],
)
def test_what_is_no_safetensors_is_named(content: bytes, got: str, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    (folder / "model.safetensors").write_bytes(content)
    error = refusal(folder)
    assert (error.problem, got in error.got) == ("The file is no safetensors file.", True)


def test_a_link_to_nothing_is_named(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0123")
    error = refusal(folder)
    assert (error.where, "blobs/0123" in error.got) == (str(folder / "model.safetensors"), True)
    assert "cp -rL" in error.fix


def test_what_macos_leaves_beside_a_file_is_passed_over(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    before = checkpoint_sha256(folder)
    for name in ("._model.safetensors", "._config.json", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert family_from_checkpoint(folder)
    assert checkpoint_sha256(folder) == before


@pytest.mark.parametrize("model_type", ["owlvit", "grounding-dino"])
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "ema."])
def test_a_wrapper_around_the_model_is_named(model_type: str, wrapper: str, copy_of: Copy) -> None:
    folder = copy_of(model_type)
    edit_weights(folder, lambda tensors: {f"{wrapper}{name}": tensor for name, tensor in tensors.items()})
    error = refusal(folder)
    assert f"which is there as {wrapper}" in error.got
    assert f"take '{wrapper}' off every name" in error.fix


def test_an_index_names_no_weight_that_is_gone(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    sharded(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["adapter.weight"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refusal(folder)
    assert (error.got, "no part holds" in error.problem) == ("1, such as adapter.weight", True)


@pytest.mark.parametrize(
    ("start", "got"),
    [('{"model_type": "bert",', "the key 'model_type' is given twice"), ('{"eps": NaN,', "NaN is no number of JSON")],
)
def test_a_config_means_one_thing(start: str, got: str, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    path = folder / "config.json"
    path.write_text(path.read_text().replace("{", start, 1))
    assert refusal(folder).got == got


def test_a_model_type_is_text(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    edit_json(folder / "config.json", model_type=["owlvit"])
    assert refusal(folder).problem == "The checkpoint is of a family that is not served."


def test_a_part_that_is_quantised_is_named(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    config = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", text_config=config["text_config"] | {"quantization_config": {"bits": 4}})
    assert refusal(folder).where.endswith("text_config.quantization_config")


# Folders that are no checkpoint yet.


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(name: str, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    lfs_pointer(folder / name)
    error = refusal(folder)
    assert "git-lfs pointer" in error.problem
    assert error.where == str(folder / name)


def test_a_trainers_folder_names_its_last_checkpoint(copy_of: Copy, tmp_path: Path) -> None:
    run, model = tmp_path / "run", copy_of("owlvit")
    for age, number in enumerate((1000, 500)):
        shutil.copytree(model, run / f"checkpoint-{number}")
        os.utime(run / f"checkpoint-{number}" / "config.json", (100 - age, 100 - age))
    assert str(run / "checkpoint-1000") in refusal(run).fix


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("google/owlv2-base-patch16", "hf download google/owlv2-base-patch16 --local-dir FOLDER"),
        ("no-such-folder", "save_pretrained(FOLDER)"),
        ("a/b/c", "save_pretrained(FOLDER)"),
    ],
)
def test_a_name_on_the_hub_is_not_a_folder(name: str, fix: str) -> None:
    error = refusal(Path(name))
    assert error.got == "no such folder"
    assert fix in error.fix


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_a_quantised_checkpoint_is_refused(method: str, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    edit_json(folder / "config.json", quantization_config={"quant_method": method, "load_in_8bit": True})
    error = refusal(folder)
    assert (error.problem, error.got) == ("The checkpoint is quantised.", method)
    assert "dequantize()" in error.fix


@pytest.mark.parametrize("content", ["", "[]", "{", "3", '"text"', "[1, 2]"])
def test_a_config_that_is_none_is_refused(content: str, copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    (folder / "config.json").write_text(content)
    refusal(folder)


def test_the_hash_is_of_the_model_not_of_the_training(copy_of: Copy) -> None:
    folder = copy_of("owlvit")
    before = checkpoint_sha256(folder)
    for name in ("trainer_state.json", "train_results.json", "all_results.json"):
        (folder / name).write_text("{}")
    assert checkpoint_sha256(folder) == before
    assert checkpoint_sha256(folder, with_notes=True) != before
    edit_json(folder / "config.json", projection_dim=1)
    assert checkpoint_sha256(folder) != before


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_a_weight_that_a_cast_would_change_is_refused(dtype: torch.dtype, copy_of: Copy) -> None:
    folder = copy_of("omdet-turbo")

    def cast(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() == 2)
        return {**tensors, name: tensors[name].to(dtype)}

    edit_weights(folder, cast)
    assert str(dtype).removeprefix("torch.") in str(refusal(folder))


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "{",
        '{"weight_map": []}',
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": "../outside.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "absent.safetensors"}}',
    ],
)
def test_an_index_names_files_of_its_folder(content: str, copy_of: Copy) -> None:
    folder = copy_of("omdet-turbo")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder.parent / "outside.safetensors").write_bytes((folder / "part.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(content)
    assert refusal(folder).problem.startswith("The index of the weights' parts")
