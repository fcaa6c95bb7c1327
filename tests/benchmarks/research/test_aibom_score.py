"""The AIBOM score: nothing is nothing, and a bundle whose papers are complete lies over the published mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medprompt.benchmarks.research.aibom_score import score
from medprompt.bundles.bill import BILL_FILE
from medprompt.core.manifest import About
from tests.papers import complete_bundle

pytestmark = pytest.mark.research


def test_what_is_stated_counts(tmp_path: Path) -> None:
    assert score({"metadata": {}, "components": [{}]})[0] == 0
    whole, bare = (
        json.loads((complete_bundle(tmp_path / name, **changes).path / BILL_FILE).read_text())
        for name, changes in (("whole", {}), ("bare", {"about": About()}))
    )
    for old in (False, True):
        assert score(whole, told=True, old=old)[0] > 54 > 0
        assert score(whole, told=True, old=old)[0] > score(bare, told=True, old=old)[0]
