"""The graph computed by another backend of the same Triton, asked through the Python backend's business logic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.core.manifest import TensorSpec
from medprompt.runtime.engines.base import Engine, check_names
from medprompt.runtime.serving.triton.transport import Utils, host_array, tensors_of_arrays


class TritonGraph(Engine):
    """A model of ONNX Runtime or TensorRT that this Triton serves.

    Args:
        utils: See ``Utils``.
        name: The model's name in the repository.
        inputs, outputs: The graph's as in the manifest.
    """

    def __init__(
        self, utils: Utils, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self._utils, self._name, self._outputs = utils, name, [spec.name for spec in outputs]
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inputs}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        check_names("Triton", self._dtypes, feeds)
        request = self._utils.InferenceRequest(
            model_name=self._name,
            requested_output_names=self._outputs,
            inputs=tensors_of_arrays(self._utils, {n: np.asarray(a, self._dtypes[n]) for n, a in feeds.items()}),
            preferred_memory=self._utils.PreferredMemory(self._utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise EngineError("Triton could not compute the graph.", where=self._name, got=response.error().message())
        tensors = {name: self._utils.get_output_tensor_by_name(response, name) for name in self._outputs}
        return {name: np.array(host_array(tensor)) for name, tensor in tensors.items() if tensor is not None}

    def close(self) -> None:
        """Triton owns the graph."""
