"""``medprompt import`` and what it refuses: nothing is written then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import medprompt
from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import TrainedRules
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import import_record
from medprompt.export.families.grounding_core import mean_logits
from medprompt.export.imported import tell_embeddings, usable_checkpoint, write_checkpoint
from medprompt.export.importers.pickles import read_pickle
from medprompt.export.importers.run import ImportOptions, write_imported
from medprompt.export.parity.images import drawn_image
from tests.export.importers.goldens import BERT, FILES, FOLDER, IDEA, MMDET, OMDET, cases, source
from tests.export.importers.test_goldens import family_of, raw
from tests.shared import Cli

GLIP = "glip"
Content = dict[str, Any]
Change = Callable[[Content], Content]


def saved(name: str, path: Path, change: Change, **how: Any) -> Path:
    """A golden checkpoint, changed, and saved as torch does."""
    content = dict(read_pickle(source(name)))
    content.pop("message_hub", None)
    content.pop("optimizer", None)
    content["args"] = vars(content["args"])["state"] if "args" in content else {}
    torch.save(change(content), path, **how)
    return path


def weights_of(content: Content) -> Content:
    return content["state_dict"] if "state_dict" in content else content["model"]


def with_more(content: Content) -> Content:
    weights_of(content)["extra.adapter.weight"] = torch.ones(2)
    return content


def half_of_it(content: Content) -> Content:
    key = "state_dict" if "state_dict" in content else "model"
    kept = {name: tensor for name, tensor in content[key].items() if "decoder.layers.1" not in name}
    return content | {key: kept}


def without_one(content: Content) -> Content:
    del weights_of(content)["memory_trans_norm.bias"]
    return content


def of_another_architecture(content: Content) -> Content:
    return {"model": {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.bias": torch.ones(1000)}}


def no_config(content: Content) -> Content:
    return {key: value for key, value in content.items() if key not in {"args", "meta"}}


def stating(**changes: Any) -> Change:
    return lambda content: content | {"args": content["args"] | changes}


def cfg(old: str, new: str) -> Change:
    def change(content: Content) -> Content:
        assert old in content["meta"]["cfg"]
        return content | {"meta": {"cfg": content["meta"]["cfg"].replace(old, new)}}

    return change


REFUSED = [
    (IDEA, with_more, "does not say one thing", "extra.adapter.weight"),
    (MMDET, half_of_it, "does not say one thing", "reg_branches.2"),
    (MMDET, without_one, "Weights are missing", "1 missing, such as model.enc_output_norm.bias"),
    (IDEA, of_another_architecture, "of no format that is known", "conv1.weight"),
    (IDEA, no_config, "does not hold the config", "none"),
    (IDEA, stating(num_queries=900), "contradicts the weights", "900"),
    (IDEA, stating(nheads=4), "contradicts the weights", "4 x 4 x 4 x 2"),
    (IDEA, stating(two_stage_type="no"), "is not served", "no"),
    (IDEA, stating(text_encoder_type="roberta-base"), "is not served", "roberta-base"),
    (IDEA, stating(sub_sentence_present=False), "is not served", "False"),
    (IDEA, stating(pe_temperatureW=10), "is not served", "10"),
    (MMDET, cfg("num_layers=2", "num_layers=6"), "contradicts the weights", "6"),
    (MMDET, cfg("log_scale='auto'", "log_scale=0.0"), "form of the class head", "0.0"),
    (MMDET, cfg("type='FixScaleResize'", "type='LetterResize'"), "something else than resize", "LetterResize"),
    (MMDET, cfg("num_queries=30", "num_queries=int(30)"), "computes", "model.num_queries"),
]


@pytest.mark.parametrize(("name", "change", "problem", "got"), REFUSED)
def test_what_does_not_fit_is_refused(
    name: str, change: Change, problem: str, got: str, cli: Cli, tmp_path: Path
) -> None:
    path = saved(name, tmp_path / "a.pth", change)
    code, out, err = cli("import", path, "--tokenizer", BERT, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert problem in err
    assert got in err
    assert str(path) in err or "--config" in err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.pth"]


CONFIGS = [
    (IDEA, "config.py", "", "no hidden_dim"),
    (IDEA, "config.yaml", "model: null", "no hidden_dim"),
    (IDEA, "config.py", "_base_ = 'swin.py'\nhidden_dim = 64\nenc_layers = 2\nnum_queries = 30", "_base_"),
    (MMDET, "config.py", "_base_ = 'swin_t.py'\nmodel = dict(bbox_head=dict(num_classes=1))", "_base_"),
    (MMDET, "config.py", "with read_base():\n    from .swin_t import *", "_base_"),
    (MMDET, "config.py", "model = dict(bbox_head=dict(num_classes=1))", "no model.data_preprocessor"),
    (OMDET, "config.yaml", "_BASE_: base.yaml\nMODEL: {ELAEncoder: {}, ELADecoder: {}}", "_BASE_"),
    (GLIP, "config.yaml", "INPUT: {PIXEL_MEAN: [0, 0, 0], PIXEL_STD: [1, 1, 1]}", "no MODEL.DYHEAD"),
]


@pytest.mark.parametrize(("name", "file", "text", "got"), CONFIGS)
def test_a_config_that_is_not_the_whole_one_is_refused(
    name: str, file: str, text: str, got: str, cli: Cli, tmp_path: Path
) -> None:
    """What it is silent of would have the defaults of the project's code, whatever was trained."""
    (tmp_path / file).write_text(text)
    words = ["--tokenizer", BERT, "--config", tmp_path / file, "--out", tmp_path / "out"]
    code, out, err = cli("import", FOLDER / name / FILES.get(name, "model_final.pth"), *words)
    assert (code, out, got in err) == (2, "", True), err
    assert [one.name for one in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("other", [OMDET, GLIP])
def test_a_config_of_another_project_is_refused(other: str, cli: Cli, tmp_path: Path) -> None:
    path = next((FOLDER / other).glob("config.*"))
    code, _, err = cli("import", source(IDEA), "--tokenizer", BERT, "--config", path, "--out", tmp_path / "out")
    assert (code, "of another project" in err, (tmp_path / "out").exists()) == (2, True, False)


def test_a_tokenizer_of_another_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(BERT, tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"hidden_size": 768, "num_attention_heads": 12}))
    code, _, err = cli("import", source(IDEA), "--tokenizer", tmp_path / "bert", "--out", tmp_path / "out")
    assert (code, "768" in err, (tmp_path / "out").exists()) == (2, True, False)
    (tmp_path / "bert" / "config.json").unlink()
    code, _, err = cli("import", source(IDEA), "--tokenizer", tmp_path / "bert", "--out", tmp_path / "out")
    assert (code, "attention heads of the text model" in err) == (2, True)
    code, _, err = cli("import", source(IDEA), "--out", tmp_path / "out")
    assert (code, "--tokenizer" in err) == (2, True)


