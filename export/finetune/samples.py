"""Training samples as a pure function of the seed: sample ``k`` of a run is always the same picture.

That makes a resumed run equal to an undisturbed one without storing any loader state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from medprompt.core.manifest import Preprocess
from medprompt.data import DetectionSet, LabelledImage
from medprompt.export.finetune.attribute_phrases import (
    ATTRIBUTE_WORDS,
    AttributePhrase,
    draw_attribute_phrases,
    fitting_words,
    measure_attributes,
)
from medprompt.export.finetune.shapes import NO_CLASS, draw_shapes
from medprompt.export.finetune.windows import boxes_in_window, cut, masks_in_window, random_window
from medprompt.images.read import load_image
from medprompt.images.resize import PILLOW_FILTERS
from medprompt.prompts.schema import Prompts

KEPT_BYTES = 512 * 2**20
"""Decoded pictures that are kept in memory, at most: small sets are read once, of large ones the last few stay."""

RESAMPLE = {**PILLOW_FILTERS, "zoom": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may vary.

    Attributes:
        scale: Minimum and maximum zoom of the crop.
        flips: Mirror left-right and up-down at random.
        colour: Largest relative change of contrast, brightness and each channel's gain.
        shapes: Maximum number of shapes drawn into a picture, see ``draw_shapes``.
        min_visible: A box of which less than this share stays in the crop is dropped.
    """

    scale: tuple[float, float] = (0.8, 1.25)
    flips: bool = True
    colour: float = 0.15
    shapes: int = 0
    min_visible: float = 0.3


@dataclass(frozen=True)
class Sample:
    """One training picture.

    Attributes:
        index: Its number in the run.
        image: uint8 ``[h, w, 3]`` at the model's size.
        boxes_cxcywh: float32 ``[N, 4]`` in 0 … 1.
        class_ids: int64 ``[N]``; ``NO_CLASS`` for drawn shapes.
        annotated: bool ``[C]``: the classes this picture's data set can judge; the others count for nothing.
        held_out_cxcywh: float32 ``[M, 4]``: objects that training says nothing about.
        word_fits: int8 ``[N, W]``: which of ``ATTRIBUTE_WORDS`` are true of which object, see ``fitting_words``.
        masks: float16 ``[N, h_m, w_m]``: the share of each pixel, at the model's mask resolution, that is the object's;
            not a number where its outline is not known. None: the model makes no masks.
    """

    index: int
    image: NDArray[np.uint8]
    boxes_cxcywh: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    annotated: NDArray[np.bool_]
    held_out_cxcywh: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    word_fits: NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, len(ATTRIBUTE_WORDS)), dtype=np.int8))
    masks: NDArray[np.float16] | None = None


class TrainingSamples(Dataset[Sample]):
    """``count`` pictures drawn from labelled sets, each set in turn through all its images.

    Args:
        sets: Data sets, indexed by the labels of the prompts file.
        annotated: bool ``[C]`` for each set.
        repeats: How often each image of a set comes in an epoch.
        preprocess: The model's image size and filter.
        augmentation: How far pictures may vary.
        count: Pictures in the whole run.
        seed: Decides everything.
        mask_hw: The model's mask resolution, where it makes masks.
    """

    def __init__(
        self,
        sets: Sequence[DetectionSet],
        annotated: Sequence[NDArray[np.bool_]],
        repeats: Sequence[int],
        preprocess: Preprocess,
        augmentation: Augmentation,
        count: int,
        seed: int,
        mask_hw: tuple[int, int] | None = None,
    ) -> None:
        self.items = [
            (image, mask)
            for found, mask, repeat in zip(sets, annotated, repeats, strict=True)
            for image in found.images
            for _ in range(repeat)
        ]
        self.preprocess = preprocess
        self.augmentation = augmentation
        self.count = count
        self.seed = seed
        self.mask_hw = mask_hw
        self._pixels: OrderedDict[Path, Image.Image] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        epoch, step = divmod(index, len(self.items))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.items))
        item = int(order[step])
        labelled, annotated = self.items[item]
        rng = np.random.default_rng((self.seed, index, 1))
        objects = len(labelled.class_ids)
        image, boxes, kept, masks = self._augmented(self._read(labelled.path), labelled, rng)
        trained, held_out = boxes[kept < objects], boxes[kept >= objects]
        classes = labelled.class_ids[kept[kept < objects]]
        image, drawn = draw_shapes(image, trained, held_out, self.augmentation.shapes, rng)
        trained = np.concatenate([trained, drawn])
        classes = np.concatenate([classes, np.full(len(drawn), NO_CLASS)])
        height, width = labelled.size_hw
        fits = fitting_words(measure_attributes(image, trained, width / height))
        if masks is not None:
            masks = np.concatenate([masks, np.full((len(drawn), *masks.shape[1:]), np.nan, dtype=np.float16)])
        return Sample(index, image, trained, classes, annotated, held_out, fits, masks)

    def _read(self, path: Path) -> Image.Image:
        if path not in self._pixels:
            pixels = load_image(path)
            self._pixels[path] = Image.fromarray(pixels)
            self._kept_bytes += pixels.nbytes
        self._pixels.move_to_end(path)
        while self._kept_bytes > KEPT_BYTES and len(self._pixels) > 1:
            _, dropped = self._pixels.popitem(last=False)
            self._kept_bytes -= 3 * dropped.width * dropped.height
        return self._pixels[path]

    def _augmented(
        self, picture: Image.Image, labelled: LabelledImage, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], NDArray[np.float16] | None]:
        window, size_hw = random_window(self.augmentation.scale, rng), self.preprocess.size_hw
        fill = tuple(round(channel / self.preprocess.rescale_factor) for channel in self.preprocess.mean)
        pixels = cut(picture, window, size_hw, RESAMPLE[self.preprocess.resample], fill)
        height, width = labelled.size_hw
        every_box = np.concatenate([labelled.boxes_xyxy, labelled.held_out_xyxy])
        relative = (every_box / np.array([width, height, width, height])).astype(np.float32)
        boxes, kept = boxes_in_window(relative, window, self.augmentation.min_visible)
        masks = None if self.mask_hw is None else masks_in_window(labelled, kept, window, size_hw, self.mask_hw)
        if self.augmentation.flips:
            pixels, boxes, masks = _flipped(pixels, boxes, masks, rng)
        pixels = _recoloured(pixels, self.augmentation.colour, rng)
        return pixels, _cxcywh(boxes), kept, masks


