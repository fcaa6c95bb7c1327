"""Sweeps: what is varied is varied, all else stays, and what cannot be measured is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprompt.benchmarks.latency.sweep import Row, bank_of_length, check_axes, run_sweep
from medprompt.cli import main
from medprompt.core.errors import InputError
from medprompt.prompts.assemble import prompt_inputs
from medprompt.runtime.detector import Detector
from tests.benchmarks.fakes import fake_bundle
from tests.runtime.bundles import make_bank

PICTURES = [np.full((40, 60, 3), level, np.uint8) for level in (50, 120, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle(tmp_path_factory.mktemp("sweep") / "bundle")


@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_a_bank_of_any_length(count: int) -> None:
    bank = make_bank()
    long = bank_of_length(bank, count)
    assert len(long.prompts.texts) == len(long.labels) == count
    own = bank.tensors["vectors"]
    assert (long.tensors["vectors"] == own[np.arange(count) % len(own)]).all()
    assert long.encoder == bank.encoder


def test_a_bank_by_token_keeps_each_phrases_tokens(grounding_family: Any) -> None:
    from medprompt.export.embed import bank_from_prompts
    from tests.export.exported import prompts

    bank = bank_from_prompts(grounding_family, prompts(3, 3))
    long = bank_of_length(bank, 7)
    assert list(long.token_counts) == [int(bank.token_counts[n % 3]) for n in range(7)]
    prompt_inputs(long, grounding_family.prompt_specs())  # fits the graph's inputs
    for name, layout in bank.layouts.items():
        if layout == "token":
            assert (long.pieces(name)[5] == bank.pieces(name)[2]).all()


def test_each_axis_varies_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []
    batch = Detector.batch

    def watched(self: Detector, images: Any, phrases: Any = None) -> Any:
        seen.append((len(self.bank.prompts.texts), len(images), images[0].shape[1]))
        return batch(self, images, phrases)

    monkeypatch.setattr(Detector, "batch", watched)
    axes = {"phrases": (1, 4), "batch": (1, 3), "side": (30, 90)}
    sweep = run_sweep(folder, PICTURES, axes, devices=["fake"], rounds=2)
    own = len(make_bank().prompts.texts)
    assert set(seen) == {(1, 1, 60), (4, 1, 60), (own, 1, 60), (own, 3, 60), (own, 1, 30), (own, 1, 90)}
    assert [(row.axis, row.value) for row in sweep.rows] == [(axis, value) for axis in axes for value in axes[axis]]
    for row in sweep.rows:
        assert row.device == "fake" and row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.images_per_s == pytest.approx(1e3 / row.ms_per_image)
    assert [row.ratio for row in sweep.rows if row.value == axes[row.axis][0]] == [1.0] * 3
    assert [len(table.rows) for table in sweep.tables()] == [2, 2, 2]


@pytest.mark.parametrize(
    "axes", [{"colour": (1,)}, {"batch": ()}, {"batch": (0, 1)}, {"phrases": (-1,)}, {"threads": (4096,)}]
)
def test_what_cannot_be_swept(axes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError):
        check_axes(axes)


def test_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PICTURES[0]).save(tmp_path / "x.png")

    def run(*words: str) -> int:
        command = ["medprompt", "bench", "sweep", str(folder), "--images", str(tmp_path / "x.png"), "--device", "fake"]
        monkeypatch.setattr("sys.argv", [*command, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    out, plot = tmp_path / "sweep.csv", tmp_path / "sweep.png"
    words = ("--phrases", "3,1,3", "--batch", "none", "--sides", "none", "--rounds", "2")
    assert run(*words, "--csv", str(out), "--plot", str(plot)) == 0
    assert "Latency by phrases" in capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["axis"], row["phrases"]) for row in rows] == [("phrases", "1"), ("phrases", "3")]
    assert list(rows[0]) == list(Row.__dataclass_fields__)
    with Image.open(plot) as drawn:
        assert drawn.size[0] > 400
    for words, message in (
        (("--phrases", "one"), "whole numbers"),
        (("--phrases", "none", "--batch", "none", "--sides", "none"), "nothing to sweep"),
    ):
        assert run(*words) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def grounding_family(tiny_checkpoint: Callable[[str], Path]) -> Any:
    from tests.export.exported import loaded

    return loaded(tiny_checkpoint("grounding-dino"))
