"""Predictions of a bundle, and of PyTorch beside it, on a labelled set. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError, ImageError, missing_extra
from medprompt.core.progress import Progress
from medprompt.data import DetectionSet
from medprompt.images.read import load_image
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.detector import Detector

T = TypeVar("T")

Reference = Callable[[NDArray[np.uint8], PromptBank], Detections]
"""From an image, uint8 ``[H, W, 3]``, and the prompts to ask with, to PyTorch's detections from score 0."""


@dataclass(frozen=True)
class Predictions:
    """What was found in each image that could be read.

    Attributes:
        labelled: The set, without the images that could not be read.
        bundle: The bundle's detections, one entry an image.
        reference: PyTorch's; empty where it was not run.
        unread: One line for each image that could not be read.
    """

    labelled: DetectionSet
    bundle: tuple[Detections, ...]
    reference: tuple[Detections, ...] = ()
    unread: tuple[str, ...] = ()


def predict_dataset(
    detector: Detector,
    labelled: DetectionSet,
    progress: Progress,
    reference: Reference | None = None,
    strict: bool = True,
) -> Predictions:
    """Detect in every image of a set with a bundle loaded at threshold 0, and with PyTorch where it is given.

    An image that cannot be read is left out and listed where not ``strict``.

    Raises:
        ImageError: ``strict``, and an image cannot be read.
        DataError: No image can be read.
    """

    def both(image_rgb: NDArray[np.uint8]) -> tuple[Detections, Detections | None]:
        return detector(image_rgb), None if reference is None else reference(image_rgb, detector.bank)

    kept, pairs, unread = answers_to_set(both, labelled, progress, strict)
    theirs = tuple(other for _, other in pairs if other is not None)
    return Predictions(kept, tuple(found for found, _ in pairs), theirs, unread)


def answers_to_set(
    answer: Callable[[NDArray[np.uint8]], T], labelled: DetectionSet, progress: Progress, strict: bool
) -> tuple[DetectionSet, list[T], tuple[str, ...]]:
    """What is answered to each image, uint8 ``[H, W, 3]``, of a set.

    An image that cannot be read is left out and listed where not ``strict``.

    Returns:
        The set without images that could not be read, the answers in its order, and a line for each that was left out.

    Raises:
        ImageError: ``strict``, and an image cannot be read.
        DataError: No image can be read.
    """
    kept, answers, unread = [], [], []
    for entry in labelled.images:
        try:
            image = load_image(entry.path)
        except ImageError as error:
            if strict:
                raise
            unread.append(f"{entry.path.name}: {error.got or error.problem}")
        else:
            kept.append(entry)
            answers.append(answer(image))
        progress.advance()
    if not kept:
        raise DataError(
            "No image of the data set can be read.",
            where=labelled.name,
            got="; ".join(unread[:3]),
            fix="check the paths and files of the data set",
        )
    return replace(labelled, images=tuple(kept)), answers, tuple(unread)


def reference_of_checkpoint(bundle: Bundle, checkpoint: Path, threads: int | None = None) -> Reference:
    """Load the checkpoint that a bundle was made from; the bundle's rules of decision hold, and its processor's size.

    PyTorch's ``threads`` hold for the whole process; its own choice where None.

    Raises:
        EngineError: PyTorch is not installed.
        InputError: See ``reference_family``.
    """
    try:
        import torch

        from medprompt.benchmarks.latency.reference_pipeline import reference_family
        from medprompt.export.parity.reference import reference_detections
    except ImportError as error:
        raise missing_extra("Comparing with PyTorch", error.name or "torch", "export") from error
    family = reference_family(bundle, checkpoint)
    family.follow_own_size()
    if threads:
        torch.set_num_threads(threads)
    post = bundle.manifest.postprocess
    return lambda image, bank: reference_detections(family, image, bank.prompts, post)


def short_name(name: str) -> str:
    """The last two parts of a data set's name, without suffix: enough to tell sets apart in a table."""
    return "/".join(Path(name).with_suffix("").parts[-2:])


def own_labels(bank: PromptBank, labelled: DetectionSet) -> list[str]:
    """The bank's names of a set's categories.

    Raises:
        DataError: A category without a class.
    """
    labelled.relabelled(bank.labels)
    wanted = {label.casefold() for label in labelled.labels}
    return [label for label in bank.labels if label.casefold() in wanted]
