"""A bundle that detects: preprocess, run the engine, postprocess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medprompt.boxes import nms
from medprompt.bundle import Bundle, load_bundle
from medprompt.detections import Detections
from medprompt.errors import BankError, EngineError, InputError
from medprompt.manifest import Manifest, ParityRecord
from medprompt.preprocess import box_scale, check_image, resize_matrices, resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank, check_encoder, load_bank
from medprompt.runtime.engines.base import Engine
from medprompt.runtime.select import EngineChoice
from medprompt.runtime.selftest import check_golden, tolerance_of_device
from medprompt.runtime.serve import open_serving_engine

OUTPUTS = ("boxes_xyxy", "scores", "class_ids", "phrase_ids")

Image = NDArray[np.uint8]


class Detector:
    """A bundle on an engine, with the prompts it serves. A context manager.

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
        _check_pooling(bank, bundle.manifest)
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.engine = engine
        self.bank = bank
        self.choice = choice
        self._thresholds = _class_thresholds(bank, self.manifest, threshold)
        self._prompts = prompt_inputs(bank, self.manifest.inputs)

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
            device: An engine's name, or ``auto``; see ``medprompt.runtime.select``.
            bank: Prompts to serve instead of the bundle's own.
            labels: Serve these classes of the bank only, in this order.
            threshold: Least score 0 … 1; None for each class's own threshold, or else the bundle's.
            threads: CPU threads; the engine's own choice where None.
            strict: Refuse any step down from the first engine of the order.
            images: How many images there will be, where that is known; see ``medprompt.runtime.select``.
            self_test: Whether to run the golden images on the engine first; None: where its parity was not measured at
                export. An engine that fails is refused, and the next in order is tried.

        Raises:
            BundleError: See ``load_bundle``.
            BankError: A bank that cannot be read or does not fit the model.
            EngineError: No engine of the bundle can serve here; see ``medprompt.runtime.serve``.
            ParityError: Every engine that could serve failed its self-test.
            InputError: A threshold outside 0 … 1, or fewer threads than 1.
        """
        _check_threads(threads)
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        served = _served_bank(loaded, bank, labels)
        engine, choice = open_serving_engine(
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

    def __call__(self, image_rgb: Image) -> Detections:
        """Detect in one image.

        Args:
            image_rgb: uint8 ``[H, W, 3]``.

        Returns:
            Detections at or over the threshold, best first, boxes in source pixels.

        Raises:
            ImageError: Not a uint8 RGB image with at least one pixel.
            EngineError: The engine failed, or answered NaN or Inf.
        """
        return self._detect([image_rgb])[0]

    def batch(self, images: Sequence[Image]) -> list[Detections]:
        """Detect in several images at once, in their order; images may differ in size. See ``__call__``."""
        if self.manifest.preprocess.placement == "host":
            return self._detect(images) if len(images) else []
        # The graph takes sources of one size at a time.
        sizes = [image.shape[:2] for image in map(_checked, images)]
        found: dict[int, Detections] = {}
        for size in dict.fromkeys(sizes):
            places = [index for index, other in enumerate(sizes) if other == size]
            found.update(zip(places, self._detect([images[index] for index in places]), strict=True))
        return [found[index] for index in range(len(sizes))]

    def feeds(self, images: Sequence[Image]) -> dict[str, NDArray[Any]]:
        """Preprocess: the graph's inputs for a batch, prompts included.

        Args:
            images: uint8 ``[H, W, 3]`` each; of one size where the graph resizes.

        Raises:
            ImageError: Not a uint8 RGB image with at least one pixel.
        """
        spec = self.manifest.preprocess
        if spec.placement == "host":
            return {"image": np.stack([resize_on_host(image, spec) for image in images]), **self._prompts}
        stacked = np.stack([_checked(image) for image in images])
        rows, cols = self._matrices((stacked.shape[1], stacked.shape[2]))
        return {"image": stacked, "resize_rows": rows, "resize_cols": cols, **self._prompts}

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _detect(self, images: Sequence[Image]) -> list[Detections]:
        outputs = self.engine.run(self.feeds(images))
        _check_outputs(outputs, len(images), self.bank, self.choice.device)
        return [self._postprocess(outputs, index, image.shape[:2]) for index, image in enumerate(images)]

    def _matrices(self, source_hw: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return _cached_matrices(source_hw, self.manifest.preprocess)

    def _postprocess(self, outputs: Mapping[str, NDArray[Any]], index: int, size_hw: tuple[int, int]) -> Detections:
        boxes, scores, class_ids, phrase_ids = (outputs[name][index] for name in OUTPUTS)
        kept = np.flatnonzero(scores >= self._thresholds[class_ids])
        order = kept[np.argsort(-scores[kept], kind="stable")]
        scale = np.array(box_scale(size_hw, self.manifest.preprocess) * 2, dtype=np.float32)
        found = Detections(
            boxes[order].astype(np.float32) * scale,
            scores[order].astype(np.float32),
            class_ids[order].astype(np.int64),
            phrase_ids[order].astype(np.int64),
            self.bank.labels,
            self.bank.prompts.texts,
            size_hw,
        )
        return self._suppressed(found)

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


def _check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise InputError("The thread count is out of range.", where="threads", expected="1 or more", got=str(threads))


def _served_bank(bundle: Bundle, bank: PromptBank | Path | str | None, labels: Sequence[str] | None) -> PromptBank:
    served = bundle.bank if bank is None else bank
    if not isinstance(served, PromptBank):
        served = load_bank(Path(served))
    return served if labels is None else served.subset(labels)


def _check_pooling(bank: PromptBank, manifest: Manifest) -> None:
    if bank.prompts.pooling != manifest.postprocess.pooling:
        raise BankError(
            "The bank pools the phrases of a class otherwise than the model does.",
            expected=f"pooling: {manifest.postprocess.pooling}",
            got=f"pooling: {bank.prompts.pooling}",
            fix="set 'pooling:' in the prompts file as the bundle has it, or export with these prompts",
        )


def _class_thresholds(bank: PromptBank, manifest: Manifest, threshold: float | None) -> NDArray[np.float32]:
    """float32 ``[C]``: the least score of each class."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError("The threshold is out of range.", where="threshold", expected="0 … 1", got=str(threshold))
    if threshold is not None:
        return np.full(len(bank.labels), threshold, dtype=np.float32)
    own = [entry.threshold for entry in bank.prompts.classes]
    return np.array([manifest.default_threshold if one is None else one for one in own], dtype=np.float32)


