"""Memory of a whole infer: a real process on the fake engine."""

from __future__ import annotations

import pytest

from medprompt.benchmarks.latency.processes import peak_of_infer
from medprompt.core.errors import MedpromptError
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_image


def test_a_process_of_its_own_is_measured(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    images = [write_image(tmp_path / f"{name}.png", LEVELS[0]) for name in ("a", "b")]
    assert 20 < peak_of_infer(bundle, "fake", images, 1) < 500


def test_a_process_that_fails_says_why(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(MedpromptError, match="manifest"):
        peak_of_infer(bundle, "fake", [write_image(tmp_path / "a.png", LEVELS[0])], 1)
