"""Whole audits of a real graph, whose text encoder is known to read, not to, or in part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medprompt.benchmarks.audit import report as report_module
from medprompt.benchmarks.audit.report import PromptAudit, audit_prompts
from medprompt.benchmarks.regression.limits import Limits
from medprompt.benchmarks.release.results import result_of
from medprompt.bundles.attached import attach_report, attached_reports
from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import BankError, DataError, ImageError
from medprompt.data import read_detection_set
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts
from medprompt.prompts.wording import Wording
from tests.benchmarks.audit.readers import (
    LABELS,
    SIDE,
    Encoder,
    bank_of,
    by_heart,
    half_reading,
    ignoring,
    reading,
    write_bundle,
    write_images,
)
from tests.runtime.bundles import BOXES_XYXY
from tests.shared import Cli

Audits = Callable[[Encoder], tuple[Path, PromptAudit]]

WORDS = Wording(
    filler=("a long day",),
    absent=("bicycle",),
    synonyms={"red": ("crimson",), "blue": ("azure",), "disc": ("circle",), "ring": ("hoop",)},
).over(Wording())


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("drawn") / "set")


@pytest.fixture(scope="module")
def audits(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Audits:
    """The bundle and audit of an encoder, made once."""

    @cache
    def made(encoder: Encoder) -> tuple[Path, PromptAudit]:
        folder = tmp_path_factory.mktemp("audit")
        with pytest.MonkeyPatch.context() as patch:
            return folder / "bundle", audit(folder, labels, encoder, patch)

    return made


def audit(folder: Path, labels: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, **more: Any) -> PromptAudit:
    """With a checkpoint that stands for the encoder."""
    monkeypatch.setattr(report_module, "encoder_of_checkpoint", lambda *_: lambda prompts: bank_of(encoder, prompts))
    more = {"checkpoint": Path("checkpoint"), "words": WORDS, "resamples": 40, **more}
    return audit_prompts(write_bundle(folder / "bundle", encoder), [read_detection_set(str(labels))], **more)


@pytest.mark.parametrize(
    ("encoder", "verdicts"),
    [
        (reading, ["reads", "reads", "reads"]),
        (ignoring, ["ignores", "ignores", "ignores"]),
        (half_reading, ["partly", "reads", "partly"]),
        (by_heart, ["partly", "partly", "partly"]),
    ],
)
def test_verdicts_follow_what_the_encoder_does(encoder: Encoder, verdicts: list[str], audits: Audits) -> None:
    _, found = audits(encoder)
    assert [str(one.reading) for one in found.verdicts] == verdicts, [one.why for one in found.verdicts]
    assert str(found.reading) == (verdicts[0] if len(set(verdicts)) == 1 else "partly")
    assert found.unclear == ()


def test_figures_are_what_the_graph_answers(audits: Audits) -> None:
    (entry,) = audits(half_reading)[1].sets
    disc = entry.verdicts[0]
    assert (disc.images, disc.boxes) == (12, 12)
    assert disc.own["score"].value == pytest.approx(0.8)
    left = {(q.kind, q.name): figures["left"].value for q, figures in disc.changes.items()}
    assert left["exchanged", "red ring"] == 1.0
    assert left["exchanged", "blue disc"] == 0.0
    assert left["synonyms", "way 1"] == 1.0
    assert left["negated", "no"] == 1.0
    score = {q.name: figures["score"].value for q, figures in disc.changes.items() if q.kind == "exchanged"}
    assert score["blue disc"] == pytest.approx(-0.8)
    # Every class of this graph answers for itself, so company changes nothing: no class loses boxes to another.
    beside = {name: share for (kind, name), share in left.items() if kind == "beside"}
    assert beside == {"all others": 1.0, "all others but red ring": 1.0, "all others but blue disc": 1.0}
    # Of 12 images without a red disc, 12 show a red ring at the same phrase: two reports each, at 0.8.
    assert disc.own["false_reports"].value == 2.0


class Company:
    """Finds red rings where blue discs are asked for too, and everything else wherever it is asked for."""

    choice = SimpleNamespace(device="company")

    def __init__(self, bank: PromptBank) -> None:
        self.bank = bank

    def share(self, *, prompts: PromptBank) -> Company:
        return Company(prompts)

    def __call__(self, image: Any) -> Detections:
        boxes, labels = np.array(BOXES_XYXY[: len(LABELS)], np.float32) * SIDE, self.bank.labels
        scores = [0.8 * (label != "red ring" or "blue disc" in labels or len(labels) == 1) for label in labels]
        ids = np.arange(len(labels))
        places = boxes[[LABELS.index(label) for label in labels]]
        return Detections(places, np.array(scores, np.float32), ids, ids, labels, self.bank.texts, (SIDE, SIDE))

    def __enter__(self) -> Company:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...


def test_a_class_that_needs_company_is_told(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = SimpleNamespace(load=lambda loaded, *_, **more: Company(loaded.bank))
    monkeypatch.setattr(report_module, "Detector", load)
    monkeypatch.setattr(report_module, "reporting_thresholds", lambda labels, _: [0.3] * len(labels))
    found = audit(tmp_path, labels, reading, monkeypatch)
    for verdict in found.verdicts:
        left = {q.name: figures["left"].value for q, figures in verdict.changes.items() if q.kind == "beside"}
        lost = {name for name, share in left.items() if share < 1}
        assert lost == ({"all others but blue disc"} if verdict.label == "red ring" else set()), verdict.label
    table = next(one for one in found.tables() if "less what" in one.title)
    assert any(row[1] == "beside: all others but blue disc" for row in table.rows)
    left = next(one for one in found.tables() if "what is left" in one.title)
    for verdict in found.verdicts:
        kinds = {question.kind for question in verdict.changes}
        assert {row[1] for row in left.rows if row[0] == verdict.label} == kinds


def test_without_a_checkpoint_only_banks_are_asked_and_the_rest_is_named(labels: Path, tmp_path: Path) -> None:
    sets = [read_detection_set(str(labels))]
    bicycle = Prompts.model_validate({"classes": [{"label": "bicycle", "phrases": ["bicycle"]}]})
    known = audit_prompts(write_bundle(tmp_path / "a", reading), sets, absent=[bank_of(reading, bicycle)], resamples=40)
    assert {str(one.reading) for one in known.verdicts} == {"no verdict"}
    assert "synonyms" in known.unclear[0]
    kinds = {question.kind for one in known.verdicts for question in one.changes}
    assert kinds == {"exchanged", "absent", "beside"}
    assert {one.kind for _, one in known.sets[0].unasked} == {
        "filler",
        "empty",
        "synonyms",
        "negated",
        "shuffled",
        "translated",
    }
    deaf = audit_prompts(write_bundle(tmp_path / "b", ignoring), sets, resamples=40)
    assert str(deaf.reading) == "ignores"
    other = replace(bank_of(reading, bicycle), encoder="another encoder")
    with pytest.raises(BankError, match="another text encoder"):
        audit_prompts(tmp_path / "a", sets, absent=[other], resamples=40)


def test_few_images_give_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = write_images(tmp_path / "set", count=12)
    found = audit(tmp_path, labels, ignoring, monkeypatch)
    assert [str(one.reading) for one in found.verdicts] == ["no verdict", "no verdict", "no verdict"]
    assert found.unclear[0] == "red disc: too few images: 6 have the class, 10 are needed"


def test_a_class_that_is_not_found_has_no_verdict(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = audit(tmp_path, labels, lambda text: [0.0, 0.0, 0.9 * ("ring" in text)], monkeypatch)
    assert found.unclear[0].startswith("red disc: its own phrases find too little: AP50 ")


def test_a_damaged_image_is_listed_or_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = write_images(tmp_path / "set", count=3)
    (tmp_path / "set" / "1.png").write_bytes(b"no picture")
    assert audit(tmp_path, labels, reading, monkeypatch).unread[0].startswith("1.png: ")
    with pytest.raises(ImageError):
        audit(tmp_path / "strict", labels, reading, monkeypatch, strict=True)
    for number in (0, 2):
        (tmp_path / "set" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="No image of the data set can be read"):
        audit(tmp_path / "none", labels, reading, monkeypatch)


def test_a_report_is_attached_and_shown_in_a_release(audits: Audits, tmp_path: Path) -> None:
    folder, found = audits(ignoring)
    bundle = load_bundle(shutil.copytree(folder, tmp_path / "bundle"))
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(found.as_json(), allow_nan=False))
    attach_report(bundle, path)
    ((_, entry, about),) = attached_reports(bundle)
    assert entry.kind == "prompts"
    shown = result_of(entry.kind, about, bundle, Limits())
    assert shown.outcome == "measured"
    assert shown.tables[0].title == "set/labels: does it read its prompts? ignores"
    assert [row[1] for row in shown.tables[0].rows] == ["ignores"] * len(LABELS)


def test_the_command_prints_json_and_ends_with_4_without_a_verdict(labels: Path, tmp_path: Path, cli: Cli) -> None:
    bundle = write_bundle(tmp_path / "bundle", reading)
    code, out, err = cli("bench", "prompts", bundle, "--data", labels, "--resamples", "20", "--json")
    assert code == 4
    assert json.loads(out)["verdict"] == "no verdict"
    assert "--checkpoint" in err
    deaf = write_bundle(tmp_path / "deaf", ignoring)
    code, out, _ = cli("bench", "prompts", deaf, "--data", labels, "--resamples", "20")
    assert code == 0
    assert "does it read its prompts? ignores" in out
