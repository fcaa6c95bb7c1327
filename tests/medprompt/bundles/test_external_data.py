"""The reader of external-data locations against files by the onnx package, and against crafted bytes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from medprompt.bundles.external_data import external_locations
from medprompt.core.errors import BundleError


def external(name: str, location: str) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(name: str, *nodes: Any, weights: tuple[Any, ...] = ()) -> Any:
    return helper.make_graph(list(nodes), name, [], [], list(weights))


def in_attribute(field: str) -> Any:
    """A model whose only external tensor lies in a node's attribute, by each of the ways the schema has."""
    node = helper.make_node("Constant", [], ["x"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    tensor = external("t", "w.data")
    sparse = onnx.SparseTensorProto(values=tensor)
    {
        "t": lambda: attribute.t.CopyFrom(tensor),
        "tensors": lambda: attribute.tensors.append(tensor),
        "g": lambda: attribute.g.CopyFrom(graph("g", weights=(tensor,))),
        "graphs": lambda: attribute.graphs.append(graph("g", weights=(tensor,))),
        "sparse_tensor": lambda: attribute.sparse_tensor.CopyFrom(sparse),
        "sparse_tensors": lambda: attribute.sparse_tensors.append(sparse),
    }[field]()
    return node


def model_of(place: str) -> Any:
    tensor = external("t", "w.data")
    model = helper.make_model(graph("main"))
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "sparse values":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor))
    elif place == "sparse indices":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(indices=tensor))
    elif place == "function node":
        model.functions.add(name="f").node.append(in_attribute("t"))
    elif place == "function default":
        model.functions.add(name="f").attribute_proto.add(name="a").t.CopyFrom(tensor)
    elif place == "training":
        model.training_info.add().algorithm.initializer.append(tensor)
    elif place == "training start":
        model.training_info.add().initialization.initializer.append(tensor)
    elif place == "nested":
        inner = helper.make_node("If", ["c"], ["y"])
        inner.attribute.add(name="then_branch").g.CopyFrom(graph("inner", in_attribute("g")))
        model.graph.node.append(inner)
    else:
        model.graph.node.append(in_attribute(place.removeprefix("attribute ")))
    return model


PLACES = [
    "initializer",
    "sparse values",
    "sparse indices",
    "function node",
    "function default",
    "training",
    "training start",
    "nested",
    *(f"attribute {f}" for f in ("t", "tensors", "g", "graphs", "sparse_tensor", "sparse_tensors")),
]


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_the_schema_is_searched(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(place).SerializeToString())
    assert external_locations(path) == ("w.data",)


def test_the_schema_has_no_other_place_for_a_tensor() -> None:
    """A later onnx that adds one fails here, so that the table is extended."""
    found: set[tuple[str, int]] = set()

    def walk(descriptor: Any) -> bool:
        """Whether a tensor can lie below; collects the fields that lead there."""
        if descriptor.name == "TensorProto":
            return True
        if descriptor.name in seen:
            return seen[descriptor.name]
        seen[descriptor.name] = descriptor.name in ("GraphProto", "AttributeProto", "NodeProto")
        for field in descriptor.fields:
            if field.message_type is not None and walk(field.message_type):
                seen[descriptor.name] = True
                found.add((descriptor.name.removesuffix("Proto").removesuffix("Info"), field.number))
        return seen[descriptor.name]

    from medprompt.bundles.external_data import SCHEMA

    seen: dict[str, bool] = {}
    walk(onnx.ModelProto.DESCRIPTOR)
    ours = {(name, number) for name, fields in SCHEMA.items() for number in fields if name != "Tensor"}
    assert found == ours


def test_a_saved_model_with_external_weights(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.ones((64, 64), np.float32), f"w{i}") for i in range(3)]
    model = helper.make_model(graph("main", weights=tuple(weights)))
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert external_locations(tmp_path / "m.onnx") == ("m.onnx.data",)


def test_weights_inside_mean_no_location(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    inside = numpy_helper.from_array(np.ones(8, np.float32), "location")  # the word as a name is no location
    path.write_bytes(helper.make_model(graph("location", weights=(inside,))).SerializeToString())
    assert external_locations(path) == ()


def length_delimited(field: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([field << 3 | 2, len(content)]) + content


def test_doubled_fields_do_not_hide_a_location(tmp_path: Path) -> None:
    """Protobuf readers take the last of doubled fields and join doubled messages; every one is reported."""
    entry = (
        length_delimited(1, b"location")
        + length_delimited(2, b"good.data")
        + length_delimited(2, b"/etc/shadow")
        + length_delimited(1, b"other")
    )
    first = length_delimited(7, length_delimited(5, length_delimited(13, entry)))
    second = length_delimited(7, length_delimited(5, length_delimited(13, entry.replace(b"good", b"evil"))))
    (tmp_path / "m.onnx").write_bytes(first + second)
    assert external_locations(tmp_path / "m.onnx") == ("good.data", "/etc/shadow", "evil.data")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"location\xff",
        bytes([7 << 3 | 2, 100]) + b"location",
        bytes([7 << 3 | 3]) + b"location",
        bytes([0]) + b"location",
        b"\x80" * 11 + b"location",
        length_delimited(
            7, length_delimited(5, length_delimited(13, length_delimited(1, b"location") + b"\x12\x01\xff"))
        ),
    ],
    ids=["empty", "noise", "too short", "group", "field 0", "endless number", "not text"],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="not a readable ONNX file"):
        external_locations(tmp_path / "m.onnx")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    content = length_delimited(5, length_delimited(13, length_delimited(1, b"location")))
    for _ in range(25):  # three messages a level
        node = helper.make_node("If", ["c"], ["y"])
        node.attribute.add(name="g").g.CopyFrom(onnx.GraphProto.FromString(content))
        content = onnx.GraphProto(node=[node]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(onnx.ModelProto(graph=onnx.GraphProto.FromString(content)).SerializeToString())
    with pytest.raises(BundleError, match="not a readable ONNX file"):
        external_locations(tmp_path / "m.onnx")


@given(content=st.binary(max_size=200))
def test_any_bytes_end_in_an_answer_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("wire") / "m.onnx"
    path.write_bytes(b"location" + content)
    with suppress(BundleError):
        assert isinstance(external_locations(path), tuple)
