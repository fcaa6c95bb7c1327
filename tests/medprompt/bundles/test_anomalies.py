"""Known anomalies: the list is sound, and applies to the versions it says."""

from __future__ import annotations

import pytest

from medprompt.bundles.anomalies import anomalies_of, known_anomalies


def test_each_is_reported_somewhere() -> None:
    found = known_anomalies()
    assert len({one.id for one in found}) == len(found) >= 7
    assert all(one.link.startswith("https://github.com/") for one in found)


@pytest.mark.parametrize(
    ("versions", "ids"),
    [
        ({"tensorrt": "11.1.0.106"}, {"tensorrt-4837", "tensorrt-4813", "torch-tensorrt-4074"}),
        ({"tensorrt-cu13": "10.13.3.9"}, {"tensorrt-4837", "tensorrt-4646"}),
        ({"tensorrt-cu12": "10.3.0"}, {"tensorrt-4837"}),
        ({"onnxruntime": "1.31.0"}, set()),
        ({"onnxruntime": "1.32.0"}, {"onnxruntime-telemetry"}),
        ({"numpy": "2.4.6"}, set()),
        ({"numpy": "2.4.6", "nvidia-pytriton": "0.7.0"}, {"triton-numpy-2"}),
        ({"numpy": "1.26.4", "nvidia-pytriton": "0.7.0"}, set()),
        ({"onnxruntime": "a build of ours"}, {"onnxruntime-telemetry"}),
        ({}, set()),
    ],
)
def test_they_apply_to_the_versions_that_have_them(versions: dict[str, str], ids: set[str]) -> None:
    assert {one.id for one in anomalies_of(versions)} == ids
