"""FP8 (E4M3) from a calibrated int8 model: the same Q and DQ nodes, the same calibrated ranges, another grid.

int8 spreads its 255 values evenly over a range; E4M3 has three bits of mantissa wherever a value lies, so outliers cost
less and everything else a little more. A range [-a, a] that int8 divides by 127 is scaled to E4M3's greatest number,
448. Weights are rounded from the fp32 model's own, not from their int8 form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

INT8_TOP = 127.0
FP8_TOP = 448.0
"""Greatest finite number of E4M3 (the variant without infinities, as ONNX and NVIDIA's GPUs have it)."""

MIN_OPSET = 19
"""Operator set since which Q and DQ know FP8."""

WEIGHT_SUFFIX = "_quantized"
"""What ONNX Runtime's quantiser adds to the name of a weight."""


def fp8_model(int8: Any, fp32: Any) -> Any:
    """Change every Q/DQ pair of an int8 model to FP8.

    ``int8`` is as ONNX Runtime's static quantiser wrote it, symmetric; ``fp32`` is what it was made from.
    """
    made = onnx.ModelProto()
    made.CopyFrom(int8)
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    weights = {tensor.name: tensor for tensor in fp32.graph.initializer}
    for name, array in _on_fp8_grid(made, held, weights):
        held[name].CopyFrom(numpy_helper.from_array(array, name))
    return made


def _on_fp8_grid(model: Any, held: dict[str, Any], weights: dict[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each scale, zero point and weight of a Q or DQ node once, by name."""
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source, scale_name, zero_name = node.input
        scale = numpy_helper.to_array(held[scale_name])
        if scale_name not in seen:
            scale = (scale * (INT8_TOP / FP8_TOP)).astype(scale.dtype)
            yield scale_name, scale
            yield zero_name, np.zeros_like(scale, dtype=ml_dtypes.float8_e4m3fn)
            seen.add(scale_name)
        if source in held and source not in seen:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            yield source, _rounded_weight(weights[source.removesuffix(WEIGHT_SUFFIX)], scale, axis)
            seen.add(source)


def _rounded_weight(weight: Any, scale: NDArray[Any], axis: int) -> NDArray[Any]:
    values = numpy_helper.to_array(weight)
    shape = [-1 if index == axis % values.ndim else 1 for index in range(values.ndim)]
    scaled = values / (scale.reshape(shape) if scale.ndim else scale)
    rounded: NDArray[Any] = np.clip(scaled, -FP8_TOP, FP8_TOP).astype(ml_dtypes.float8_e4m3fn)
    return rounded