def _check_outputs(outputs: Mapping[str, NDArray[Any]], count: int, bank: PromptBank, device: str) -> None:
    """Refuse what no detector answers; NaN is under every threshold, so it would pass as "nothing found"."""
    shapes = {name: tuple(outputs[name].shape) for name in OUTPUTS if name in outputs}
    top_k = shapes.get("scores", (0, 0))[-1]
    wanted = {name: (count, top_k, 4) if name == "boxes_xyxy" else (count, top_k) for name in OUTPUTS}
    if shapes != wanted:
        raise EngineError(
            "The engine's outputs are not those of a detector.",
            where=device,
            expected=str(wanted),
            got=str(shapes),
            fix="export the bundle again",
        )
    broken = [name for name in ("boxes_xyxy", "scores") if not np.isfinite(outputs[name]).all()]
    if broken:
        raise EngineError(
            "The engine answered NaN or Inf; these are no findings and no absence of findings.",
            where=f"{device}: {', '.join(broken)}",
            fix="medprompt verify BUNDLE shows whether this device can serve it; try another --device",
        )
    for name, known in (("class_ids", len(bank.labels)), ("phrase_ids", len(bank.prompts.texts))):
        ids = outputs[name]
        if ids.size and (ids.min() < 0 or ids.max() >= known):
            raise EngineError(
                "The engine answered with a class or phrase that the bank does not have.",
                where=f"{device}: {name}",
                expected=f"0 … {known - 1}",
                got=f"{ids.min()} … {ids.max()}",
                fix="medprompt verify BUNDLE shows whether this device can serve it; try another --device",
            )
