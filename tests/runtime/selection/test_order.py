"""Which engine is chosen, and that every device passed over is named with its reason."""

from __future__ import annotations

import pytest

from medprompt.core.errors import EngineError
from medprompt.core.manifest import EngineRecord
from medprompt.runtime import engines
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.selection.order import choose_engine
from tests.runtime.bundles import make_manifest, record


class Absent(Fake):
    package = "quickml"
    extra = "quick"

    @classmethod
    def available(cls) -> str:
        return "quickml is not installed"


class Unfit(Fake):
    @classmethod
    def available(cls) -> str:
        return "this CPU does not compute bfloat16"


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.ENGINES, "slow", "medprompt.runtime.engines.fake:Fake")
    monkeypatch.setitem(engines.ENGINES, "absent", f"{__name__}:Absent")
    monkeypatch.setitem(engines.ENGINES, "unfit", f"{__name__}:Unfit")


@pytest.mark.parametrize(
    ("records", "device", "rejected"),
    [
        pytest.param([record("fake", 5), record("slow", 9)], "fake", [], id="fastest first"),
        pytest.param([record("slow", 9), record("fake", 5)], "fake", [], id="order of records does not matter"),
        pytest.param([record("slow", None), record("fake", 5)], "fake", [], id="unmeasured is last"),
        pytest.param([record("slow", None)], "slow", [], id="unmeasured serves"),
        pytest.param(
            [record("unfit", 1), record("absent", 2), record("slow", 9)],
            "slow",
            [("unfit", "this CPU does not compute bfloat16"), ("absent", "quickml is not installed")],
            id="two steps down",
        ),
        pytest.param(
            [record("fake", 1, passed=False, reason="kept 50 %"), record("slow", 9)],
            "slow",
            [("fake", "its parity failed at export: kept 50 %")],
            id="failed parity is never chosen",
        ),
        pytest.param(
            [record("fake", 1, passed=False), record("slow", 9)],
            "slow",
            [("fake", "its parity failed at export: kept 50.00% of the decisions")],
            id="failed parity without a reason",
        ),
        pytest.param(
            [record("fake", None, passed=None, reason="no bf16 there"), record("slow", 9)],
            "slow",
            [("fake", "its parity was not measured at export: no bf16 there")],
            id="unmeasured parity is never chosen",
        ),
        pytest.param(
            [record("quantum", 1), record("slow", 9)],
            "slow",
            [("quantum", "this medprompt does not know it")],
            id="a device of a newer medprompt",
        ),
    ],
)
def test_auto(records: list[EngineRecord], device: str, rejected: list[tuple[str, str]]) -> None:
    choice = choose_engine(make_manifest(engines=tuple(records)))
    assert choice.device == device
    assert list(choice.rejected) == rejected
    assert "parity proven at export" in choice.reason


def test_the_reason_tells_of_steps_down() -> None:
    choice = choose_engine(make_manifest(engines=(record("unfit", 1), record("slow", 9))))
    assert choice.reason == (
        "fastest device with parity proven at export (9.0 ms an image there), "
        "after 1 faster that cannot run here: unfit"
    )


@pytest.mark.parametrize(
    ("records", "got"),
    [
        ([], "the manifest records no engine"),
        ([record("absent")], "absent: quickml is not installed"),
        ([record("fake", passed=False, reason="drift")], "fake: its parity failed at export: drift"),
        ([record("unfit"), record("fake", passed=None)], "fake: its parity was not measured at export"),
    ],
)
def test_auto_without_a_proven_engine_is_refused(records: list[EngineRecord], got: str) -> None:
    with pytest.raises(EngineError, match="No engine that was proven") as caught:
        choose_engine(make_manifest(engines=tuple(records)))
    assert got in caught.value.got


def test_strict_refuses_a_step_down_but_not_an_unproven_neighbour() -> None:
    down = make_manifest(engines=(record("unfit", 1), record("slow", 9)))
    with pytest.raises(EngineError, match="strict=True") as caught:
        choose_engine(down, strict=True)
    assert (caught.value.expected, caught.value.got) == ("unfit", "this CPU does not compute bfloat16")
    level = make_manifest(engines=(record("fake", 1, passed=False), record("slow", 9)))
    assert choose_engine(level, strict=True).device == "slow"


def test_a_named_device() -> None:
    manifest = make_manifest(engines=(record("fake", 5), record("slow", 1)))
    choice = choose_engine(manifest, "fake", strict=True)
    assert (choice.device, choice.rejected) == ("fake", ())
    assert choice.reason == "asked for; parity with PyTorch passed at export (5.0 ms an image there)"


def test_a_named_device_without_proof_says_so() -> None:
    assert choose_engine(make_manifest(), "fake").reason == "asked for; its parity was not measured at export"
    with pytest.raises(EngineError, match="not proven"):
        choose_engine(make_manifest(), "fake", strict=True)


@pytest.mark.parametrize(
    ("device", "message", "fix"),
    [
        ("absent", "device=absent needs quickml", "pip install 'medprompt[quick]'"),
        ("unfit", "cannot run here", "device=auto"),
        ("failed", "parity with PyTorch failed", "device=auto"),
        ("quantum", "no such device", ""),
        ("", "no such device", ""),
    ],
)
def test_a_named_device_that_cannot_serve(monkeypatch: pytest.MonkeyPatch, device: str, message: str, fix: str) -> None:
    monkeypatch.setitem(engines.ENGINES, "failed", "medprompt.runtime.engines.fake:Fake")
    manifest = make_manifest(engines=(record("failed", passed=False),))
    with pytest.raises(EngineError, match=message) as caught:
        choose_engine(manifest, device)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_the_list_of_devices_hides_the_fake_one() -> None:
    with pytest.raises(EngineError) as caught:
        engine_class("gpu")
    assert "ort-cpu" in caught.value.expected
    assert "fake" not in caught.value.expected


@pytest.mark.parametrize(
    ("images", "device", "words"),
    [
        (None, "slow", "fastest device with parity"),  # a detector that stays loaded
        (1, "fake", "for 1 image, loading included"),
        (50, "slow", "for 50 images, loading included"),
    ],
)
def test_loading_counts_where_the_work_is_known(images: int | None, device: str, words: str) -> None:
    records = [
        record("fake", 10.0).model_copy(update={"load_ms": 100.0}),
        record("slow", 5.0).model_copy(update={"load_ms": 300.0}),
    ]
    choice = choose_engine(make_manifest(engines=tuple(records)), images=images)
    assert choice.device == device
    assert words in choice.reason


def test_a_bundle_that_does_not_know_loading_times_is_judged_by_latency() -> None:
    records = (record("fake", 10.0).model_copy(update={"load_ms": 1.0}), record("slow", 5.0))
    assert choose_engine(make_manifest(engines=records), images=1).device == "slow"
