"""The golden file: a few images and what PyTorch decided on them, for the self-test on the serving device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError
from medprompt.core.files import atomic_write
from medprompt.core.masks import Masks
from medprompt.prompts.bank import PromptBank

DTYPES = {"image": "uint8", "boxes_xyxy": "float32", "scores": "float32", "class_ids": "int64", "phrase_ids": "int64"}

OBJECT = ("object",)
"""The one class, and phrase, of boxes that were given and not found: of what a segmenter is proven on."""

RUNS, RUNS_EACH = "mask_runs", "mask_runs_each"
"""Where there are masks: their run lengths (see ``medprompt.core.runs``) one after the other, and how many each has."""


@dataclass(frozen=True)
class GoldenImage:
    """One image of the self-test, uint8 ``[H, W, 3]``, and PyTorch's detections in it."""

    image_rgb: NDArray[np.uint8]
    reference: Detections


def save_golden(path: Path, images: Sequence[NDArray[np.uint8]], references: Sequence[Detections]) -> None:
    """Write images, uint8 ``[H, W, 3]`` each, and their reference detections as safetensors.

    Raises:
        ValueError: Not one reference an image.
    """
    from safetensors.numpy import save

    arrays = {}
    for index, (image, reference) in enumerate(zip(images, references, strict=True)):
        values = (image, reference.boxes_xyxy, reference.scores, reference.class_ids, reference.phrase_ids)
        for (name, dtype), value in zip(DTYPES.items(), values, strict=True):
            arrays[f"{name}.{index}"] = np.ascontiguousarray(value, dtype=dtype)
        if reference.masks is not None:
            runs = reference.masks.runs
            arrays[f"{RUNS}.{index}"] = np.concatenate([np.zeros(0, dtype=np.int64), *runs])
            arrays[f"{RUNS_EACH}.{index}"] = np.array([len(one) for one in runs], dtype=np.int64)
    with atomic_write(Path(path)) as aside:
        aside.write_bytes(save(arrays))


def load_golden(path: Path, bank: PromptBank | None) -> tuple[GoldenImage, ...]:
    """Read a golden file; the bundle's own bank names the classes and phrases, and None all as ``OBJECT``.

    Raises:
        BundleError: The file is missing, damaged, or does not fit the bank.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        count = sum(name.startswith("image.") for name in arrays)
        names = (bank.labels, bank.prompts.texts) if bank else (OBJECT, OBJECT)
        return tuple(_golden_image(arrays, index, names) for index in range(count))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BundleError(
            "The golden images cannot be read.", where=str(path), got=str(error), fix="export the bundle again"
        ) from error


def _golden_image(
    arrays: dict[str, NDArray[Any]], index: int, names: tuple[tuple[str, ...], tuple[str, ...]]
) -> GoldenImage:
    image, boxes, scores, class_ids, phrase_ids = (
        arrays[f"{name}.{index}"].astype(dtype) for name, dtype in DTYPES.items()
    )
    height, width, _ = image.shape
    masks = _masks(arrays, index, (height, width))
    return GoldenImage(image, Detections(boxes, scores, class_ids, phrase_ids, *names, (height, width), masks=masks))


def _masks(arrays: dict[str, NDArray[Any]], index: int, size_hw: tuple[int, int]) -> Masks | None:
    if f"{RUNS}.{index}" not in arrays:
        return None
    ends = np.cumsum(arrays[f"{RUNS_EACH}.{index}"])
    return Masks(tuple(np.split(arrays[f"{RUNS}.{index}"], ends)[:-1]), size_hw)
