"""Loading a detector: which engine, which prompts, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import BankError, EngineError, InputError
from medprompt.prompts.bank import save_bank
from medprompt.runtime import Detector, EngineChoice, engines
from tests.runtime.bundles import BOXES_XYXY, make_bank, make_bundle, make_folder, record
from tests.runtime.scripted import Scripted, image, script


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("made") / "bundle", engines=(record("fake"),))


@pytest.mark.parametrize("threads", [0, -1])
def test_a_thread_count_under_one_is_refused(bundle: Bundle, threads: int) -> None:
    with pytest.raises(InputError, match="thread count"):
        Detector.load(bundle, device="fake", threads=threads)


def test_load_chooses_and_serves(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="Nothing proves"):
        Detector.load(bundle.path, device="ort-cpu")
    with Detector.load(bundle.path, device="ort-cpu", threshold=0.5, threads=1, self_test=False) as detect:
        found = detect(image(20, 40))
    # Scores of the stated graph on a white image: 0.6, 1.2, 1.8 for the first three queries.
    assert found.scores.tolist() == pytest.approx([1.8, 1.2, 0.6])
    expected = BOXES_XYXY[[2, 1, 0]] * np.array([40, 20, 40, 20], np.float32)
    np.testing.assert_allclose(found.boxes_xyxy, expected, rtol=1e-6)
    assert detect.choice == EngineChoice("ort-cpu", "asked for; its parity was not measured at export")
    assert detect.bundle.sha256 == load_bundle(bundle.path).sha256


def test_load_serves_another_bank_or_a_part(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    other = make_bank([{"label": "polyp", "phrases": ["pink bump"]}])
    save_bank(other, tmp_path / "other.safetensors")

    def first(**changes: Any) -> Detections:
        with Detector.load(bundle, device="ort-cpu", threshold=0.0, threads=1, self_test=False, **changes) as detect:
            return detect(image())

    assert first(prompts=tmp_path / "other.safetensors").labels == ("polyp",)
    assert first(prompts=other).scores[0] == pytest.approx(0.6)
    part = first(labels=["WBC"])
    assert (part.labels, part.phrases, part.scores[0]) == (("WBC",), ("white cell",), pytest.approx(1.8))
    turned = first(labels=["WBC", "RBC"])
    assert turned.labels == ("WBC", "RBC")
    best = next(turned.rows())
    assert (best["label"], best["phrase"], best["score"]) == ("WBC", "white cell", pytest.approx(1.8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": make_bank(encoder="f" * 16)}, "another text encoder"),
        ({"prompts": make_bank(pooling="mean")}, "pools the phrases"),
        ({"labels": ["platelet"]}, "does not have these classes"),
        ({"labels": []}, "does not have these classes"),
        ({"prompts": Path("absent.safetensors")}, "cannot be read"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(bundle: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BankError, match=message):
        Detector.load(bundle, device="fake", **changes)


def test_a_refused_bank_closes_the_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = script([])
    monkeypatch.setattr(Scripted, "open", classmethod(lambda cls, model, threads: engine))
    monkeypatch.setitem(engines.ENGINES, "scripted", f"{__name__}:Scripted")
    with pytest.raises(BankError):
        Detector.load(bundle, device="scripted", prompts=make_bank(pooling="mean"), self_test=False)
    assert engine.closed == 1


def test_an_engine_is_told_how_many_requests_to_compute_at_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(Scripted, "open", classmethod(lambda cls, model, threads: told.append(model.at_once) or cls()))
    monkeypatch.setitem(engines.ENGINES, "scripted", f"{__name__}:Scripted")
    for options in ({}, {"at_once": 2}):
        Detector.load(bundle, device="scripted", self_test=False, **options)
    assert told == [1, 2]
    with pytest.raises(InputError, match="out of range"):
        Detector.load(bundle, at_once=0)


def test_auto_takes_what_the_manifest_proved(bundle: Bundle) -> None:
    with Detector.load(bundle) as detect:
        assert detect.choice.device == "fake"
        assert detect(image()).scores.tolist() == pytest.approx([1, 1, 1, 1])


def test_strict_and_unproven(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bundle")
    with pytest.raises(EngineError, match="not proven"):
        Detector.load(folder, device="fake", strict=True)


def test_several_banks_are_merged_and_the_old_keyword_warns(bundle: Bundle, tmp_path: Path) -> None:
    other = make_bank([{"label": "polyp", "phrases": ["pink bump"]}])
    other.save(tmp_path / "other.safetensors")
    with Detector.load(bundle, prompts=[make_bank(), str(tmp_path / "other.safetensors")]) as detect:
        assert detect.bank.labels == ("RBC", "WBC", "polyp")
    with Detector.load(bundle, prompts=[]) as detect:
        assert detect.bank is bundle.bank
    with pytest.warns(DeprecationWarning, match="prompts="), Detector.load(bundle, bank=other) as detect:
        assert detect.bank is other
