"""A bundle that detects: preprocess, run the engine, postprocess."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle, SegmenterBundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError, OutOfMemoryError
from medprompt.core.manifest import ParityRecord
from medprompt.images.resize import batch_key
from medprompt.prompts.bank import PromptBank, check_encoder
from medprompt.runtime.decode import decode
from medprompt.runtime.engines.base import Engine
from medprompt.runtime.engines.shared import Hold
from medprompt.runtime.image_feeds import Image, Readable, checked, image_inputs, pixels_of
from medprompt.runtime.outputs import check_outputs
from medprompt.runtime.pipeline import Request, Steps, in_flight
from medprompt.runtime.prompt_cache import PromptSet, PromptSets
from medprompt.runtime.segmenter import Segmenter
from medprompt.runtime.selection.open import open_engine, open_model
from medprompt.runtime.selection.order import EngineChoice
from medprompt.runtime.selection.selftest import check_golden, tolerance_of_device
from medprompt.runtime.selection.serving_options import (
    Banks,
    check_pooling,
    check_text_length,
    check_threads,
    class_thresholds,
    resolve_bank,
)
from medprompt.runtime.threads import Prefetcher

AT_ONCE = 8
"""Images of a list that are in memory and in one batch together."""

_log = logging.getLogger(__name__)


class Detector:
    """A bundle on an engine, with the prompts it serves. A context manager; for one thread at a time.

    Threads that detect at once need a detector each: ``share`` makes further ones on the same loaded engine.

    Boxes are not clipped to the image: transformers does not clip, and a clipped box would differ from the
        reference.

    Args:
        bundle: The verified bundle.
        engine: The engine, model loaded; the detector closes it, or the last of those that share it.
        bank: The prompts to serve.
        choice: Which engine it is, and why.
        threshold: Least score; None for each class's own threshold, or else the bundle's.
        segmenter: Makes a mask of each box; the detector closes it. None: there are masks if the model makes some.

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
        *,
        segmenter: Segmenter | None = None,
    ) -> None:
        check_encoder(bank, bundle.manifest.encoder, "the prompts to serve")
        check_pooling(bank, bundle.manifest)
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.engine = engine
        self.bank = bank
        self.choice = choice
        self.segmenter = segmenter
        self._threshold = threshold
        self._thresholds = class_thresholds(bank, self.manifest, threshold)
        self._hold = Hold(engine, choice.device)
        self.prompts = PromptSets(bank, self.manifest.inputs)

    @classmethod
    def load(
        cls,
        bundle: Bundle | Path | str,
        device: str = "auto",
        prompts: Banks | None = None,
        labels: Sequence[str] | None = None,
        threshold: float | None = None,
        threads: int | None = None,
        strict: bool = False,
        images: int | None = None,
        self_test: bool | None = None,
        *,
        bank: Banks | None = None,
        at_once: int = 1,
        segment: SegmenterBundle | Path | str | None = None,
    ) -> Self:
        """Verify a bundle, choose an engine and load the model.

        Args:
            bundle: A bundle's folder, or a bundle that was loaded.
            device: An engine's name, or ``auto``; see ``medprompt.runtime.selection.order``.
            prompts: Prompt bank to serve instead of the bundle's own, or its file; several are merged.
            labels: Serve these classes of the bank only, in this order.
            threshold: Least score 0 … 1; None for each class's own threshold, or else the bundle's.
            threads: CPU threads; the engine's own choice where None.
            strict: Refuse any step down from the first engine of the order.
            images: How many images there will be, where that is known; see ``medprompt.runtime.selection.order``.
            self_test: Whether to run the golden images on the engine first; None: where its parity was not measured at
                export. An engine that fails is refused, and the next in order is tried.
            bank: The old name of ``prompts``.
            at_once: Requests that a CPU engine computes at the same time, each with its share of the threads: more
                images a second in ``stream`` and in threads that ``share`` it, each image later.
            segment: A segmenter, or its folder: it makes a mask of each box that is found, see
                ``medprompt.runtime.segmenter``.

        Raises:
            BundleError: See ``load_bundle``.
            BankError: A bank that cannot be read or does not fit the model.
            EngineError: No engine of the bundle can serve here; see ``medprompt.runtime.selection.open``.
            ParityError: Every engine that could serve failed its self-test.
            InputError: A threshold outside 0 … 1, fewer threads or requests at once than 1, or a segmenter for a model
                that makes masks itself.
        """
        check_threads(threads)
        check_threads(at_once, "request", "at_once")
        if bank is not None:
            warnings.warn("Detector.load: bank= is called prompts= now", DeprecationWarning, stacklevel=2)
        loaded = load_bundle(bundle)
        served = resolve_bank(loaded, bank if prompts is None else prompts, labels)
        if segment is not None:
            check_makes_boxes(loaded)
        with ExitStack() as undo:
            segmenter = segment if segment is None else Segmenter.load(segment, device, threads, strict, self_test)
            if segmenter is not None:
                undo.callback(segmenter.close)
            engine, choice = open_engine(
                loaded,
                _self_test,
                partial(open_model, threads=threads, at_once=at_once),
                device=device,
                strict=strict,
                images=images,
                self_test=self_test,
            )
            undo.callback(engine.close)
            detector = cls(loaded, engine, served, choice, threshold, segmenter=segmenter)
            undo.pop_all()
        return detector

    def share(
        self, prompts: Banks | None = None, labels: Sequence[str] | None = None, threshold: float | None = None
    ) -> Self:
        """Another detector on the same loaded engine: for another thread, or for other prompts.

        Nothing is loaded. Each is closed by itself, in any order; the last one frees the engine. Requests of several
        threads compute one after another unless ``load`` was told ``at_once``, or the engine is a GPU's.

        Args:
            prompts: See ``load``; this detector's where None.
            labels: See ``load``.
            threshold: See ``load``; this detector's where None.

        Raises:
            EngineError: This detector is closed.
            BankError: A bank that cannot be read or does not fit the model.
            InputError: A threshold outside 0 … 1.
        """
        self._hold.check()
        served = resolve_bank(self.bundle, self.bank if prompts is None else prompts, labels)
        least = self._threshold if threshold is None else threshold
        segmenter = self.segmenter and self.segmenter.share()
        other = type(self)(self.bundle, self.engine, served, self.choice, least, segmenter=segmenter)
        if served is self.bank:
            other.prompts = self.prompts  # the same sets, so that requests of both can be one batch
        other._hold = self._hold.another()
        return other

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Least score of each class, by class id."""
        return tuple(float(value) for value in self._thresholds)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a sequence of texts, and here one path
        self, image: Readable, phrases: Iterable[str] | None = None, *, frame: int = 1
    ) -> Detections: ...
    @overload
    def __call__(
        self, image: Sequence[Readable], phrases: Iterable[str] | None = None, *, frame: int = 1
    ) -> list[Detections]: ...
    def __call__(
        self, image: Readable | Sequence[Readable], phrases: Iterable[str] | None = None, *, frame: int = 1
    ) -> Detections | list[Detections]:
        """Detect in one image, or in each of a list.

        Args:
            image: An image or DICOM file, a Pillow picture, or uint8 RGB ``[H, W, 3]``; or a list of such.
            phrases: Ask with these phrases of the bank only; each class needs one. All where None.
            frame: Which frame of a DICOM file, from 1.

        Returns:
            Detections at or over the threshold, best first, boxes in source pixels; a list for a list. ``phrases`` are
            those prompted with; class ids are those of the whole bank. What was found in a file or a picture keeps its
            pixels for ``Detections.plot``: for many files at once there is ``medprompt.infer``, which keeps none.

        Raises:
            ImageError: A file that may not be analysed, or no uint8 RGB array with at least one pixel.
            InputError: Something else than an image.
            BankError: A phrase that the bank does not have, or a class without a phrase.
            EngineError: The engine failed, or answered NaN or Inf.
        """
        if isinstance(image, list | tuple):
            texts = None if phrases is None else tuple(phrases)
            parts = (image[start : start + AT_ONCE] for start in range(0, len(image), AT_ONCE))
            return [found for part in parts for found in self._detect_readable(part, texts, frame)]
        return self._detect_readable([image], phrases, frame)[0]  # type: ignore[list-item]  # checked there

    def batch(self, images: Iterable[Image], phrases: Iterable[str] | None = None) -> list[Detections]:
        """Detect in several uint8 RGB images ``[H, W, 3]`` at once, in their order; they may differ in size.

        Images are not kept. See ``__call__`` for ``phrases`` and errors.
        """
        prompt_set, spec, images = self.prompts.of(phrases), self.manifest.preprocess, list(images)
        # The graph takes images of one size at a time, and an engine that resizes takes sources of one size.
        shapes = ((image.shape[0], image.shape[1]) for image in map(checked, images))
        sizes = [shape if self.engine.resizes else batch_key(shape, spec) for shape in shapes]
        found: dict[int, Detections] = {}
        for size in dict.fromkeys(sizes):
            indices = [index for index, other in enumerate(sizes) if other == size]
            found.update(zip(indices, self._in_parts([images[index] for index in indices], prompt_set), strict=True))
        return [found[index] for index in range(len(sizes))]

    def stream(
        self, frames: Iterable[Image], phrases: Iterable[str] | None = None, ahead: int = 2
    ) -> Iterator[Detections]:
        """Detect in images as they come, in their order, for as long as they come.

        They are made in a thread of their own, while the detector is at earlier ones. Where the next image is there
        already, it is prepared while the engine computes. Leaving the loop early ends it.

        Args:
            frames: Makes uint8 ``[H, W, 3]`` images; an error of it is raised at its turn.
            phrases: See ``__call__``.
            ahead: Images that may wait, at least 1.

        Raises:
            InputError: ``ahead`` is less than 1.
        """
        check_threads(ahead, "image", "ahead")
        texts = None if phrases is None else tuple(phrases)
        with Prefetcher(frames, ahead) as waiting:
            works = (self._readable_steps(frame, texts) for frame in waiting)
            yield from in_flight(self, works, ready=waiting.ready)

    def steps(self, image_rgb: Image, phrases: Iterable[str] | None = None) -> Steps[Detections]:
        """As ``__call__`` for one array, for ``medprompt.runtime.pipeline.in_flight``."""
        prompt_set = self.prompts.of(phrases)
        outputs = yield Request(self.image_feeds([image_rgb]), prompt_set)
        found = self.detections(outputs, 0, (image_rgb.shape[0], image_rgb.shape[1]), prompt_set)
        return self.segmented(image_rgb, found)

    def feeds(self, images: Sequence[Image], phrases: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Preprocess: the graph's inputs for a batch, prompts included.

        Raises:
            ImageError: Not a uint8 RGB image with at least one pixel.
        """
        return {**self.image_feeds(images), **self.prompts.of(phrases).inputs}

    def image_feeds(self, images: Sequence[Image]) -> dict[str, NDArray[Any]]:
        """The inputs that come from the images: computed once, they can be combined with several prompt sets."""
        return image_inputs(images, self.manifest.preprocess, resizes=self.engine.resizes)

    def outputs(self, image_feeds: Mapping[str, NDArray[Any]], prompt_set: PromptSet) -> dict[str, NDArray[Any]]:
        """The graph's K detections of each image, before threshold and suppression.

        Raises:
            EngineError: The engine failed, or answered what no detector answers.
            BankError: The phrases make a longer text than the model reads.
        """
        outputs = self.engine.run(self._inputs(image_feeds, prompt_set))
        self.check(outputs, len(image_feeds["image"]), prompt_set)
        return outputs

    def submit(self, image_feeds: Mapping[str, NDArray[Any]], prompt_set: PromptSet) -> Any:
        """Begin what ``outputs`` does; see ``Engine.submit``, whose answer ``engine.collect`` takes."""
        return self.engine.submit(self._inputs(image_feeds, prompt_set))

    def check(self, outputs: Mapping[str, NDArray[Any]], count: int, prompt_set: PromptSet) -> None:
        """Refuse outputs that no detector answers about ``count`` images, see ``check_outputs``."""
        masks = self.manifest.postprocess.mask_threshold is not None
        check_outputs(outputs, count, prompt_set.bank, self.choice.device, masks=masks)

    def _inputs(self, image_feeds: Mapping[str, NDArray[Any]], prompt_set: PromptSet) -> dict[str, NDArray[Any]]:
        self._hold.check()
        check_text_length(prompt_set.inputs, self.manifest)
        return {**image_feeds, **prompt_set.inputs}

    def device_stages_ms(self, image_feeds: Mapping[str, NDArray[Any]], prompt_set: PromptSet) -> dict[str, float]:
        """How long the parts of ``outputs`` take on the device, see ``Engine.device_stages_ms``."""
        return self.engine.device_stages_ms({**image_feeds, **prompt_set.inputs})

    def detections(
        self, outputs: Mapping[str, NDArray[Any]], index: int, size_hw: tuple[int, int], prompt_set: PromptSet
    ) -> Detections:
        """Postprocess: threshold, source pixels and suppression for image ``index`` of a batch (source ``size_hw``)."""
        return decode(outputs, prompt_set.bank, self.manifest, size_hw, index=index, thresholds=self._thresholds)

    def segmented(self, image_rgb: Image, found: Detections) -> Detections:
        """What was found in an image, with the masks that the segmenter makes of the boxes, where there is one."""
        return found if self.segmenter is None else self.segmenter.with_masks(image_rgb, found)

    def close(self) -> None:
        """Free the engine, unless others share it. Closing twice is allowed."""
        if self._hold.let_go() and self.segmenter is not None:
            self.segmenter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _detect_readable(
        self, images: Sequence[Readable], phrases: Iterable[str] | None, frame: int
    ) -> list[Detections]:
        pixels = [pixels_of(image, frame) for image in images]
        found = self.batch(pixels, phrases)
        return [
            one if isinstance(image, np.ndarray) else replace(one, image_rgb=image_rgb)
            for one, image, image_rgb in zip(found, images, pixels, strict=True)
        ]

    def _in_parts(self, images: Sequence[Image], prompt_set: PromptSet) -> list[Detections]:
        """In batches as large as the engine was compiled for."""
        compiled = self.choice.record.compiled if self.choice.record else None
        most = compiled.axes["B"].most if compiled and "B" in compiled.axes else len(images)
        parts = (images[start : start + most] for start in range(0, len(images), most))
        return [found for part in parts for found in self._detect(part, prompt_set)]

    def _readable_steps(self, image: Readable, phrases: Iterable[str] | None) -> Steps[Detections]:
        pixels = pixels_of(image, 1)
        found = yield from self.steps(pixels, phrases)
        return found if isinstance(image, np.ndarray) else replace(found, image_rgb=pixels)

    def _detect(self, images: Sequence[Image], prompt_set: PromptSet) -> list[Detections]:
        """As one batch, or as two halves where memory does not reach: once, then it is an error."""
        try:
            return self._detect_at_once(images, prompt_set)
        except (MemoryError, OutOfMemoryError):
            if len(images) == 1:
                raise
        half = -(-len(images) // 2)
        _log.warning("a batch of %d images did not fit into the memory and was halved", len(images))
        return [found for part in (images[:half], images[half:]) for found in self._detect_at_once(part, prompt_set)]

    def _detect_at_once(self, images: Sequence[Image], prompt_set: PromptSet) -> list[Detections]:
        outputs = self.outputs(self.image_feeds(images), prompt_set)
        found = (self.detections(outputs, index, image.shape[:2], prompt_set) for index, image in enumerate(images))
        return [self.segmented(image, one) for image, one in zip(images, found, strict=True)]


def check_makes_boxes(bundle: Bundle) -> None:
    """Refuse a segmenter for a model that makes masks itself: which of the two a mask is of nobody could tell.

    Raises:
        InputError: The model makes masks.
    """
    if bundle.manifest.postprocess.mask_threshold is not None:
        raise InputError(
            "The bundle's model makes masks itself.",
            where="segment",
            expected="a bundle whose model finds boxes alone",
            got=bundle.manifest.family,
            fix="leave segment= out",
        )


def _self_test(bundle: Bundle, engine: Engine, choice: EngineChoice) -> ParityRecord:
    """The golden images through an engine, with the bundle's own prompts and without a threshold."""
    manifest = bundle.manifest
    prompt_set = PromptSets(bundle.bank, manifest.inputs).whole

    def detect(image_rgb: Image) -> Detections:
        image_feeds = image_inputs([image_rgb], manifest.preprocess, resizes=engine.resizes)
        outputs = engine.run({**image_feeds, **prompt_set.inputs})
        masks = manifest.postprocess.mask_threshold is not None
        check_outputs(outputs, 1, bundle.bank, choice.device, masks=masks)
        return decode(outputs, bundle.bank, manifest, image_rgb.shape[:2])

    precision = choice.record.precision if choice.record else None
    return check_golden(bundle, detect, tolerance_of_device(bundle, choice.device, precision))
