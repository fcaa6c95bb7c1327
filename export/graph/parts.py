"""Where the two parts of a model lie, and what passes between them. Needs no torch, and onnx for a look alone."""

from __future__ import annotations

from pathlib import Path

from medprompt.bundles.load import part_names
from medprompt.core.errors import need_module
from medprompt.core.manifest import TensorSpec


def part_paths(path: Path) -> tuple[Path, Path]:
    """Where the parts of an ONNX file lie, whether they are there or not."""
    image, phrases = map(path.with_name, part_names(path.name))
    return image, phrases


def features_of_part(image: Path) -> tuple[TensorSpec, ...]:
    """What an image's part hands to the phrases', in order.

    Raises:
        EngineError: onnx is not installed.
    """
    need_module("onnx", "Compiling a model in two parts", "onnx", "export")
    from onnx import helper, load

    return tuple(
        TensorSpec.model_validate(
            {
                "name": value.name,
                "dtype": helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                "shape": [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
            }
        )
        for value in load(str(image), load_external_data=False).graph.output
    )
