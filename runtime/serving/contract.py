"""What goes over the wire, the same for `medprompt serve`, Triton and the client: tensors by name.

A request asks about B images. It has exactly one of the inputs, and may have parameters, each a string; the answer has
all outputs. N is the most detections of any of its images; past an image's own number scores are 0 and texts empty.

========================  =======  ===============  ===================================================================
``image``                 BYTES    ``[B, 1]``       files as they lie on disk: JPEG, PNG, DICOM, …; base64 in JSON
``pixels``                UINT8    ``[B, H, W, 3]`` RGB
------------------------  -------  ---------------  -------------------------------------------------------------------
``num_detections``        INT32    ``[B, 1]``
``boxes``                 FP32     ``[B, N, 4]``    left, top, right, bottom in source pixels
``scores``                FP32     ``[B, N]``       0 … 1, best first
``labels``, ``phrases``   BYTES    ``[B, N]``       UTF-8
``masks``                 BYTES    ``[B, N]``       of bundles that make masks: COCO's run lengths as JSON, UTF-8
========================  =======  ===============  ===================================================================

An image that cannot be read is an error of the request, which says which image and why; it never has zero detections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.manifest import Manifest
from medprompt.core.masks import Masks
from medprompt.core.text import reason

IMAGE, PIXELS = "image", "pixels"

INPUTS = {IMAGE: ("BYTES", (-1, 1)), PIXELS: ("UINT8", (-1, -1, -1, 3))}
"""Datatype and shape of each input, as metadata states them."""

OUTPUTS = {
    "num_detections": ("INT32", (-1, 1)),
    "boxes": ("FP32", (-1, -1, 4)),
    "scores": ("FP32", (-1, -1)),
    "labels": ("BYTES", (-1, -1)),
    "phrases": ("BYTES", (-1, -1)),
}
"""Datatype and shape of each output, as metadata states them."""

MASKS = "masks"
"""One more output, of bundles that make masks: ``{"size": [h, w], "counts": "…"}`` of each detection."""


def outputs_of(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Datatype and shape of each output of a bundle."""
    return OUTPUTS if manifest.postprocess.mask_threshold is None else OUTPUTS | {MASKS: ("BYTES", (-1, -1))}


OWN_BANK = "bundle"
"""The name by which every server knows the bundle's own prompts."""

BUNDLE_SHA256, ENGINE, VERSION, BANKS = "bundle_sha256", "engine", "medprompt", "banks"
"""What a model's metadata says of itself, under ``parameters``: strings, the last a JSON list of names. Triton says
them in the model's configuration."""

WARNINGS = "warnings"
"""A parameter of an answer, where a server gives it: a JSON list of each image's remarks, see ``Detections``."""


@dataclass(frozen=True)
class Asked:
    """A request's parameters.

    Attributes:
        bank: Name or file name of a bank that the server was started with; its first where None.
        phrases: Ask with these phrases alone: a list, or lists by label. Classes without one are not looked for.
        threshold: Least score of every class; each class's own where None.
        frame: Which frame of a DICOM file, from 1. A file of several needs it.
    """

    bank: str | None = None
    phrases: tuple[str, ...] | Mapping[str, tuple[str, ...]] | None = None
    threshold: float | None = None
    frame: int | None = None

    def as_parameters(self) -> dict[str, str]:
        """As a request carries them."""
        given = {
            "bank": self.bank,
            "phrases": None if self.phrases is None else json.dumps(self.phrases, ensure_ascii=False),
            "threshold": None if self.threshold is None else repr(float(self.threshold)),
            "frame": None if self.frame is None else str(self.frame),
        }
        return {name: text for name, text in given.items() if text is not None}


PARAMETERS = ("bank", "phrases", "threshold", "frame")


def asked_from_parameters(parameters: Mapping[str, Any]) -> Asked:
    """Read a request's parameters; numbers may be JSON's, and phrases a JSON list or object.

    Raises:
        InputError: A parameter that is not known, or cannot be read. A misspelt one must not be passed over: the
            answer would be to another question.
    """
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise InputError("This parameter is not known.", expected=", ".join(PARAMETERS), got=", ".join(unknown))
    bank, phrases = parameters.get("bank"), parameters.get("phrases")
    return Asked(
        None if bank in (None, "") else _text("bank", bank),
        None if phrases in (None, "") else _phrases(phrases),
        _threshold(parameters.get("threshold")),
        _frame(parameters.get("frame")),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError("A parameter cannot be read.", where=name, expected="a string", got=type(value).__name__)
    return value


def _phrases(value: Any) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and found and all(map(_are_texts, found.values())):
        return {str(label): tuple(texts) for label, texts in found.items()}
    if _are_texts(found):
        return tuple(found)
    expected = 'a JSON list of phrases, or an object of lists by label, such as {"polyp": ["pink bump"]}'
    raise InputError("The phrases cannot be read.", where="phrases", expected=expected, got=type(found).__name__)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, str) for one in value)


def _threshold(value: Any) -> float | None:
    if value in (None, ""):
        return None
    number = _number(value)
    if not 0 <= number <= 1:
        raise InputError("The threshold is out of range.", where="threshold", expected="0 … 1", got=f"{number:g}")
    return number


def _frame(value: Any) -> int | None:
    if value in (None, ""):
        return None
    number = _number(value)
    if not (number >= 1 and number.is_integer()):
        raise InputError("There is no such frame.", where="frame", expected="a number from 1", got=f"{number:g}")
    return int(number)


