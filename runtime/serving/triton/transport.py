"""Tensors between Triton's Python backend and numpy, and the proof at load that they arrive as they were sent.

A Python backend that was built before numpy 2 (Triton 2.52 and older; python_backend's pull request 384 mended it)
misreads numpy 2's item size. ``as_numpy()`` then fills an array with its first byte, and an output loses its bytes. No
error says so: the model finds nothing in a constant image. DLPack is right everywhere, but has no texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.runtime.serving.contract import IMAGE, INPUTS

Utils = Any
"""Triton's module ``triton_python_backend_utils``, which exists within its Python backend only."""


def check_transport(utils: Utils) -> None:
    """Refuse a backend in which a known array does not arrive as it was sent.

    Raises:
        EngineError: It does not.
    """
    sent = np.arange(251, dtype=np.uint8)
    # The capsule is Triton's own: of numpy's, it would print an error that is none.
    received = utils.Tensor.from_dlpack("received", utils.Tensor("sent", sent).to_dlpack())
    if not (np.array_equal(received.as_numpy(), sent) and np.array_equal(np.from_dlpack(received), sent)):
        raise EngineError(
            "Triton's Python backend garbles arrays: it was built for another numpy.",
            where="triton_python_backend_utils",
            expected="numpy 1, or a backend that knows numpy 2",
            got=f"numpy {np.__version__}",
            fix="pip install 'numpy<2' in the backend's environment, or take Triton 24.12 or newer",
        )


def arrays_of_request(utils: Utils, request: Any) -> dict[str, NDArray[Any]]:
    """The inputs that a request has, by name: pixels where they lie, files as ``bytes`` in an array of objects."""
    tensors = {name: utils.get_input_tensor_by_name(request, name) for name in INPUTS}
    return {
        name: tensor.as_numpy() if name == IMAGE else host_array(tensor)
        for name, tensor in tensors.items()
        if tensor is not None
    }


def host_array(tensor: Any) -> NDArray[Any]:
    """A tensor that is no text, without a copy, through DLPack."""
    array: NDArray[Any] = np.from_dlpack(tensor)
    return array


def tensors_of_arrays(utils: Utils, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Arrays for Triton. Through the constructor: DLPack has no texts, and numpy's capsules make it print errors."""
    return [utils.Tensor(name, np.ascontiguousarray(array)) for name, array in arrays.items()]