def test_a_damaged_or_missing_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(source(IDEA).read_bytes()[:100_000])
    for path in (tmp_path / "a.pth", tmp_path / "none.pth", BERT):
        code, _, err = cli("import", path, "--tokenizer", BERT, "--out", tmp_path / "out")
        assert (code, str(path) in err) == (2, True)
    assert [one.name for one in tmp_path.iterdir()] == ["a.pth"]


def test_the_command_says_what_it_made(cli: Cli, tmp_path: Path) -> None:
    path = saved(MMDET, tmp_path / "a.pth", cfg("backend='pillow'", "backend='cv2'"))
    code, out, err = cli("import", path, "--tokenizer", BERT, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["format"], told["weights"]) == ("mmdet-mm-grounding-dino", "state_dict")
    assert (
        told["rules"]
        == TrainedRules(token_rule="mean", labels_per_query="many", names="mmdet", closing_stop=True).model_dump()
    )
    assert "OpenCV" in told["warnings"][0]
    record = import_record(tmp_path / "out")
    assert record is not None
    assert record.model_dump(mode="json") == {key: value for key, value in told.items() if key != "checkpoint"}
    code, _, err = cli("import", path, "--tokenizer", BERT, "--out", tmp_path / "out")
    assert (code, "--force" in err) == (2, True)


def test_rules_stay_when_a_model_is_saved_again(imported: Callable[[str], Path], tmp_path: Path) -> None:
    family = family_of(imported(MMDET))
    family.model.save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    again = family_from_checkpoint(tmp_path)
    assert again.rules == family.rules != TrainedRules()
    assert import_record(tmp_path) is None


def test_unknown_rules_are_refused(imported: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(imported(IDEA), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"trained_rules": {"token_rule": "median"}}))
    with pytest.raises(CheckpointError, match="rules of the project"):
        family_from_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("smooth_lesion (benign)", "smooth lesion "),
        ("Flat  Polyp", "Flat Polyp"),
        ("(benign)", ""),
        ("a (b) c (d) e", "a e"),
    ],
)
def test_names_are_cleaned_as_the_project_did(phrase: str, words: str, imported: Callable[[str], Path]) -> None:
    mmdet, plain = (family_of(imported(name)) for name in (MMDET, IDEA))
    assert mmdet.words_of(phrase) == words
    assert plain.words_of(phrase) == phrase


