"""Images a second: what is called how often, on the fake engine."""

from __future__ import annotations

from functools import partial

import pytest

from medprompt.benchmarks.latency.throughput import measure_throughput
from medprompt.images.read import load_image
from medprompt.runtime.detector import Detector
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_image


@pytest.mark.parametrize(
    ("batches", "workers", "calls", "single"),
    [
        ((1, 2, 4), (), {1: 7, 2: 4, 4: 2}, 0),  # each once more than 6 images take: the first is not timed
        ((8,), (), {8: 2}, 0),  # more than are wanted: one call
        ((), (1, 2), {1: 15}, (1 + 6) + (2 + 6)),  # one image is a batch of one
        ((), (), {}, 0),
    ],
)
def test_every_way_detects_in_as_many_images(batches, workers, calls, single, tmp_path, monkeypatch):
    images = [load_image(write_image(tmp_path / f"{n}.png", levels)) for n, levels in enumerate(LEVELS)]
    sizes, alone, batch, call = [], [], Detector.batch, Detector.__call__
    monkeypatch.setattr(Detector, "batch", lambda self, *given: (sizes.append(len(given[0])), batch(self, *given))[1])
    monkeypatch.setattr(Detector, "__call__", lambda self, image: (alone.append(1), call(self, image))[1])
    load = partial(Detector.load, fake_bundle(tmp_path / "bundle"), "fake")
    found = measure_throughput(load, images, batches=batches, workers=workers, count=6)
    assert {size: sizes.count(size) for size in set(sizes)} == calls
    assert len(alone) == single
    assert all(rate > 0 for rate in (*found.by_batch.values(), *found.by_workers.values()))
    assert len(found.row()) == len(found.columns()) == 1 + len(batches) + len(workers)
    assert found.as_json()["device"] == "fake"
