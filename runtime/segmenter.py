"""A segmenter that makes masks: the boxes of any detector prompt it, on features of the image computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import DECODER_FILE, ENCODER_FILE, GOLDEN_FILE, SegmenterBundle, load_golden, load_segmenter
from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError, EngineError
from medprompt.core.manifest import ParityRecord
from medprompt.core.masks import Masks
from medprompt.core.segmenter import SegmenterManifest
from medprompt.images.resize import box_scale, resize_on_host
from medprompt.metrics.agreement import check_decisions
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import ModelSource
from medprompt.runtime.engines.encoder_decoder import EncoderDecoder
from medprompt.runtime.engines.shared import Hold
from medprompt.runtime.masks import source_masks
from medprompt.runtime.selection.open import open_engine, opened_pair
from medprompt.runtime.selection.order import EngineChoice
from medprompt.runtime.selection.selftest import has_golden
from medprompt.runtime.selection.serving_options import check_threads

BOXES, MASKS = "boxes_xyxy", "masks"


class Segmenter:
    """A segmenter on an engine. A context manager.

    Args:
        bundle: The verified segmenter.
        engine: Both of its models, loaded; the segmenter closes them, or the last of those that share them.
        choice: Which engine it is, and why.
    """

    def __init__(self, bundle: SegmenterBundle, engine: EncoderDecoder, choice: EngineChoice) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.engine, self.choice = engine, choice
        self._hold = Hold(engine, choice.device)

    @classmethod
    def load(
        cls,
        bundle: SegmenterBundle | Path | str,
        device: str = "auto",
        threads: int | None = None,
        strict: bool = False,
        self_test: bool | None = None,
    ) -> Self:
        """Verify a segmenter, choose an engine and load its models; see ``Detector.load``.

        A device that loads engine files, of which a segmenter has none, or a model of its own, stands for ``auto``
        unless ``strict``.

        Raises:
            BundleError: See ``medprompt.bundles.load.load_segmenter``.
            EngineError: No engine can serve here.
            ParityError: Every engine that could serve failed its self-test.
            InputError: Fewer threads than 1.
        """
        check_threads(threads)
        loaded = load_segmenter(bundle)
        if not strict and device != "auto" and not serves_onnx(device):
            device = "auto"
        opener = partial(_opened, threads=threads)
        engine, choice = open_engine(loaded, prove, opener, device=device, strict=strict, self_test=self_test)
        return cls(loaded, engine, choice)

    def share(self) -> Self:
        """Another segmenter on the same loaded models, see ``Detector.share``.

        Raises:
            EngineError: This segmenter is closed.
        """
        self._hold.check()
        other = type(self)(self.bundle, self.engine, self.choice)
        other._hold = self._hold.another()
        return other

    def __call__(self, image_rgb: NDArray[np.uint8], boxes_xyxy: NDArray[np.floating[Any]]) -> Masks:
        """The mask of each box.

        Args:
            image_rgb: uint8 ``[H, W, 3]``.
            boxes_xyxy: ``[N, 4]`` in source pixels; what lies outside of the image is cut off.

        Raises:
            ImageError: No uint8 RGB image with at least one pixel.
            EngineError: The engine failed, or answered NaN or Inf.
        """
        self._hold.check()
        return masks_of_boxes(self.manifest, self.engine, image_rgb, boxes_xyxy, self.choice.device)

    def with_masks(self, image_rgb: NDArray[np.uint8], found: Detections) -> Detections:
        """Detections in an image, each with the mask of its box. Raises as ``__call__``."""
        return replace(found, masks=self(image_rgb, found.boxes_xyxy))

    def close(self) -> None:
        """Free the models, unless others share them. Closing twice is allowed."""
        self._hold.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serves_onnx(device: str) -> bool:
    """Whether a device loads the ONNX models of a segmenter, and so one that has been proven.

    Raises:
        EngineError: No such device.
    """
    engine = engine_class(device)
    return not (engine.needs_compiled or engine.model)


def masks_of_boxes(
    manifest: SegmenterManifest,
    engine: EncoderDecoder,
    image_rgb: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.floating[Any]],
    device: str,
) -> Masks:
    """See ``Segmenter.__call__``; without a box nothing is computed. ``device`` is for messages."""
    spec, size_hw = manifest.preprocess, (image_rgb.shape[0], image_rgb.shape[1])
    resized = None if not len(boxes_xyxy) else resize_on_host(image_rgb, spec)
    if resized is None:
        return Masks.joined([], size_hw)
    boxes = np.clip(boxes_xyxy / np.array(box_scale(size_hw, spec) * 2), 0, 1).astype(np.float32)
    logits = engine.decode(engine.encode({"image": resized[None]}), BOXES, boxes).get(MASKS)
    expected = (len(boxes), *manifest.outputs[0].shape[1:])
    if logits is None or logits.shape != expected or not np.isfinite(logits).all():
        raise EngineError(
            "The engine's masks are none: another shape, NaN or Inf, which says nothing about objects.",
            where=device,
            expected=str(expected),
            got="none" if logits is None else str(logits.shape),
            fix="medprompt verify SEGMENTER shows whether this device can serve it; try another device",
        )
    return source_masks(logits, manifest.mask_threshold, size_hw, spec)


def prove(bundle: SegmenterBundle, engine: EncoderDecoder, choice: EngineChoice) -> ParityRecord:
    """The golden images and boxes through an engine: do the masks agree with PyTorch's?

    Raises:
        BundleError: There are no golden images, or they cannot be read.
        EngineError: The engine failed.
    """
    golden = load_golden(bundle.path / GOLDEN_FILE, None) if has_golden(bundle.manifest) else ()
    if not golden or any(item.reference.masks is None for item in golden):
        raise BundleError(
            "The segmenter has no golden images with masks.",
            where=str(bundle.path),
            expected=GOLDEN_FILE,
            fix="export the segmenter again",
        )
    images = [(item.image_rgb, item.reference) for item in golden]
    return compare_masks(bundle.manifest, engine, images, f"{len(golden)} golden images of the bundle", choice.device)


def compare_masks(
    manifest: SegmenterManifest,
    engine: EncoderDecoder,
    images: Sequence[tuple[NDArray[np.uint8], Detections]],
    image_source: str,
    device: str,
) -> ParityRecord:
    """Compare an engine's masks with those of references: a decision is a box, kept where its mask agrees."""
    pairs = [
        (reference, replace(reference, masks=masks_of_boxes(manifest, engine, image, reference.boxes_xyxy, device)))
        for image, reference in images
    ]
    return check_decisions(pairs, 0.0, manifest.tolerance, image_source)


def _opened(bundle: SegmenterBundle, choice: EngineChoice, *, threads: int | None) -> EncoderDecoder:
    encoder, decoder = (ModelSource(bundle.path / name, bundle=bundle.path) for name in (ENCODER_FILE, DECODER_FILE))
    return EncoderDecoder(*opened_pair(encoder, decoder, choice, threads))
