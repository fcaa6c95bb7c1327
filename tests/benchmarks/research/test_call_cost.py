"""What a call costs beside the engine: every case answers, and what the engine resizes is handed to it uncopied."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medprompt.benchmarks.research.call_cost import FULL_HD, call_cost, cases
from tests.runtime.bundles import make_bundle


def test_every_case_is_measured(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert set(call_cost(bundle, 1)) == {"own size", "1080p", "1080p, engine"}
    *_, (_, detector, size_hw) = cases(bundle)
    frame = np.zeros((*size_hw, 3), np.uint8)
    assert size_hw == FULL_HD and np.shares_memory(detector.image_feeds([frame])["image"], frame)
