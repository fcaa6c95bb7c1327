"""Triton's Python backend as a model sees it, in this process; also the one that garbles numpy 2's arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Tensor:
    """``pb_utils.Tensor``. What C++ makes of memory is garbled where ``garbles``, as of numpy 2 in Triton 2.51:
    a copy filled with its first byte."""

    garbles: ClassVar[bool] = False

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        self._name, self.memory, self._array = name, array, array

    @classmethod
    def from_dlpack(cls, name: str, capsule: Tensor | NDArray[Any]) -> Tensor:
        memory = capsule.memory if isinstance(capsule, Tensor) else capsule
        tensor = cls(name, memory)
        if cls.garbles:
            tensor._array = np.full_like(memory, memory.flat[0])
        return tensor

    def name(self) -> str:
        return self._name

    def to_dlpack(self) -> Tensor:
        return self

    def as_numpy(self) -> NDArray[Any]:
        return self._array

    def __dlpack__(self, **settings: Any) -> Any:
        return self.memory.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return self.memory.__dlpack_device__()


class TritonError(Exception):
    INVALID_ARG, INTERNAL = 400, 500

    def __init__(self, text: str, code: int = 500) -> None:
        super().__init__(text)
        self.code = code

    def message(self) -> str:
        return str(self)


class Request:
    """A request that came over the wire."""

    def __init__(self, parameters: Mapping[str, str] | None = None, **arrays: NDArray[Any]) -> None:
        self.tensors = {name: Tensor.from_dlpack(name, array) for name, array in arrays.items()}
        self._parameters = json.dumps(parameters) if parameters else ""

    def parameters(self) -> str:
        return self._parameters


class Response:
    def __init__(self, tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.tensors, self._error = {one.name(): one for one in tensors or ()}, error

    def arrays(self) -> dict[str, NDArray[Any]]:
        assert self._error is None, self._error
        return {name: one.memory for name, one in self.tensors.items()}

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError:
        assert self._error is not None
        return self._error


class Backend:
    """``triton_python_backend_utils``; ``graph`` answers requests to other models."""

    TRITONSERVER_MEMORY_CPU = 0
    InferenceResponse = Response
    TritonError = TritonError

    def __init__(self, graph: Callable[[str, Arrays], Arrays] | None = None, *, garbles: bool = False) -> None:
        self.Tensor: type[Tensor] = type("Tensor", (Tensor,), {"garbles": garbles})
        self._graph = graph

    @staticmethod
    def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
        return request.tensors.get(name)

    @staticmethod
    def get_output_tensor_by_name(response: Response, name: str) -> Tensor | None:
        return response.tensors.get(name)

    @staticmethod
    def PreferredMemory(kind: int, number: int) -> tuple[int, int]:  # Triton's name
        return kind, number

    def InferenceRequest(  # Triton's name
        self, *, model_name: str, requested_output_names: list[str], inputs: list[Tensor], preferred_memory: Any
    ) -> Any:
        graph = self._graph
        assert graph is not None

        class Inner:
            def exec(self) -> Response:
                try:
                    outputs = graph(model_name, {one.name(): one.memory for one in inputs})
                except ValueError as error:
                    return Response(error=TritonError(str(error)))
                return Response([Tensor(name, outputs[name]) for name in requested_output_names])

        return Inner()
