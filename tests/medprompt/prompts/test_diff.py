from dataclasses import replace

import numpy as np
import pytest

from medprompt.prompts.bank import load_bank, save_bank
from medprompt.prompts.diff import Change, diff_prompts, read_either
from medprompt.prompts.file import save_prompts
from medprompt.prompts.schema import Prompts
from tests.runtime.bundles import make_bank

BASE = {"label": "a", "phrases": ["x", "y"], "threshold": 0.3}
PINNED = "4403117c54204cbce120cd70d8aeb2b3d6ad46ba2d5fe356844043dc5418a03f"
"""Content hash of ``make_bank()`` before phrases knew their origin: results on disk refer to such hashes."""


def prompts(*classes, **more):
    return Prompts.model_validate({"classes": list(classes) or [BASE], **more})


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (prompts(), []),
        (prompts({**BASE, "phrases": ["y", "x"]}), []),
        (prompts({**BASE, "phrases": ["x", {"text": "y", "origin": {"date": "2026-01-01"}}]}), []),
        (prompts({**BASE, "phrases": ["x", "Y"]}), [Change("changed", "phrase", "a: Y", "y", "Y")]),
        (prompts({**BASE, "phrases": ["x"]}), [Change("removed", "phrase", "a", before="y")]),
        (prompts({**BASE, "phrases": ["x", "y", "z"]}), [Change("added", "phrase", "a", after="z")]),
        (
            prompts({**BASE, "phrases": ["x", {"text": "y", "weight": 0.5, "source": "mlm"}]}),
            [Change("changed", "weight", "a: y", 1.0, 0.5), Change("changed", "source", "a: y", "manual", "mlm")],
        ),
        (prompts({**BASE, "threshold": None}), [Change("changed", "threshold", "a", 0.3, None)]),
        (
            prompts({**BASE, "phrases": ["x"]}, {"label": "b", "phrases": ["y"]}),
            [Change("added", "class", "b", after=["y"]), Change("changed", "class", "y", "a", "b")],
        ),
        (prompts(pooling="mean"), [Change("changed", "pooling", "file", "max", "mean")]),
        (prompts(task="look"), [Change("changed", "task", "file", None, "look")]),
        (prompts(ensemble="embedding"), [Change("changed", "ensemble", "file", None, "embedding")]),
    ],
)
def test_differences(after, expected):
    assert list(diff_prompts(prompts(), after)) == expected


def test_the_order_of_classes_decides_their_ids():
    a, b = {"label": "a", "phrases": ["x"]}, {"label": "b", "phrases": ["y"]}
    assert diff_prompts(prompts(a, b), prompts(b, a)) == (
        Change("changed", "order", "classes", ["a", "b"], ["b", "a"]),
    )


def test_banks_are_compared_to_the_bit(tmp_path):
    bank = make_bank()
    assert diff_prompts(bank, make_bank()) == ()
    assert diff_prompts(bank, bank.prompts) == ()
    other = replace(bank, encoder="another", tensors={"vectors": bank.tensors["vectors"].copy()})
    other.tensors["vectors"][1, 0] = np.nextafter(other.tensors["vectors"][1, 0], np.float32(9))
    assert diff_prompts(bank, other) == (
        Change("changed", "encoder", "bank", bank.encoder, "another"),
        Change("changed", "tensors", "pale disc"),
    )
    save_bank(other, tmp_path / "b.safetensors")
    save_prompts(bank.prompts, tmp_path / "p.yaml")
    assert diff_prompts(read_either(tmp_path / "b.safetensors"), other) == ()
    assert diff_prompts(read_either(tmp_path / "p.yaml"), bank) == ()


def test_content_hashes_of_old_banks_stay():
    assert make_bank().content_hash() == PINNED


def test_where_phrases_come_from_is_banked_but_not_hashed(tmp_path):
    origin = {"model": "m", "date": "2026-01-01", "probability": 0.5, "parent": "p"}
    told = [
        {"label": "RBC", "phrases": [{"text": "red cell", "origin": origin}, "pale disc"], "names": {"vqa": "disc"}},
        {"label": "WBC", "phrases": ["white cell"]},
    ]
    bank = make_bank(told)
    assert bank.content_hash() == PINNED
    save_bank(bank, tmp_path / "b.safetensors")
    loaded = load_bank(tmp_path / "b.safetensors")
    assert loaded.prompts == bank.prompts
    assert loaded.subset(["RBC"]).prompts.classes[0].phrases[0].origin.parent == "p"
