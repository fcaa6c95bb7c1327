"""``medprompt prompts tune`` as its users meet it: a bank and a report out; exit 2 and one message for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.export.parity.images import drawn_image
from medprompt.prompts.bank import load_bank
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text("classes: [{label: A, phrases: [red cell]}, {label: B, phrases: [polyp]}]")
    _coco(tmp_path / "train.json", range(6))
    _coco(tmp_path / "val.json", range(10, 13))
    _coco(tmp_path / "both.json", range(5, 8))

    def call(*words: object) -> tuple[int, str, str]:
        return cli("prompts", *words)

    return call


def _coco(path: Path, seeds: range) -> None:
    (path.parent / "images").mkdir(exist_ok=True)
    images, annotations = [], []
    for seed in seeds:
        Image.fromarray(drawn_image((48, 64), seed)).save(path.parent / "images" / f"{seed}.png")
        images.append({"id": seed, "file_name": f"{seed}.png", "height": 48, "width": 64})
        for category, box in ((1, [2, 3, 20, 20]), (2, [30, 10, 15, 25])):
            annotations.append({"id": len(annotations), "image_id": seed, "category_id": category, "bbox": box})
    categories = [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("owlvit")


def test_a_report_as_json_then_from_that_bank_as_a_table(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    common = ("--test-data", "val.json", "--shots", 5, "--steps", 4, "--cache", "cache")
    code, out, _ = run(
        "tune", checkpoint, "--prompts", "p.yaml", "--data", "train.json", "--out", "a.safetensors", *common, "--json"
    )
    assert code == 0
    made = json.loads(out)
    assert (len(made["tuned_on"]), len(made["held_back"])) == (4, 1)
    assert set(made["report"]["start"]) == {"ap", "ap50", "ap_by_label", "ap50_by_label"}
    assert made["stopped_by"]["tuned"]["ap"] >= made["stopped_by"]["start"]["ap"]
    assert made["improved"] == (made["step"] > 0)
    bank = load_bank(tmp_path / "a.safetensors")
    assert bank.content_hash() == made["sha256"]
    assert bank.labels == ("A", "B")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 8
    code, out, _ = run(
        "tune", checkpoint, "--prompts", "a.safetensors", "--data", "train.json", "--out", "b.safetensors", *common
    )
    assert code == 0
    assert "held back 1 images: " in out
    assert "val.json (3)" in out


def test_one_class_alone(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    words = ("--data", "train.json", "--out", "a.safetensors", "--steps", 2, "--labels", "B")
    assert run("tune", checkpoint, "--prompts", "p.yaml", *words)[0] == 0
    assert load_bank(tmp_path / "a.safetensors").labels == ("B",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shots", "some"), "not a number of images"),
        (("--shots", "0"), "not a number of images"),
        (("--shots", "7"), "fewer images than shots"),
        (("--test-data", "both.json"), "share images"),
        (("--labels", "C"), "does not have these classes"),
        (("--data", "train"), "unknown form"),
        (("--prompts", "more.yaml"), "no box in the data"),
        (("--prompts", "other.safetensors"), "another text encoder"),
        (("--prompts", "nan.safetensors"), "NaN"),
        (("--out", "p.yaml"), "would replace inputs"),
        (("--image-size", "64x64x"), "not a size"),
        (("--steps", "0"), "Invalid value"),
    ],
)
def test_bad_input(run: Run, checkpoint: Path, tmp_path: Path, words: tuple[str, str], message: str) -> None:
    from dataclasses import replace

    from medprompt.prompts.bank import save_bank

    (tmp_path / "more.yaml").write_text("classes: [{label: A, phrases: [cell]}, {label: Z, phrases: [polyp]}]")
    run("embed", checkpoint, "--prompts", "p.yaml", "--out", "bank.safetensors")
    bank = load_bank(tmp_path / "bank.safetensors")
    save_bank(replace(bank, encoder="0" * 16), tmp_path / "other.safetensors")
    broken = {"query_embeds": np.full_like(bank.tensors["query_embeds"], np.nan)}
    object.__setattr__(bank, "tensors", broken)  # as a damaged file would hold it
    save_bank(bank, tmp_path / "nan.safetensors")
    asked = {"--prompts": "p.yaml", "--data": "train.json", "--out": "new.safetensors"} | dict([words])
    code, out, err = run("tune", checkpoint, *(word for pair in asked.items() for word in pair))
    assert code == 2
    assert message in err
    assert not (tmp_path / "new.safetensors").exists()
    assert out == ""
