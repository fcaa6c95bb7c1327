"""INT8 with explicit Q/DQ nodes, calibrated on the user's own images through the Detector's own preprocessing.

ONNX Runtime's static quantiser chooses the scales: symmetric int8, weights by output channel, activations by tensor
from the least and greatest value seen. Only the inputs of convolutions and of products with a constant weight are
quantised; attention products, norms and all else stay fp32. This is the form that TensorRT reads as explicit
quantisation.

FP8 is not offered: ONNX Runtime's quantiser writes FP8 scales from the spread of values (a mean and a standard
deviation), without calibrated ranges, and its CPU has no FP8 product, so that nothing here could measure the result.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from medprompt.bundle import Bundle
from medprompt.errors import MedpromptError
from medprompt.export.golden import ParityImages
from medprompt.export.precision.blocks import Blocks
from medprompt.export.precision.measure import ModelDetector

QUANTISED_OPS = ("MatMul", "Conv")

MOST_CALIBRATION_IMAGES = 64
"""Ranges hardly widen after a few dozen images, and the calibrator keeps every tensor's range of each."""


class Quantised:
    """A model with all its weighted products quantised, from which any choice of blocks can be made.

    Args:
        model: The fp32 model (ONNX), weights loaded.
        blocks: Its blocks.
        quantised: The same model as ONNX Runtime quantised it.
    """

    def __init__(self, model: Any, blocks: Blocks, quantised: Any) -> None:
        self._model = model
        self._blocks = blocks
        self._nodes = {node.name: node for node in quantised.graph.node}
        self._makers = {name: node for node in quantised.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in quantised.graph.initializer}

    def with_blocks(self, chosen: frozenset[str]) -> Any:
        """The fp32 model in which the products of the chosen blocks read int8.

        Args:
            chosen: Names of blocks.
        """
        nodes: list[Any] = []
        made: set[str] = set()
        for node, block in zip(self._model.graph.node, self._blocks.of_node, strict=True):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if block in chosen and node.op_type in QUANTISED_OPS and node.name in self._nodes:
                copy.input[:] = self._nodes[node.name].input
                for name in copy.input:
                    nodes.extend(self._way_to(name, made))
            nodes.append(copy)
        return self._complete(nodes)

    @property
    def products(self) -> dict[str, bool]:
        """Whether each product, by node name, reads int8 on both sides."""
        return {
            node.name: all(self._is_dequantised(name) for name in self._nodes[node.name].input[:2])
            for node in self._model.graph.node
            if node.op_type in QUANTISED_OPS and node.name in self._nodes
        }

    def _is_dequantised(self, name: str) -> bool:
        return name in self._makers and self._makers[name].op_type == "DequantizeLinear"

    def _way_to(self, name: str, made: set[str]) -> Iterator[Any]:
        """The Q and DQ nodes before a tensor, each once."""
        maker = self._makers.get(name)
        if maker is None or name in made or maker.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return
        made.add(name)
        yield from self._way_to(maker.input[0], made)
        yield maker

    def _complete(self, nodes: list[Any]) -> Any:
        read = {name for node in nodes for name in node.input}
        graph = self._model.graph
        own = {tensor.name: tensor for tensor in graph.initializer}
        constants = [tensor for name, tensor in {**self._constants, **own}.items() if name in read]
        done = helper.make_graph(nodes, graph.name, graph.input, graph.output, constants)
        return helper.make_model(done, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def quantised_model(model: Any, blocks: Blocks, bundle: Bundle, images: ParityImages) -> Quantised:
    """Calibrate on images and quantise every weighted product outside the fixed blocks.

    Args:
        model: The bundle's fp32 model (ONNX), weights loaded.
        blocks: Its blocks.
        bundle: The bundle, whose detector prepares the images.
        images: What to calibrate on; at most ``MOST_CALIBRATION_IMAGES`` of them are read.

    Raises:
        MedpromptError: Nothing could be quantised.
    """
    names = [
        node.name
        for node, block in zip(model.graph.node, blocks.of_node, strict=True)
        if node.op_type in QUANTISED_OPS and block in blocks.free
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        _quantise(bundle, images, names, path)
        found = Quantised(model, blocks, onnx.load(str(path)))
    if not any(found.products.values()):
        raise MedpromptError(
            "The model has no product that int8 could serve.",
            where=str(bundle.path),
            fix="use --precision auto instead",
        )
    return found


def _quantise(bundle: Bundle, images: ParityImages, names: Sequence[str], path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger to preprocess the model
    try:
        with ModelDetector(bundle, bundle.model) as detector:
            quantize_static(
                str(bundle.model),
                str(path),
                _Feeds(detector, images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED_OPS),
                nodes_to_quantize=list(names),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "MatMulConstBOnly": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(QUANTISED_OPS),
                },
            )
    finally:
        logging.getLogger().setLevel(level)


class _Feeds:
    """ONNX Runtime's calibration reader over a detector's own inputs."""

    def __init__(self, detector: ModelDetector, images: ParityImages) -> None:
        self._detector = detector
        step = max(1, -(-len(images) // MOST_CALIBRATION_IMAGES))
        self._images = (image for place, image in enumerate(images) if place % step == 0)

    def get_next(self) -> dict[str, Any] | None:
        """The next image's inputs; None at the end."""
        image = next(self._images, None)
        return None if image is None else self._detector.feeds([image])
