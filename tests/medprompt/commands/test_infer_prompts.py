"""``medprompt infer --prompt-map`` and ``--select`` as users meet them: exit codes, one message, nothing run before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medprompt.prompts.bank import save_bank
from medprompt.prompts.phrase_set import subset_phrases
from medprompt.runtime.engines.fake import Fake
from tests.runtime.bundles import make_bank, make_folder, record
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]

RED, PALE, WHITE = "red cell", "pale disc", "white cell"
GOOD = {"one.png": [RED, WHITE], "two.png": [WHITE, PALE]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Run:
    """``run(map or None, words…)`` in a folder with a bundle and two images."""
    make_folder(tmp_path / "bundle", engines=(record("fake"),))
    (tmp_path / "images").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (30, 20), "white").save(tmp_path / "images" / f"{name}.png")
    monkeypatch.chdir(tmp_path)

    def call(chosen: Any, *words: str) -> tuple[int, str, str]:
        mapped: tuple[str, ...] = ()
        if chosen is not None:
            (tmp_path / "map.json").write_text(chosen if isinstance(chosen, str) else json.dumps(chosen))
            mapped = ("--prompt-map", "map.json")
        return cli("infer", "bundle", "images", *mapped, *words)

    return call


def test_a_map_and_what_results_say_of_it(run: Run, tmp_path: Path) -> None:
    code, _, err = run({**GOOD, "three.png": [RED, WHITE]}, "--out", "r.json", "--coco", "c.json")
    assert code == 0
    assert "warning: 1 of 3 entries of the prompt map fit no image given: three.png" in err
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["prompting"] == "map"
    sets = [item["prompt_set"] for item in content["items"]]
    assert [one["phrases"] for one in sets] == [[RED, WHITE], [PALE, WHITE]]
    hashes = [subset_phrases(make_bank(), one["phrases"]).content_hash()[:16] for one in sets]
    assert [one["hash"] for one in sets] == hashes
    assert content["bank_sha256"] == make_bank().content_hash()
    said = [{row["phrase"] for row in item["detections"]} for item in content["items"]]
    assert said == [{RED, WHITE}, {PALE, WHITE}]
    rows = json.loads((tmp_path / "c.json").read_text())
    assert [row["prompt_set"] for row in rows] == [hashes[0]] * 4 + [hashes[1]] * 4
    assert [row["category_id"] for row in rows[:2]] == [1, 2]


def test_overlays_and_json_are_as_ever(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(GOOD, "--overlays", "pictures", "--json")
    assert code == 0
    assert [item["overlay"] for item in json.loads(out)["items"]] == ["pictures/one.png", "pictures/two.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["one.png", "two.png"]


@pytest.mark.parametrize(
    ("chosen", "words", "said"),
    [
        ({"one.png": [RED, WHITE]}, [], ["missing from the prompt map", "images/two.png"]),
        ({**GOOD, "two.png": ["blue cell", WHITE]}, [], ["do not have", "blue cell"]),
        ({**GOOD, "two.png": [RED]}, [], ["left without a phrase", "two.png", "none of WBC"]),
        ({**GOOD, "two.png": []}, [], ["not a list of phrases"]),
        ({**GOOD, "two.png": [RED, " "]}, [], ["not a list of phrases"]),
        ({**GOOD, "two.png": RED}, [], ["not a list of phrases"]),
        ([RED], [], ["not a list of phrases"]),
        ("{", [], ["cannot be read", "map.json"]),
        (GOOD, ["--select", "top:1"], ["cannot be combined"]),
        (GOOD, ["--labels", "cells"], ["does not have these classes"]),
        (None, ["--select", "top:0"], ["top:1 or more"]),
        (None, ["--select", "best"], ["cannot be read", "'best'"]),
        (None, ["--select", ""], ["cannot be read"]),
        (None, ["--prompt-map", "absent.json"], ["cannot be read", "absent.json"]),
    ],
)
def test_bad_input_ends_before_anything_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: Any, words: list[str], said: list[str]
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(Fake, "open", refuse)
    code, _, err = run(chosen, *words, "--out", "r.json")
    assert code == 2
    assert all(word in err for word in said), err
    assert not (tmp_path / "r.json").exists()


def test_a_map_with_fewer_classes_or_another_bank(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(GOOD, "--labels", "WBC", "--json")
    assert code == 0
    assert [item["prompt_set"] for item in json.loads(out)["items"]] == [None, None]  # all that is served
    save_bank(make_bank([{"label": "polyp", "phrases": ["pink bump", "flat spot"]}]), tmp_path / "b.safetensors")
    chosen = {"one.png": ["pink bump"], "two.png": ["pink bump", "flat spot"]}
    code, out, _ = run(chosen, "--prompts", "b.safetensors", "--json")
    assert code == 0
    assert [item["prompt_set"] and item["prompt_set"]["phrases"] for item in json.loads(out)["items"]] == [
        ["pink bump"],
        None,
    ]


@pytest.mark.parametrize(("select", "phrases"), [("top:1", [RED, WHITE]), ("top:2", None)])
def test_a_selection(run: Run, select: str, phrases: list[str] | None) -> None:
    code, out, _ = run(None, "--select", select, "--json")
    assert code == 0
    content = json.loads(out)
    assert content["prompting"] == select
    assert [item["prompt_set"] and item["prompt_set"]["phrases"] for item in content["items"]] == [phrases] * 2
    if phrases is None:
        plain = json.loads(run(None, "--json")[1])
        assert [item["detections"] for item in plain["items"]] == [item["detections"] for item in content["items"]]
