"""The rounding twin: what a half device stores, computed on any CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from medprompt.export.precision.blocks import blocks_of_model
from medprompt.export.precision.cast import NUMPY_TYPES, naive_model, typed_model
from medprompt.export.precision.simulated_half import simulated_half_model
from tests.export.precision.conftest import TinyModel
from tests.export.precision.test_cast import node, scores, small


def run(model: Any, x: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array(x, dtype=np.float32)})[0]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("x", [[1.0, 0.1], [300.0, -0.3], [1e-6, 3e4]])
def test_rounds_after_every_node_as_numpy_does(kind: str, x: list[float]) -> None:
    model = small([node("Mul", "x c", "a"), node("Mul", "a c", "b"), node("Sub", "b d", "y")], {"c": [1.7], "d": [0.3]})
    half = NUMPY_TYPES[kind]
    one, c, d = (np.array(v, dtype=np.float32).astype(half) for v in (x, [1.7], [0.3]))
    with np.errstate(over="ignore"):
        wanted = ((one * c) * c - d).astype(np.float32)
    twin = simulated_half_model(naive_model(model, blocks_of_model(model, {"core": "all"}), kind))
    np.testing.assert_array_equal(run(twin, x), wanted)


def test_overflow_is_infinite() -> None:
    model = small([node("Mul", "x c", "a"), node("Div", "a c", "y")], {"c": [100.0]})
    twin = simulated_half_model(naive_model(model, blocks_of_model(model, {"core": "all"})))
    assert run(twin, [1000.0, 10.0]).tolist() == [np.inf, 10.0]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_every_familys_twin_runs(every: TinyModel, kind: str) -> None:
    twin = simulated_half_model(typed_model(every.model, every.blocks, dict.fromkeys(every.blocks.free, kind)))
    onnx.checker.check_model(twin, full_check=True)
    found, exact = scores(twin, every.feeds), scores(every.model, every.feeds)
    assert np.isfinite(found).all()
    assert not np.array_equal(found, exact)


def test_fp16_is_closer_than_bf16(owl: TinyModel) -> None:
    exact = scores(owl.model, owl.feeds)
    errors = {
        kind: np.abs(
            scores(
                simulated_half_model(typed_model(owl.model, owl.blocks, dict.fromkeys(owl.blocks.free, kind))),
                owl.feeds,
            )
            - exact
        ).mean()
        for kind in ("fp16", "bf16")
    }
    assert 0 < errors["fp16"] < errors["bf16"] / 4 < 0.01
