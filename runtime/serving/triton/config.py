"""``config.pbtxt``: what Triton must know of a model, in the text form of its ``ModelConfig``.

Source: github.com/triton-inference-server/common, ``protobuf/model_config.proto``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from medprompt.core.manifest import Manifest, TensorSpec
from medprompt.runtime.serving.contract import INPUTS, outputs_of

BUNDLE, GRAPH, THREADS, PRECISION = "bundle", "graph", "threads", "precision"
"""Parameters of our model, beside those of the contract: the bundle's folder, the model that computes the graph where
it is another one, the engine's threads, the graph's precision."""

BANK_FOLDER = "banks"
"""Of the model's version: its prompt banks, under their own names."""

MAX_QUEUED = 256
"""Requests that wait; more are refused at once, so that nobody waits for an answer that comes too late."""

DTYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
"""Triton's names of the graph's dtypes."""


def detector_config(name: str, max_batch: int, parameters: Mapping[str, str], manifest: Manifest) -> str:
    """The model that clients ask: the contract's tensors, each without its batch axis, which ``max_batch_size`` adds.

    One instance: it answers one batch at a time with all threads of its engine.
    """
    lines = [
        f"name: {_quoted(name)}",
        'backend: "python"',
        f"max_batch_size: {max_batch}",
        *(_tensor("input", key, _protocol_dtype(of), shape[1:], INPUT) for key, (of, shape) in INPUTS.items()),
        *(_tensor("output", key, _protocol_dtype(of), shape[1:]) for key, (of, shape) in outputs_of(manifest).items()),
        "instance_group { count: 1 kind: KIND_MODEL }",
        f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {MAX_QUEUED} }} }}",
        *(
            f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(parameters[key])} }} }}"
            for key in parameters
        ),
    ]
    return "\n".join(lines) + "\n"


INPUT = " optional: true allow_ragged_batch: true"
"""A request has one of the inputs; requests of several sizes wait together."""


def graph_config(name: str, backend: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> str:
    """The model that computes the graph, as the manifest states its tensors; ``backend`` onnxruntime or tensorrt."""
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        "max_batch_size: 0",
        *(_tensor("input", spec.name, DTYPES[spec.dtype], _sizes(spec)) for spec in inputs),
        *(_tensor("output", spec.name, DTYPES[spec.dtype], _sizes(spec)) for spec in outputs),
    ]
    return "\n".join(lines) + "\n"


def _sizes(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in spec.shape]


def _protocol_dtype(name: str) -> str:
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"


def _tensor(kind: str, name: str, dtype: str, sizes: Sequence[int], more: str = "") -> str:
    dims = ", ".join(map(str, sizes))
    return f"{kind} {{ name: {_quoted(name)} data_type: {dtype} dims: [{dims}]{more} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
