"""Traced graphs, kept for the whole run: tracing is most of what an export takes, and gives equal bytes each time.

That it does is shown in ``tests/export/graph``, whose tests trace anew. All other exports of an equal graph write what
the first one traced, also across the workers of pytest-xdist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx
from torch import Tensor, nn

from medprompt.core.files import sha256_of_file
from medprompt.export.graph.onnx_export import OnnxFacts, data_file, onnx_from_graph, write_onnx
from tests.shared import made_once

Export = Callable[..., OnnxFacts]


def keeping_traces(folder: Path) -> Export:
    """``onnx_from_graph`` that keeps its files in a folder, under a hash of all that they are made from."""

    def export(graph: nn.Module, inputs: Any, outputs: Any, path: Path, opset: int = 20) -> OnnxFacts:
        def trace(aside: Path) -> None:
            facts = onnx_from_graph(graph, inputs, outputs, aside / "model.onnx", opset)
            (aside / "facts.json").write_text(json.dumps(asdict(facts)))

        kept = made_once(folder / fingerprint(graph, inputs, outputs, opset), trace)
        write_onnx(onnx.load(str(kept / "model.onnx")), path)
        size = sum(file.stat().st_size for file in (path, data_file(path)) if file.exists())
        known = json.loads((kept / "facts.json").read_text())
        return OnnxFacts(**known | {"bytes": size, "sha256": sha256_of_file(path)})

    return export


def fingerprint(graph: nn.Module, inputs: Any, outputs: Any, opset: int) -> str:
    """A hash of every module: its type, the names of its methods (a test may have swapped one), all that it holds."""
    hashed = hashlib.sha256(repr((inputs, outputs, opset)).encode())
    for name, module in graph.named_modules():
        hashed.update(f"{name} {type(module)}".encode())
        for kind in type(module).__mro__:
            _hash([method for method in vars(kind).values() if isinstance(method, FunctionType)], hashed.update)
        _hash({key: value for key, value in vars(module).items() if key != "_modules"}, hashed.update)
    return hashed.hexdigest()[:32]


def _hash(value: Any, update: Callable[[bytes], None]) -> None:
    if isinstance(value, Tensor):
        update(f"{value.dtype} {tuple(value.shape)}".encode())
        update(value.detach().contiguous().cpu().numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            if key == "name_or_path":  # where the model was read from
                continue
            update(key.encode() if isinstance(key, str) else b"number")  # hooks are numbered by the process
            _hash(value[key], update)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for part in value:
            _hash(part, update)
    elif isinstance(value, set | frozenset):
        update(repr(sorted(map(repr, value))).encode())  # their own order is another one in each process
    elif isinstance(value, FunctionType):
        update(f"{value.__module__}.{value.__qualname__}".encode())
    elif type(value).__repr__ is object.__repr__:  # its text would be an address
        update(repr(type(value)).encode())
        _hash(getattr(value, "__dict__", {}), update)
    else:
        update(repr(value).encode())
