"""The fuzzer itself: it makes the same file again, and it finds what it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.benchmarks.research import fuzz
from medprompt.benchmarks.research.fuzz import Reading, read, read_number, run_range
from medprompt.benchmarks.research.fuzz_inputs import CHANGES, Original, mutated, originals
from tests.runtime.bundles import make_folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("fuzz") / "bundle")


@pytest.fixture(scope="module")
def known(bundle: Path) -> list[Original]:
    return originals(bundle)


def test_every_original_is_read(known: list[Original], tmp_path: Path) -> None:
    outcomes = {one.name: read(one.placed(one.content, tmp_path), one.kind) for one in known}
    assert set(outcomes.values()) <= {"ok", "warned"}, outcomes


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 20])
def test_changes_keep_to_the_seed_and_never_fail(content: bytes) -> None:
    data = np.frombuffer(content, np.uint8)
    for change in CHANGES:
        change(data, 0, np.random.default_rng(0))
    assert data.tobytes() == content
    for number in range(50):
        assert mutated(content, np.random.default_rng(number)) == mutated(content, np.random.default_rng(number))


def test_a_few_hundred_files_hold_no_finding(known: list[Original], tmp_path: Path) -> None:
    readings = [read_number(number, 1, known, tmp_path) for number in range(12 * len(known))]
    assert [one for one in readings if one.finding and not one.finding.endswith(" s")] == []
    assert {"ok", "refused"} <= {one.outcome for one in readings}


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        (lambda path: (_ for _ in ()).throw(TypeError("no size")), "fault: TypeError: no size"),
        (lambda path: (_ for _ in ()).throw(SystemExit()), "fault: SystemExit"),
    ],
)
def test_what_is_no_error_of_ours_is_a_finding(
    wrong: Callable[[Path], Any], finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fuzz.READERS, "image", wrong)
    assert (Reading(0, "", "", read(tmp_path, "image"), 0.0).finding or "").startswith(finding)


def test_slow_and_half_whole_are_findings_and_memory_is_none() -> None:
    assert Reading(0, "", "", "ok", 6.0).finding == "6.0 s"
    assert Reading(0, "", "", "ok", 0.0, strict=False).finding
    assert Reading(0, "", "", "memory", 0.0).finding is None


def test_a_worker_reads_a_range(bundle: Path) -> None:
    found, peak = run_range(bundle, 0, 3, 6)
    assert [one.number for one in found] == [3, 4, 5]
    assert 50 < peak < 3000
