"""INT8 and FP8 with explicit Q/DQ nodes, calibrated on the user's own images through the Detector's own preprocessing.

ONNX Runtime's static quantiser chooses the scales: symmetric int8, weights by output channel, activations by tensor
from the least and greatest value seen. Only the inputs of convolutions and of products with a constant weight are
quantised; attention products, norms and all else stay fp32. This is the form that TensorRT reads as explicit
quantisation.

FP8 takes its ranges from the int8 calibration (see ``medprompt.export.precision.fp8``): ONNX Runtime's quantiser would
write FP8 scales from the mean and the spread of values. Its CPU rounds to FP8 and multiplies in fp32, which is what
tensor cores do but for the order of sums.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import helper

from medprompt.bundles.load import Bundle
from medprompt.core.errors import MedpromptError
from medprompt.export.parity.images import ParityImages
from medprompt.export.precision.blocks import Blocks
from medprompt.export.precision.fp8 import fp8_model
from medprompt.export.precision.measure import ModelDetector

Feeds = dict[str, Any]
"""The graph's inputs by name."""

QUANTISED_OPS = ("MatMul", "Conv")

MAX_CALIBRATION_IMAGES = 64
"""Ranges hardly widen after a few dozen images, and the calibrator keeps every tensor's range of each."""


class Quantised:
    """A model with all its weighted products quantised, from which any choice of blocks can be made."""

    def __init__(self, model: Any, blocks: Blocks, quantised: Any) -> None:
        self._model = model
        self._blocks = blocks
        self._nodes = {node.name: node for node in quantised.graph.node}
        self._makers = {name: node for node in quantised.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in quantised.graph.initializer}

    def with_blocks(self, chosen: frozenset[str]) -> Any:
        """The fp32 model in which the products of the chosen blocks read the lower type."""
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
        """Whether each product, by node name, reads the lower type on both sides."""
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


def quantised_model(
    model: Any, blocks: Blocks, path: Path, feeds: Iterable[Feeds], kind: Literal["int8", "fp8"] = "int8"
) -> Quantised:
    """Calibrate on images and quantise every weighted product outside the fixed blocks.

    ``path`` is the fp32 model's file, ``feeds`` the graph's inputs for each image, see ``calibration_feeds``.

    Raises:
        MedpromptError: Nothing could be quantised.
    """
    names = [
        node.name
        for node, block in zip(model.graph.node, blocks.of_node, strict=True)
        if node.op_type in QUANTISED_OPS and block in blocks.free
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        _quantise(path, feeds, names, made)
        int8 = onnx.load(str(made))
    found = Quantised(model, blocks, fp8_model(int8, model) if kind == "fp8" else int8)
    if not any(found.products.values()):
        raise MedpromptError(
            f"The model has no product that {kind} could serve.", where=str(path), fix="pass precision=auto instead"
        )
    return found


def calibration_feeds(bundle: Bundle, images: ParityImages) -> Iterator[Feeds]:
    """What a bundle's own detector makes of images, at most ``MAX_CALIBRATION_IMAGES`` of them, spread evenly."""
    step = max(1, -(-len(images) // MAX_CALIBRATION_IMAGES))
    with ModelDetector(bundle, bundle.model) as detector:
        yield from (detector.feeds([image]) for index, image in enumerate(images) if index % step == 0)


def _quantise(path: Path, feeds: Iterable[Feeds], names: Sequence[str], made: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger to preprocess the model
    try:
        quantize_static(
            str(path),
            str(made),
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED_OPS),
            nodes_to_quantize=list(names),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                # TensorRT's explicit quantisation has no zero points.
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                # Products of two activations (attention) stay fp32.
                "MatMulConstBOnly": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(QUANTISED_OPS),
            },
        )
    finally:
        logging.getLogger().setLevel(level)


class _Reader:
    """ONNX Runtime's calibration reader."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        """The next image's inputs; None at the end."""
        return next(self._feeds, None)