@pytest.mark.parametrize(("how", "half"), [({"_use_new_zipfile_serialization": False}, False), ({}, True)])
def test_files_of_every_age_are_one_model(
    how: dict[str, bool], half: bool, imported: Callable[[str], Path], tmp_path: Path
) -> None:
    def changed(content: Content) -> Content:
        weights = {f"module.{key}": tensor.half() if half else tensor for key, tensor in content["model"].items()}
        return content | {"model": weights, "args": content["args"] | {"text_encoder_type": "/models/bert"}}

    path = saved(IDEA, tmp_path / "a.pth", changed, **how)
    write_imported(path, tmp_path, ImportOptions(BERT))
    old, new = (load_file(folder / "model.safetensors") for folder in (imported(IDEA), tmp_path))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key].half().float() if half else old[key], new[key]) for key in old)


def test_the_set_of_weights_is_chosen_by_name(tmp_path: Path) -> None:
    def averaged(content: Content) -> Content:
        return content | {"model_ema": {key: tensor + 1 for key, tensor in content["model"].items()}}

    path = saved(IDEA, tmp_path / "a.pth", averaged)
    taken = {}
    for name in (None, "model_ema"):
        folder = tmp_path / str(name)
        folder.mkdir()
        record = write_imported(path, folder, ImportOptions(BERT, weights=name))
        taken[name] = (record.weights, load_file(folder / "model.safetensors")["model.level_embed"])
    assert [name for name, _ in taken.values()] == ["model", "model_ema"]
    assert torch.allclose(taken["model_ema"][1], taken[None][1] + 1)
    with pytest.raises(CheckpointError, match="no such weights"):
        write_imported(path, tmp_path, ImportOptions(BERT, weights="ema_model"))


def test_a_release_reads_its_config_from_a_file(tmp_path: Path) -> None:
    path = saved(IDEA, tmp_path / "a.pth", no_config)
    record = write_checkpoint_to(tmp_path / "out", path, ImportOptions(BERT, FOLDER / IDEA / "config.py"))
    assert (record.format, record.rules) == ("idea-grounding-dino", TrainedRules(closing_stop=True))
    assert [one.name for one in record.files] == ["a.pth", "config.py"]


def write_checkpoint_to(folder: Path, path: Path, options: ImportOptions) -> Any:
    folder.mkdir()
    return write_checkpoint(path, folder, options)