def _flipped(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    masks: NDArray[np.float16] | None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float16] | None]:
    left_right, up_down = rng.random(2) < 0.5
    left, top, right, bottom = boxes.T
    if left_right:
        pixels, left, right = pixels[:, ::-1], 1 - right, 1 - left
        masks = None if masks is None else masks[:, :, ::-1]
    if up_down:
        pixels, top, bottom = pixels[::-1], 1 - bottom, 1 - top
        masks = None if masks is None else masks[:, ::-1]
    return pixels, np.stack([left, top, right, bottom], axis=1), masks


def _recoloured(pixels: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change contrast about the mean, brightness and each channel's gain, by up to ``strength``."""
    values = pixels.astype(np.float32)
    contrast, brightness = 1 + rng.uniform(-strength, strength, size=2)
    gains = brightness * (1 + rng.uniform(-strength, strength, size=3) / 3)
    mean = values.mean()
    changed = ((values - mean) * contrast + mean) * gains.astype(np.float32)
    recoloured: NDArray[np.uint8] = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return recoloured


def _cxcywh(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


@dataclass(frozen=True)
class Collator:
    """Stack samples into a batch, draw one phrase for each class, and compose some of what the objects look like.

    The seed and the first sample's number decide the phrases, and which classes are left out (``drop_classes``).
    """

    prompts: Prompts
    seed: int
    attribute_phrases: int = 0
    drop_classes: float = 0.0

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return ``image`` uint8 ``[B, h, w, 3]``, ``texts`` (P phrases), ``targets`` and ``annotated`` ``[B, P]``.

        The first phrases are those of the classes ``asked`` int64 ``[A]``, the others are composed ones. Targets count
        classes by their place in ``asked``; see ``detection_loss``.
        """
        rng = np.random.default_rng((self.seed, samples[0].index, 2))
        texts = [entry.phrases[rng.integers(len(entry.phrases))].text for entry in self.prompts.classes]
        fits = np.concatenate([sample.word_fits for sample in samples])
        phrases = draw_attribute_phrases(fits, self.attribute_phrases, rng)
        asked = _asked(np.any([sample.annotated for sample in samples], axis=0), self.drop_classes, rng)
        annotated = np.pad(
            np.stack([sample.annotated[asked] for sample in samples]), ((0, 0), (0, len(phrases))), constant_values=True
        )
        return {
            "image": torch.from_numpy(np.stack([sample.image for sample in samples])),
            "texts": [*(texts[index] for index in asked), *(phrase.text for phrase in phrases)],
            "targets": [_target(_of_classes(sample, asked, bool(phrases)), len(asked), phrases) for sample in samples],
            "annotated": torch.from_numpy(annotated),
            "asked": torch.from_numpy(asked),
        }


def _asked(judged: NDArray[np.bool_], dropped: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The classes of a step, each left out with probability ``dropped``, but for one that its pictures can judge."""
    if not dropped:
        return np.arange(len(judged))
    kept = rng.random(len(judged)) >= dropped
    if not (kept & judged).any():
        kept[rng.choice(np.flatnonzero(judged))] = True
    return np.flatnonzero(kept)


def _of_classes(sample: Sample, asked: NDArray[np.int64], keep_others: bool) -> Sample:
    """The sample with its classes counted in ``asked``; objects of others are background, or (kept) of no class."""
    places = np.full(len(sample.annotated) + 1, NO_CLASS)  # the last one is that of NO_CLASS itself, -1
    places[asked] = np.arange(len(asked))
    class_ids = places[sample.class_ids]
    kept = (class_ids >= 0) | (sample.class_ids == NO_CLASS) | keep_others
    return replace(
        sample,
        class_ids=class_ids[kept],
        boxes_cxcywh=sample.boxes_cxcywh[kept],
        word_fits=sample.word_fits[kept],
        masks=None if sample.masks is None else sample.masks[kept],
    )


def _target(sample: Sample, classes: int, phrases: Sequence[AttributePhrase]) -> dict[str, Tensor]:
    own = np.where(sample.class_ids[:, None] == np.arange(classes), 1, -1)
    fits = np.concatenate([own, *(phrase.fits(sample.word_fits)[:, None] for phrase in phrases)], axis=1)
    masks = {} if sample.masks is None else {"masks": torch.from_numpy(np.ascontiguousarray(sample.masks))}
    return masks | {
        "boxes": torch.from_numpy(np.ascontiguousarray(sample.boxes_cxcywh, dtype=np.float32)),
        "classes": torch.from_numpy(sample.class_ids),
        "fits": torch.from_numpy(fits.astype(np.int8)),
        "held_out": torch.from_numpy(np.ascontiguousarray(sample.held_out_cxcywh, dtype=np.float32)),
    }