def _number(value: Any) -> float:
    """NaN where it is none, which no range holds."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


@dataclass(frozen=True)
class Found:
    """What was found in one image.

    Attributes:
        boxes_xyxy: float32 ``[N, 4]``, left, top, right, bottom in source pixels.
        scores: float32 ``[N]``, best first.
        labels: Class name of each.
        phrases: Phrase that answered, of each.
        masks: Its pixels, of each: COCO's run lengths as JSON; None where the bundle makes no masks.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    phrases: tuple[str, ...]
    masks: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def detections(self, labels: Sequence[str], phrases: Sequence[str], size_hw: tuple[int, int]) -> Detections:
        """As a detector answers, under these classes and phrases, for an image of this size in pixels.

        Raises:
            InputError: A class or a phrase that is not among them, or masks that are none of the image's.
        """
        ids = _places(self.labels, labels, "class"), _places(self.phrases, phrases, "phrase")
        masks = None if self.masks is None else _masks(self.masks, size_hw)
        return Detections(self.boxes_xyxy, self.scores, *ids, tuple(labels), tuple(phrases), size_hw, masks=masks)


def _masks(texts: Sequence[str], size_hw: tuple[int, int]) -> Masks:
    try:
        return Masks.of_rle([json.loads(text) for text in texts], size_hw)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_answer(MASKS, f"run lengths of {list(size_hw)} pixels", reason(error)) from error


def _places(texts: Sequence[str], known: Sequence[str], what: str) -> NDArray[np.int64]:
    places = {text: place for place, text in enumerate(known)}
    unknown = sorted(set(texts) - set(places))
    if unknown:
        raise InputError(
            f"The server names a {what} that the bundle does not have.",
            expected=", ".join(known),
            got=", ".join(map(repr, unknown)),
            fix="serve this bundle",
        )
    return np.array([places[text] for text in texts], dtype=np.int64)


def outputs_from_detections(found: Sequence[Detections]) -> dict[str, NDArray[Any]]:
    """The outputs that say what was found in each image of a request; texts as ``bytes`` in arrays of objects."""
    count, most = len(found), max(map(len, found), default=0)
    boxes, scores = np.zeros((count, most, 4), np.float32), np.zeros((count, most), np.float32)
    labels, phrases = np.full((count, most), b"", object), np.full((count, most), b"", object)
    for row, one in enumerate(found):
        boxes[row, : len(one)], scores[row, : len(one)] = one.boxes_xyxy, one.scores
        labels[row, : len(one)] = [one.labels[index].encode() for index in one.class_ids]
        phrases[row, : len(one)] = [one.phrases[index].encode() for index in one.phrase_ids]
    numbers = np.array([[len(one)] for one in found], np.int32).reshape(count, 1)
    outputs = {"num_detections": numbers, "boxes": boxes, "scores": scores, "labels": labels, "phrases": phrases}
    if any(one.masks is not None for one in found):
        outputs[MASKS] = np.full((count, most), b"", object)
        for row, one in enumerate(found):
            outputs[MASKS][row, : len(one)] = [json.dumps(mask["segmentation"]).encode() for mask in one.rows()]
    return outputs


def found_from_outputs(outputs: Mapping[str, NDArray[Any]], count: int) -> list[Found]:
    """What a server says was found in each of ``count`` images.

    Raises:
        InputError: It answers about another number of images, or what no server of this contract answers: nothing
            of such an answer may be used.
    """
    missing = sorted(set(OUTPUTS) - set(outputs))
    if missing:
        raise _no_answer("outputs", ", ".join(OUTPUTS), f"no {', '.join(missing)}")
    numbers, boxes, scores = outputs["num_detections"], outputs["boxes"], outputs["scores"]
    if numbers.shape != (count, 1):
        raise _no_answer("num_detections", f"shape {[count, 1]}, one number an image", f"shape {list(numbers.shape)}")
    most = int(numbers.max(initial=0))
    for name, shape in {"boxes": (count, most, 4)}.items() | {
        (name, (count, most)) for name in ("scores", "labels", "phrases", *({MASKS} & set(outputs)))
    }:
        if outputs[name].shape != shape or numbers.min(initial=0) < 0:
            raise _no_answer(name, f"shape {list(shape)}", f"shape {list(outputs[name].shape)}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise _no_answer("boxes, scores", "finite numbers", "NaN or Inf")
    return [_found(outputs, row, int(numbers[row, 0])) for row in range(count)]


def _found(outputs: Mapping[str, NDArray[Any]], row: int, number: int) -> Found:
    scores, labels = outputs["scores"][row], outputs["labels"][row]
    if scores[number:].any() or any(labels[number:]) or not all(labels[:number]):
        raise _no_answer("num_detections", "as many detections as it says", f"others in image {row}")
    if ((scores < 0) | (scores > 1)).any() or (np.diff(scores[:number]) > 0).any():
        raise _no_answer("scores", "0 … 1, best first", f"others in image {row}")
    names = ("labels", "phrases", *({MASKS} & set(outputs)))
    texts = {name: tuple(text.decode() for text in outputs[name][row][:number]) for name in names}
    boxes = np.array(outputs["boxes"][row][:number], np.float32)
    return Found(boxes, np.array(scores[:number], np.float32), **texts)


def _no_answer(where: str, expected: str, got: str) -> InputError:
    fix = "nothing of this answer can be used; see the server's log"
    return InputError(
        "The server does not answer as the contract says.", where=where, expected=expected, got=got, fix=fix
    )
