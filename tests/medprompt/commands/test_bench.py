"""``medprompt bench``: exit codes, files, and no torch where PyTorch is not asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from medprompt.benchmarks.latency import run as latency_run
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set
from tests.runtime.test_imports import BLOCKER, FORBIDDEN, python
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", LEVELS)


@pytest.fixture
def run(cli: Cli) -> Cli:
    return partial(cli, "bench")


def test_accuracy_as_json_and_a_row_an_image(bundle: Path, labels: Path, run: Run, tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    words = ("accuracy", bundle, "--data", labels, "--device", "fake", "--resamples", 5, "--csv", table, "--json")
    code, out, _ = run(*words)
    assert code == 0
    content = json.loads(out)
    assert content["intervals"]["resamples"] == 5
    assert content["most_detections_an_image_and_class"] == 300
    assert content["sets"][0]["bundle"]["coco"]["ap50"] == pytest.approx(1.0)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["labelled"] for row in rows] == ["2", "0", "3", "2"]
    assert [row["true_positives"] for row in rows] == ["2", "0", "3", "2"]
    assert [row["false_positives"] for row in rows] == ["1", "0", "0", "1"]
    assert rows[1]["median_centre_shift_px"] == ""
    assert json.loads(run(*words, "--force")[1])["sets"] == content["sets"]  # the same seed, the same figures


def test_accuracy_as_tables(bundle: Path, labels: Path, run: Run) -> None:
    code, out, _ = run("accuracy", bundle, "--data", labels, "--device", "fake", "--resamples", 5)
    assert code == 0
    assert "set/labels: COCO" in out
    assert "1.000 (1.000 … 1.000)" in out
    assert "sensitivity at false positives an image" in out


def test_an_image_that_cannot_be_read_fails_the_run_after_the_figures(bundle: Path, labels: Path, run: Run) -> None:
    (labels.parent / "0.png").write_bytes(b"cut off")
    words = ("accuracy", bundle, "--data", labels, "--device", "fake", "--resamples", 5)
    code, out, err = run(*words)
    assert code == 1
    assert "set/labels: COCO" in out
    assert "1 of 4 images were not read" in err
    code, out, _ = run(*words, "--strict")
    assert (code, out) == (2, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "nowhere.json"), "cannot be read"),
        (("--data", "set"), "unknown form"),
        (("--data", "{labels}", "--device", "warp"), "no such device"),
        (("--data", "{labels}", "--prompts", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--data", "{labels}", "--reference", "nowhere"), "nowhere"),
        (("--data", "{labels}", "--csv", "{labels}/inside.csv"), "cannot be written"),
    ],
)
def test_bad_input_is_told(words: tuple[str, ...], message: str, bundle: Path, labels: Path, run: Run) -> None:
    named = [word.format(labels=labels) for word in words]
    code, _, err = run(
        "accuracy", bundle, *named, "--resamples", 5, *(() if "--device" in words else ("--device", "fake"))
    )
    assert code == 2
    assert message in err


def test_without_a_reference_nothing_heavy_is_needed(bundle: Path, labels: Path) -> None:
    argv = [
        "medprompt",
        "bench",
        "accuracy",
        str(bundle),
        "--data",
        str(labels),
        "--device",
        "fake",
        "--resamples",
        "5",
    ]
    code = f"import sys\nsys.argv = {argv!r}\nfrom medprompt.cli import main\nmain()"
    assert "COCO" in python(BLOCKER.format(names=FORBIDDEN) + code)


def test_latency_of_the_engines_alone(bundle: Path, labels: Path, run: Run) -> None:
    words = ("latency", bundle, "--images", labels.parent, "--device", "fake", "--rounds", 3, "--max-images", 2)
    code, out, _ = run(*words, "--json")
    assert code == 0
    content = json.loads(out)
    assert set(content["rivals"]["bundle on fake"]["ratio"].values()) == {1.0}
    assert {"p50_ms", "p90_ms", "p99_ms", "max_ms", "first_ms", "load_ms"} <= set(content["rivals"]["bundle on fake"])
    assert content["images"] == 2
    code, out, _ = run(*words)
    assert code == 0
    assert "Where the time goes" in out


def test_what_died_on_the_way_is_told_at_the_end(
    bundle: Path, labels: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = latency_run.run_latency
    monkeypatch.setattr(
        latency_run, "run_latency", lambda *a, **k: replace(measured(*a, **k), failures={"openvino": "It\nbroke."})
    )
    code, out, err = run("latency", bundle, "--images", labels.parent, "--device", "fake", "--rounds", 2, "--json")
    assert code == 1
    assert json.loads(out)["died"] == {"openvino": "It\nbroke."}
    assert "openvino: It" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "nowhere"), "does not exist"),
        (("--images", "{folder}", "--autocast"), "no PyTorch to time"),
        (("--images", "{folder}", "--compile"), "no PyTorch to time"),
        (("--images", "{folder}", "--batches", "1,0"), "--batches"),
        (("--images", "{folder}", "--workers", "many"), "--workers"),
        (("--images", "{folder}", "--threads", "999"), "more threads than cores"),
        (("--images", "{folder}", "--device", "warp"), "no such device"),
        (("--images", "{folder}", "--reference", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_of_latency_is_told(
    words: tuple[str, ...], message: str, bundle: Path, labels: Path, run: Run
) -> None:
    named = [word.format(folder=labels.parent) for word in words]
    code, _, err = run("latency", bundle, *named, *(() if "--device" in words else ("--device", "fake")))
    assert code == 2
    assert message in err