def test_plain_grounding_dino_of_mmdetection(tmp_path: Path) -> None:
    """The golden MM model without its class biases: the same boxes, and logits without scale and bias."""
    bias = read_pickle(source(MMDET))["state_dict"]["bbox_head.cls_branches.1.bias"]

    def unbiased(content: Content) -> Content:
        kept = {key: tensor for key, tensor in content["state_dict"].items() if "cls_branches" not in key}
        return content | {"state_dict": kept}

    def change(content: Content) -> Content:
        return cfg("contrastive_cfg=dict(bias=True, log_scale='auto', ", "contrastive_cfg=dict(")(unbiased(content))

    record = write_checkpoint_to(tmp_path / "out", saved(MMDET, tmp_path / "a.pth", change), ImportOptions(BERT))
    assert record.format == "mmdet-grounding-dino"
    case = cases(MMDET)[0]
    found = raw(family_from_checkpoint(tmp_path / "out", case.size_hw), case)
    wanted = (case.answers["logits"] - bias) * 8
    assert (found.logits - wanted).abs().max() < 1e-4
    assert (found.boxes_cxcywh - case.answers["boxes"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("tokens", "scores"),
    [([[1]], [0.9]), ([[0, 1]], [0.5]), ([[0, 1], [2, 2]], [0.5, 0.5]), ([[0, 0, 0], [0, 1, 2]], [0.1, 0.5])],
)
def test_the_mean_counts_every_token_once(tokens: list[list[int]], scores: list[float]) -> None:
    logits = torch.logit(torch.tensor([[[0.1, 0.9, 0.5]]]))
    found = mean_logits(logits, torch.tensor(tokens)).sigmoid()[0, 0]
    assert torch.allclose(found, torch.tensor(scores), atol=1e-6)


def test_the_mean_keeps_its_digits_near_one() -> None:
    logits = torch.tensor([[[16.0, 17.0]]])
    exact = torch.logit(logits.double().sigmoid().mean())
    assert abs(mean_logits(logits, torch.tensor([[0, 1]])).item() - exact.item()) < 1e-4


# Adapters.


def adapter(base: Path, folder: Path, projections: tuple[str, ...] = ("query", "value")) -> Path:
    """A LoRA of a tiny model whose weights are not zero, as peft saves it."""
    from peft import LoraConfig, get_peft_model

    family = family_from_checkpoint(base)
    tell_embeddings(family.model)
    adapted = get_peft_model(family.model, LoraConfig(r=2, target_modules=list(projections)))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def stated_base(folder: Path, base: str) -> None:
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": base}))


@pytest.mark.filterwarnings("ignore")  # peft and torch warn about their own defaults
def test_an_adapter_is_merged_into_its_model(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    base, lora = tiny_checkpoint("grounding-dino"), adapter(tiny_checkpoint("grounding-dino"), tmp_path / "lora")
    stated_base(lora, "some/base")
    with pytest.raises(CheckpointError, match="not here"):
        write_checkpoint_to(tmp_path / "a", lora, ImportOptions())
    stated_base(lora, str(base))
    record = medprompt.import_checkpoint(lora, tmp_path / "out")
    assert record.format == "peft-adapter"
    assert [one.name for one in record.files] == ["adapter_model.safetensors", "adapter_config.json", base.name]
    plain, merged = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    name = next(key for key in sorted(plain) if key.endswith("decoder.layers.0.self_attn.query.weight"))
    parts = load_file(lora / "adapter_model.safetensors")
    prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    delta = parts[f"{prefix}B.weight"] @ parts[f"{prefix}A.weight"] * 4  # alpha 8 over rank 2
    assert torch.allclose(merged[name], plain[name] + delta, atol=1e-6)
    with usable_checkpoint(lora, ImportOptions(base=base)) as folder:
        assert torch.equal(load_file(folder / "model.safetensors")[name], merged[name])
        assert folder.name == "lora"
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore")  # peft and torch warn about their own defaults
def test_an_adapter_of_sam3_answers_merged_as_it_does_beside_its_model(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    base = tiny_checkpoint("sam3")
    lora = adapter(base, tmp_path / "lora", ("q_proj", "v_proj"))
    record = medprompt.import_checkpoint(lora, tmp_path / "out", base=base)
    assert record.format == "peft-adapter" and (tmp_path / "out/LICENSE").is_file()
    plain, merged = (family_from_checkpoint(folder) for folder in (base, tmp_path / "out"))
    image, texts = drawn_image((50, 80), 1), ["red blood cell", "polyp"]
    before = plain.reference(image, texts)
    plain.model = PeftModel.from_pretrained(plain.model, lora).eval()
    beside, after = plain.reference(image, texts), merged.reference(image, texts)
    assert (beside.logits - before.logits).abs().max() > 0.01, "an adapter that changes nothing proves nothing"
    torch.testing.assert_close(after.logits, beside.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.boxes_cxcywh, beside.boxes_cxcywh, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # peft and torch warn about their own defaults
def test_an_adapter_of_another_model_is_refused(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    lora = adapter(tiny_checkpoint("grounding-dino"), tmp_path / "lora")
    tensors = load_file(lora / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.other.lora_A.weight": torch.ones(2, 2)}, lora / "adapter_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint_to(tmp_path / "a", lora, ImportOptions(base=tiny_checkpoint("grounding-dino")))
    assert "other.lora_A" in caught.value.got


# The Hub.

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_name_on_the_hub_is_downloaded_at_its_commit(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def download(repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(tiny_checkpoint("owlvit"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    record = medprompt.import_checkpoint(f"lab/polyps@{COMMIT}", tmp_path / "out")
    assert asked == [("lab/polyps", COMMIT, ["*.safetensors", "*.json", "*.txt", "LICENSE*", "LICENCE*"])]
    assert record.files[0].name == f"lab/polyps@{COMMIT}"
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_without_the_hub_the_way_round_is_named(monkeypatch: pytest.MonkeyPatch, cli: Cli, tmp_path: Path) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    code, _, err = cli("import", f"lab/polyps@{COMMIT}", "--out", tmp_path / "out")
    assert (code, f"hf download lab/polyps --revision {COMMIT}" in err) == (2, True)
    for name in ("lab/polyps", "lab/polyps@main"):
        code, _, err = cli("import", name, "--out", tmp_path / "out")
        assert (code, "COMMIT" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
