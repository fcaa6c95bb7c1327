"""A bundle that detects: preprocess, run the engine, postprocess."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.boxes import nms
from medprompt.core.detections import Detections
from medprompt.core.errors import OutOfMemoryError
from medprompt.core.manifest import ParityRecord
from medprompt.images.resize import box_scale, check_image, resize_matrices, resize_on_host
from medprompt.prompts.bank import PromptBank, check_encoder
from medprompt.runtime.engines.base import Engine
from medprompt.runtime.outputs import OUTPUTS, check_outputs
from medprompt.runtime.prompt_cache import PromptSet, PromptSets
from medprompt.runtime.selection.open import open_engine
from medprompt.runtime.selection.order import EngineChoice
from medprompt.runtime.selection.selftest import check_golden, tolerance_of_device
from medprompt.runtime.selection.serving_options import check_pooling, check_threads, class_thresholds, resolve_bank
from medprompt.runtime.threads import Prefetcher

Image = NDArray[np.uint8]

_log = logging.getLogger(__name__)


class Detector:
    """A bundle on an engine, with the prompts it serves. A context manager; for one thread at a time.

    Threads that detect at once need a detector each: an engine keeps buffers between a call's steps.

    Boxes are not clipped to the image: transformers does not clip, and a clipped box would differ from the
        reference.

    Args:
        bundle: The verified bundle.
        engine: The engine, model loaded; the detector closes it.
        bank: The prompts to serve.
        choice: Which engine it is, and why.
        threshold: Least score; None for each class's own threshold, or else the bundle's.

    Raises:
        BankError: A bank of another encoder, pooling or shape than the model.
        InputError: A threshold outside 0 … 1.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        bank: PromptBank,
        choice: EngineChoice,
        threshold: float | None = None,
    ) -> None:
        check_encoder(bank, bundle.manifest.encoder, "the prompts to serve")
        check_pooling(bank, bundle.manifest)
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.engine = engine
        self.bank = bank
        self.choice = choice
        self._thresholds = class_thresholds(bank, self.manifest, threshold)
        self.prompts = PromptSets(bank, self.manifest.inputs)

    @classmethod
    def load(
        cls,
        bundle: Bundle | Path | str,
        device: str = "auto",
        bank: PromptBank | Path | str | None = None,
        labels: Sequence[str] | None = None,
        threshold: float | None = None,
        threads: int | None = None,
        strict: bool = False,
        images: int | None = None,
        self_test: bool | None = None,
    ) -> Self:
        """Verify a bundle, choose an engine and load the model.

        Args:
            bundle: A bundle's folder, or a bundle that was loaded.
            device: An engine's name, or ``auto``; see ``medprompt.runtime.selection.order``.
            bank: Prompts to serve instead of the bundle's own.
            labels: Serve these classes of the bank only, in this order.
            threshold: Least score 0 … 1; None for each class's own threshold, or else the bundle's.
            threads: CPU threads; the engine's own choice where None.
            strict: Refuse any step down from the first engine of the order.
            images: How many images there will be, where that is known; see ``medprompt.runtime.selection.order``.
            self_test: Whether to run the golden images on the engine first; None: where its parity was not measured at
                export. An engine that fails is refused, and the next in order is tried.

        Raises:
            BundleError: See ``load_bundle``.
            BankError: A bank that cannot be read or does not fit the model.
            EngineError: No engine of the bundle can serve here; see ``medprompt.runtime.selection.open``.
            ParityError: Every engine that could serve failed its self-test.
            InputError: A threshold outside 0 … 1, or fewer threads than 1.
        """
        check_threads(threads)
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        served = resolve_bank(loaded, bank, labels)
        engine, choice = open_engine(
            loaded,
            lambda engine, choice: _self_test(cls(loaded, engine, loaded.bank, choice, 0.0)),
            device=device,
            strict=strict,
            images=images,
            threads=threads,
            self_test=self_test,
        )
        try:
            return cls(loaded, engine, served, choice, threshold)
        except BaseException:
            engine.close()
            raise

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Least score of each class, by class id."""
        return tuple(float(value) for value in self._thresholds)

    def __call__(self, image_rgb: Image, phrases: Iterable[str] | None = None) -> Detections:
        """Detect in one image.

        Args:
            image_rgb: uint8 ``[H, W, 3]``.
            phrases: Ask with these phrases of the bank only; each class needs one. All where None.

        Returns:
            Detections at or over the threshold, best first, boxes in source pixels. ``phrases`` are those asked with;
            class ids are those of the whole bank.

        Raises:
            ImageError: Not a uint8 RGB image with at least one pixel.
            BankError: A phrase that the bank does not have, or a class without a phrase.
            EngineError: The engine failed, or answered NaN or Inf.
        """
        return self._detect([image_rgb], self.prompts.of(phrases))[0]

    def batch(self, images: Sequence[Image], phrases: Iterable[str] | None = None) -> list[Detections]:
        """Detect in several images at once, in their order; images may differ in size. See ``__call__``."""
        asked = self.prompts.of(phrases)
        if self.manifest.preprocess.placement == "host":
            return self._detect(images, asked) if len(images) else []
        # The graph takes sources of one size at a time.
        sizes = [image.shape[:2] for image in map(_checked, images)]
        found: dict[int, Detections] = {}
        for size in dict.fromkeys(sizes):
            places = [index for index, other in enumerate(sizes) if other == size]
            found.update(zip(places, self._detect([images[index] for index in places], asked), strict=True))
        return [found[index] for index in range(len(sizes))]

    def stream(
        self, frames: Iterable[Image], phrases: Iterable[str] | None = None, ahead: int = 2
    ) -> Iterator[Detections]:
        """Detect in images as they come, in their order, for as long as they come.

        They are made in a thread of their own, while the detector is at earlier ones. Leaving the loop early ends it.

        Args:
            frames: Makes uint8 ``[H, W, 3]`` images; an error of it is raised at its place.
            phrases: See ``__call__``.
            ahead: Images that may wait.
        """
        asked = None if phrases is None else tuple(phrases)
        with Prefetcher(frames, ahead) as waiting:
            for frame in waiting:
                yield self(frame, asked)

    def feeds(self, images: Sequence[Image], phrases: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Preprocess: the graph's inputs for a batch, prompts included.

        Args:
            images: uint8 ``[H, W, 3]`` each; of one size where the graph resizes.
            phrases: See ``__call__``.

        Raises:
            ImageError: Not a uint8 RGB image with at least one pixel.
        """
        return {**self.image_feeds(images), **self.prompts.of(phrases).inputs}

    def image_feeds(self, images: Sequence[Image]) -> dict[str, NDArray[Any]]:
        """The inputs that come from the images: computed once, they can be asked several prompt sets."""
        spec = self.manifest.preprocess
        if spec.placement == "host":
            return {"image": np.stack([resize_on_host(image, spec) for image in images])}
        stacked = np.stack([_checked(image) for image in images])
        rows, cols = _cached_matrices((stacked.shape[1], stacked.shape[2]), spec)
        return {"image": stacked, "resize_rows": rows, "resize_cols": cols}

    def outputs(self, image_feeds: Mapping[str, NDArray[Any]], asked: PromptSet) -> dict[str, NDArray[Any]]:
        """The graph's K detections of each image, before threshold and suppression.

        Args:
            image_feeds: See ``image_feeds``.
            asked: What to ask, see ``PromptSets.of``.

        Raises:
            EngineError: The engine failed, or answered what no detector answers.
        """
        outputs = self.engine.run({**image_feeds, **asked.inputs})
        check_outputs(outputs, len(image_feeds["image"]), asked.bank, self.choice.device)
        return outputs

    def device_stages_ms(self, image_feeds: Mapping[str, NDArray[Any]], asked: PromptSet) -> dict[str, float]:
        """How long the parts of ``outputs`` take on the device, see ``Engine.device_stages_ms``."""
        return self.engine.device_stages_ms({**image_feeds, **asked.inputs})

    def detections(
        self, outputs: Mapping[str, NDArray[Any]], index: int, size_hw: tuple[int, int], asked: PromptSet
    ) -> Detections:
        """Postprocess: threshold, source pixels and suppression for image ``index`` of a batch.

        Args:
            outputs: See ``outputs``.
            index: The image's place in the batch.
            size_hw: The image's height and width in source pixels.
            asked: What was asked.
        """
        boxes, scores, class_ids, phrase_ids = (outputs[name][index] for name in OUTPUTS)
        kept = np.flatnonzero(scores >= self._thresholds[class_ids])
        order = kept[np.argsort(-scores[kept], kind="stable")]
        scale = np.array(box_scale(size_hw, self.manifest.preprocess) * 2, dtype=np.float32)
        found = Detections(
            boxes[order].astype(np.float32) * scale,
            scores[order].astype(np.float32),
            class_ids[order].astype(np.int64),
            phrase_ids[order].astype(np.int64),
            asked.bank.labels,
            asked.bank.prompts.texts,
            size_hw,
        )
        return self._suppressed(found)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _detect(self, images: Sequence[Image], asked: PromptSet) -> list[Detections]:
        """As one batch, or as two halves where memory does not reach: once, then it is an error."""
        try:
            return self._detect_at_once(images, asked)
        except (MemoryError, OutOfMemoryError):
            if len(images) == 1:
                raise
        half = -(-len(images) // 2)
        _log.warning("a batch of %d images did not fit into the memory and was halved", len(images))
        return [found for part in (images[:half], images[half:]) for found in self._detect_at_once(part, asked)]

    def _detect_at_once(self, images: Sequence[Image], asked: PromptSet) -> list[Detections]:
        outputs = self.outputs(self.image_feeds(images), asked)
        return [self.detections(outputs, index, image.shape[:2], asked) for index, image in enumerate(images)]

    def _suppressed(self, found: Detections) -> Detections:
        post = self.manifest.postprocess
        if post.nms_iou is None:
            return found
        class_ids = None if post.nms_across_classes else found.class_ids
        return found[nms(found.boxes_xyxy, found.scores, post.nms_iou, class_ids)]


def _self_test(detector: Detector) -> ParityRecord:
    choice = detector.choice
    precision = choice.record.precision if choice.record else None
    tolerance = tolerance_of_device(detector.bundle, choice.device, precision)
    return check_golden(detector.bundle, detector, tolerance)


_cached_matrices = lru_cache(maxsize=16)(resize_matrices)


def _checked(image_rgb: Image) -> Image:
    check_image(image_rgb)
    return image_rgb
