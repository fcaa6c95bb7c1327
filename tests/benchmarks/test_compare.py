"""Comparing: the same is the same whatever its order, a change shows where it is, and odd pairs are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprompt.benchmarks.compare import Side, compare_sides
from medprompt.bundles.load import load_bundle
from medprompt.cli import main
from medprompt.core.errors import InputError
from medprompt.data import DetectionSet, read_detection_set
from medprompt.metrics.masks import MASK_FIGURES
from medprompt.prompts.bank import PromptBank
from tests.benchmarks.fakes import LEVELS, MASKED, fake_bundle, write_set
from tests.runtime.bundles import make_bank, make_folder, record

CLASSES = [{"label": "RBC", "phrases": ["a"]}, {"label": "WBC", "phrases": ["b"]}]
Bundles = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "set", LEVELS * 2)


@pytest.fixture(scope="module")
def labelled(data: Path) -> list[DetectionSet]:
    return [read_detection_set(str(data))]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundles:
    def make(name: str, bank: PromptBank | None = None, device: str = "fake") -> Path:
        return make_folder(tmp_path / name, bank or make_bank(CLASSES), engines=(record(device),))

    return make


def test_a_bundle_equals_itself(bundle: Bundles, labelled: list[DetectionSet]) -> None:
    side = Side(bundle("one"), "fake")
    found = compare_sides(side, side, labelled=labelled, rounds=3, resamples=20)
    assert found.parity.kept == 1 and found.parity.extra == 0 and found.parity.passed and found.worst == ()
    (figures,) = found.figures.values()
    assert set(figures) == {"ap", "ap50", "sensitivity"}
    for first, second, delta in figures.values():
        assert first == second and (delta.value, delta.low, delta.high) == (0, 0, 0)
    assert len(found.latency.series) == 2 and found.latency.rounds == 3
    assert [table.title for table in found.tables()][1:] == ["Accuracy", "Latency"]
    assert json.loads(json.dumps(found.as_json()))["parity"]["kept"] == 1


def test_masks_are_compared_where_both_sides_have_them(bundle: Bundles, tmp_path: Path) -> None:
    """The fake engine's masks are whole quarters; of the labels' three quarters of each are a mask."""
    masked = Side(fake_bundle(tmp_path / "masked", postprocess=MASKED), "fake")
    plain = Side(bundle("plain", make_bank()), "fake")
    labelled = [read_detection_set(str(write_set(tmp_path / "set", LEVELS, part=0.75)))]
    both = compare_sides(masked, masked, labelled=labelled, rounds=1, resamples=20)
    (figures,) = both.figures.values()
    assert {*MASK_FIGURES, "segm_ap", "segm_ap50"} < set(figures)
    first, second, delta = figures["mask_iou"]
    assert first == second and delta.value == 0
    assert 0.5 < first.value < 0.75, "a quarter too much of each, and what is reported below the labels' brightness"
    decisions, accuracy, _ = both.tables()
    assert decisions.columns[-1] == "least mask IoU" and decisions.rows[0][-1] == "1.0000"
    assert "boundary_f1" in [row[1] for row in accuracy.rows]
    for other in (plain, masked):
        one = compare_sides(plain, other, labelled=labelled, rounds=1, resamples=20)
        assert set().union(*one.figures.values()) == {"ap", "ap50", "sensitivity"}
        assert "least mask IoU" not in next(one.tables()).columns


def test_other_bank_on_a_real_engine_shows_what_moved(bundle: Bundles, labelled: list[DetectionSet]) -> None:
    bank = make_bank(CLASSES)
    bank = replace(bank, tensors={"vectors": bank.tensors["vectors"] * np.float32(0.5)})
    weaker = replace(bank, tensors={"vectors": bank.tensors["vectors"] * np.float32(0.8)})
    folder = bundle("one", bank, "ort-cpu")
    sides = (Side(folder, "ort-cpu"), Side(folder, "ort-cpu", weaker))
    found = compare_sides(*sides, labelled=labelled, rounds=2, resamples=20)
    assert found.parity.kept < 1 and not found.parity.passed
    assert found.hashes[0]["bundle"] == found.hashes[1]["bundle"] and found.hashes[0]["bank"] != found.hashes[1]["bank"]
    counts = [one.differing for one in found.worst]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0


def test_classes_in_another_order_are_the_same_decisions(bundle: Bundles, data: Path) -> None:
    """The fake engine answers by class number: turned round, the same names have other boxes, and that shows."""
    images = sorted(data.parent.glob("*.png"))
    one, turned = bundle("one"), bundle("turned", make_bank(CLASSES[::-1]))
    found = compare_sides(Side(one, "fake"), Side(turned, "fake"), images=images, rounds=1)
    assert found.figures == {} and found.parity.images == len(images)
    assert found.parity.kept < 0.5


def test_what_cannot_be_compared(bundle: Bundles, labelled: list[DetectionSet], data: Path) -> None:
    side = Side(load_bundle(bundle("one")), "fake")
    other = Side(bundle("other", make_bank([{"label": "polyp", "phrases": ["a"]}])), "fake")
    with pytest.raises(InputError, match="nothing to compare on"):
        compare_sides(side, side)
    with pytest.raises(InputError, match="different classes"):
        compare_sides(side, other, images=sorted(data.parent.glob("*.png")))


def test_the_command(
    bundle: Bundles, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle("one", device="ort-cpu")

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["medprompt", "bench", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    quick = ("--data", data, "--rounds", 1, "--resamples", 5)
    code, said = run(folder, folder, "--device", "ort-cpu", *quick)
    assert code == 0 and "100.00%" in said and "one on ort-cpu" in said
    code, said = run(folder, "--device", "ort-cpu", "--prompts", folder / "prompts.safetensors", *quick)
    assert code == 0 and "with prompts.safetensors" in said
    for words, message in (
        ((folder, *quick), "nothing to compare with"),
        ((folder, folder), "nothing to compare on"),
        ((folder, "--device", "a", "--device", "b", "--device", "c", *quick), "Only two sides"),
    ):
        code, said = run(*words)
        assert code == 2 and message in said
