"""What a checkpoint's own image processor states, in the manifest's words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from PIL import Image

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import OwnSize, Preprocess

RESAMPLE_NAMES: Mapping[int, Literal["bilinear", "bicubic", "lanczos", "nearest"]] = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.LANCZOS: "lanczos",
    Image.Resampling.NEAREST: "nearest",
}
BACKENDS: Mapping[str, Literal["pillow", "torchvision"]] = {"pil": "pillow", "torchvision": "torchvision"}
"""transformers' name of an image processor's backend, and the manifest's."""

SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})
"""Kinds of sizes that are served, by what they state."""


SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_pad", "do_center_crop")
CHANNELS = 3


def check_settings(processor: Any) -> None:
    """Refuse settings of an image processor that mean nothing: transformers would fail on them, or take "false" for on.

    Raises:
        CheckpointError: A switch that is no boolean, a size that is no number of pixels, a mean, standard deviation or
            factor that is no number, or an image that is neither rescaled nor normalised: its levels stay integers.
    """
    faults = [*_switch_faults(processor), *_size_faults(processor), *_number_faults(processor)]
    if faults:
        raise CheckpointError(
            "The image processor has settings that mean nothing.",
            where="processor_config.json or preprocessor_config.json",
            expected="; ".join(expected for expected, _ in faults),
            got="; ".join(got for _, got in faults),
            fix="set them to what the model was trained with, or save its own processor beside it",
        )


def _switch_faults(processor: Any) -> Iterator[tuple[str, str]]:
    for name in SWITCHES:
        value = getattr(processor, name, None)
        if not isinstance(value, bool | None):
            yield f"{name}: true or false", f"{name}: {value!r}"
    if not (processor.do_rescale or processor.do_normalize):
        yield "do_rescale or do_normalize: true", "both off: the model would be given integers"


def _size_faults(processor: Any) -> Iterator[tuple[str, str]]:
    if not processor.size:
        yield "size: height and width, or edges", f"size: {processor.size!r}"
    for name, value in dict(processor.size or {}).items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield f"size.{name}: a number of pixels", f"size.{name}: {value!r}"


def _number_faults(processor: Any) -> Iterator[tuple[str, str]]:
    if processor.do_rescale and not _is_number(processor.rescale_factor, least=0.0):
        yield "rescale_factor: a number over 0", f"rescale_factor: {processor.rescale_factor!r}"
    if not processor.do_normalize:
        return
    for name, least in (("image_mean", -math.inf), ("image_std", 0.0)):
        value = getattr(processor, name)
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value] * CHANNELS
        if len(several) != CHANNELS or not all(_is_number(one, least) for one in several):
            yield f"{name}: {CHANNELS} numbers{' over 0' if least == 0 else ''}", f"{name}: {value!r}"


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > least


def _of_channels(value: Any) -> tuple[float, float, float]:
    """One number a channel; transformers takes a single one for all three."""
    first, second, third = value if isinstance(value, Sequence) else [value] * CHANNELS
    return (first, second, third)


def own_size_of(processor: Any) -> OwnSize:
    """An image processor's size in the manifest's words.

    Raises:
        CheckpointError: It is of a kind that is not served.
    """
    stated = dict(processor.size)
    if set(stated) not in SIZES:
        raise CheckpointError(
            "The image processor's size is of a kind that is not served.",
            where="processor_config.json: size",
            expected="height and width, shortest_edge and longest_edge, or max_height and max_width",
            got=", ".join(f"{name}: {value}" for name, value in stated.items()),
            fix="set the size in the processor's config, or choose image_size=HEIGHTxWIDTH",
        )
    return OwnSize(**stated)


def preprocess_of(processor: Any, size_hw: tuple[int, int]) -> Preprocess:
    """What an image processor states, where it makes images of ``size_hw``.

    Raises:
        CheckpointError: It does not resize, resamples with a filter that is not served, or crops or pads; see also
            ``check_settings``.
    """
    check_settings(processor)
    resample = RESAMPLE_NAMES.get(processor.resample)
    pads = bool(getattr(processor, "do_pad", False))
    stated = {
        "do_resize": bool(processor.do_resize),
        "resample": resample or f"{processor.resample}",
        "do_center_crop": bool(getattr(processor, "do_center_crop", False)),
        "pad_size": (getattr(processor, "pad_size", None) or None) if pads else None,
    }
    served = (True, resample, False, None)
    other = [name for name, one in zip(stated, served, strict=True) if stated[name] != one]
    if resample is None or other:
        raise CheckpointError(
            "The image processor does something else than resize, rescale and normalise.",
            where="processor_config.json or preprocessor_config.json",
            expected="do_resize on; resample nearest (0), lanczos (1), bilinear (2) or bicubic (3); no "
            "do_center_crop, no pad_size",
            got=", ".join(f"{name}: {stated[name]}" for name in other),
            fix="if these are not the settings that the model was trained with, set them right; else it cannot be "
            "served as it was trained",
        )
    rescales, normalises = processor.do_rescale, processor.do_normalize
    return Preprocess(
        size_hw=size_hw,
        resample=resample,
        backend=BACKENDS[processor.backend],
        rescale_factor=processor.rescale_factor if rescales else 1.0,
        mean=_of_channels(processor.image_mean) if normalises else (0.0, 0.0, 0.0),
        std=_of_channels(processor.image_std) if normalises else (1.0, 1.0, 1.0),
    )


def check_processor_size(processor: Any, size_hw: tuple[int, int]) -> None:
    """Refuse an image processor that makes images of another size than the model's.

    Raises:
        CheckpointError: It does.
    """
    stated = (processor.size.get("height"), processor.size.get("width"))
    if stated != size_hw:
        raise CheckpointError(
            "The image processor does not fit the model.",
            where="processor_config.json: size",
            expected="{}x{}".format(*size_hw),
            got="{}x{}".format(*stated),
            fix="save the processor that the model was trained with",
        )


def grounding_processor(
    tokenizer: Any,
    size: Mapping[str, int],
    mean: Sequence[float],
    std: Sequence[float],
    rescale_factor: float = 1 / 255,
) -> Any:
    """A processor of Grounding DINO's kind that resizes bilinearly with Pillow to ``size``.

    ``mean`` and ``std`` are of RGB levels 0 … 255 times ``rescale_factor``.
    """
    from transformers import GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    images = GroundingDinoImageProcessorPil(
        size=dict(size), rescale_factor=rescale_factor, image_mean=list(mean), image_std=list(std)
    )
    return GroundingDinoProcessor(images, tokenizer)
