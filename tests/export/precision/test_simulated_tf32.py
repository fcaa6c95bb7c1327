"""Products with operands of 10 bits of mantissa, computed on any CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from medprompt.export.precision.cast import typed_model
from medprompt.export.precision.simulated_half import simulated_half_model
from medprompt.export.precision.simulated_tf32 import rounded_to_tf32, tf32_model
from tests.export.precision.conftest import TinyModel
from tests.export.precision.graphs import graph
from tests.export.precision.test_cast import node, scores, small
from tests.export.precision.test_simulated_half import run

STEP = 2.0**-10


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1.0, 1.0),
        (1 + STEP, 1 + STEP),
        (1 + STEP / 4, 1.0),
        (1 + 0.75 * STEP, 1 + STEP),
        (1 + STEP / 2, 1.0),  # ties to even
        (1 + 1.5 * STEP, 1 + 2 * STEP),
        (-3 - STEP, -3.0),
        (65504.0, 65504.0),  # all that fp16 holds stays
        (6.5e-5, float(np.float16(6.5e-5))),  # fp16's normal numbers have as many digits
        (0.0, 0.0),
    ],
)
def test_ten_bits_of_mantissa_stay(value: float, wanted: float) -> None:
    assert rounded_to_tf32(np.array([value], np.float32))[0] == np.float32(wanted)


def test_both_operands_of_a_product_are_rounded_and_sums_are_not() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(1, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    nodes = [node("Add", "x c", "a"), node("Gemm", "a w c", "y")]
    model = graph(nodes, {"c": [0.1234567], "w": weights[:, None]}, {"x": (1, 64)}, "y")
    before = model.SerializeToString()
    rounded = tf32_model(model)
    c = np.float32(0.1234567)
    wanted = rounded_to_tf32(x + c).astype(np.float64) @ rounded_to_tf32(weights) + c
    np.testing.assert_allclose(run(rounded, x).ravel(), wanted, rtol=0, atol=2e-6)
    assert abs(run(model, x).ravel() - wanted).max() > 1e-4
    assert model.SerializeToString() == before


def test_half_products_stay_as_they_are(owl: TinyModel) -> None:
    """fp16 has no more digits than TF32: where all products are half, nothing changes."""
    half = simulated_half_model(typed_model(owl.model, owl.blocks, dict.fromkeys(owl.blocks.free, "fp16")))
    np.testing.assert_array_equal(scores(tf32_model(half), owl.feeds), scores(half, owl.feeds))


def test_every_familys_model_with_tf32_runs(every: TinyModel) -> None:
    rounded = tf32_model(every.model)
    onnx.checker.check_model(rounded, full_check=True)
    found, exact = scores(rounded, every.feeds), scores(every.model, every.feeds)
    assert np.isfinite(found).all()
    assert not np.array_equal(found, exact)


def test_products_of_quantised_values_are_not_rounded() -> None:
    nodes: list[Any] = [node("DequantizeLinear", "q s", "a"), node("MatMul", "a a", "y")]
    model = small([node("QuantizeLinear", "x s", "q"), *nodes], {"s": [0.01]})
    assert [one.op_type for one in tf32_model(model).graph.node] == ["QuantizeLinear", "DequantizeLinear", "MatMul"]
