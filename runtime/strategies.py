"""Which phrases each image of a run is prompted with: all of them, those of a map, or those that answer best on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.tiling import Tiling, merge_tile_detections
from medprompt.runtime.detector import Detector
from medprompt.runtime.pipeline import Request, Steps, finished

Image = NDArray[np.uint8]


class Prompting:
    """Every image with the whole bank; the base of the other ways."""

    @property
    def name(self) -> str:
        """What results call it."""
        return "bank"

    @property
    def tiling(self) -> Tiling | None:
        """How large images are cut; None where they are not."""
        return None

    def order(self, paths: Sequence[Path]) -> list[int]:
        """Places of the paths in the order to serve them in: images of one prompt set after one another."""
        return list(range(len(paths)))

    def detect(self, detector: Detector, path: Path, image_rgb: Image) -> Detections:
        """Detect in one image, uint8 ``[H, W, 3]``. Raises as ``Detector.__call__``."""
        return finished(detector, self.steps(detector, path, image_rgb))

    def steps(self, detector: Detector, path: Path, image_rgb: Image) -> Steps[Detections]:
        """The same, for ``medprompt.runtime.pipeline.in_flight``."""
        return detector.steps(image_rgb)


@dataclass(frozen=True)
class MappedPhrases(Prompting):
    """Each image with its own phrases.

    ``phrases`` is by image, see ``medprompt.generation.map_fit.fit_prompt_map``.
    """

    phrases: Mapping[Path, tuple[str, ...]]
    name = "map"

    def order(self, paths: Sequence[Path]) -> list[int]:
        """See ``Prompting.order``."""
        return [index for indices in grouped(self.phrases[path] for path in paths).values() for index in indices]

    def steps(self, detector: Detector, path: Path, image_rgb: Image) -> Steps[Detections]:
        """See ``Prompting.steps``."""
        return detector.steps(image_rgb, self.phrases[path])


@dataclass(frozen=True)
class BestPhrases(Prompting):
    """Each image with those phrases that answer best on it, see ``detect_by_best``.

    Raises:
        InputError: Fewer than one.
    """

    max_phrases: int

    def __post_init__(self) -> None:
        if self.max_phrases < 1:
            raise InputError(
                "No phrase would be left.",
                where="select",
                expected="top:1 or more",
                got=self.name,
                fix="keep at least one phrase a class",
            )

    @property
    def name(self) -> str:
        """See ``Prompting.name``."""
        return f"top:{self.max_phrases}"

    def steps(self, detector: Detector, path: Path, image_rgb: Image) -> Steps[Detections]:
        """See ``Prompting.steps``."""
        return _best_steps(detector, image_rgb, self.max_phrases)


@dataclass(frozen=True)
class Tiled(Prompting):
    """Images larger than a tile in pieces, each prompted as ``inner`` prompts an image.

    Raises:
        InputError: Phrases chosen by response: tiles of one image would be prompted with different ones.
    """

    inner: Prompting
    cut: Tiling

    def __post_init__(self) -> None:
        if isinstance(self.inner, BestPhrases):
            raise InputError("tile= and select= cannot be combined.", where="tile, select", fix="leave out one of them")

    @property
    def name(self) -> str:
        """See ``Prompting.name``."""
        return self.inner.name

    @property
    def tiling(self) -> Tiling:
        """See ``Prompting.tiling``."""
        return self.cut

    def order(self, paths: Sequence[Path]) -> list[int]:
        """See ``Prompting.order``."""
        return self.inner.order(paths)

    def steps(self, detector: Detector, path: Path, image_rgb: Image) -> Steps[Detections]:
        """See ``Prompting.steps``; one tile after another, so that memory stays that of one."""
        size_hw = (image_rgb.shape[0], image_rgb.shape[1])
        tiles = self.cut.tiles(size_hw)
        if len(tiles) == 1:
            return (yield from self.inner.steps(detector, path, image_rgb))
        found = []
        for left, top, right, bottom in tiles:
            piece = np.ascontiguousarray(image_rgb[top:bottom, left:right])
            found.append((yield from self.inner.steps(detector, path, piece)))
        return merge_tile_detections(found, tiles, size_hw)


def best_phrases_from_text(text: str) -> BestPhrases:
    """Read ``top:N``.

    Raises:
        InputError: Anything else, or an N under 1.
    """
    kind, _, number = text.partition(":")
    if kind != "top" or not number.isdecimal():
        raise InputError(
            "The selection of phrases cannot be read.", where="select", expected="top:N, such as top:2", got=repr(text)
        )
    return BestPhrases(int(number))


def detect_by_best(detector: Detector, image_rgb: Image, max_phrases: int) -> Detections:
    """Prompt an image with the whole bank, keep each class's ``max_phrases`` best phrases, and answer with those alone.

    Best is by ``phrase_responses`` of the first pass. Where no class has more than ``max_phrases``, the first pass is
    the answer, equal to ``detector(image_rgb)``.

    Raises:
        ImageError: Not a uint8 RGB image with at least one pixel.
        EngineError: The engine failed, or answered NaN or Inf.
    """
    return finished(detector, _best_steps(detector, image_rgb, max_phrases))


def _best_steps(detector: Detector, image_rgb: Image, max_phrases: int) -> Steps[Detections]:
    image_feeds = detector.image_feeds([image_rgb])
    prompt_set = detector.prompts.whole
    outputs = yield Request(image_feeds, prompt_set)
    if np.bincount(prompt_set.bank.phrase_classes).max() > max_phrases:
        responses = phrase_responses(outputs, 0, len(prompt_set.bank.prompts.texts))
        prompt_set = detector.prompts.of_rows(best_rows(responses, prompt_set.bank.phrase_classes, max_phrases))
        outputs = yield Request(image_feeds, prompt_set)
    return detector.segmented(image_rgb, detector.detections(outputs, 0, image_rgb.shape[:2], prompt_set))


def phrase_responses(outputs: Mapping[str, NDArray[Any]], index: int, phrases: int) -> NDArray[np.float32]:
    """How strongly each phrase answers on an image.

    A phrase's response is the best score among the graph's K detections that it won (``phrase_ids``), before
    thresholds and suppression, weight included; 0 where it won none. Under mean pooling a detection is won by the
    phrase with the largest share, and its score is the class's.

    Of ``phrases`` phrases float32 ``[P]``, on image ``index`` of the batch; see ``Detector.outputs``.
    """
    responses = np.zeros(phrases, dtype=np.float32)
    np.maximum.at(responses, outputs["phrase_ids"][index], outputs["scores"][index].astype(np.float32))
    return responses


def best_rows(responses: NDArray[np.float32], phrase_classes: NDArray[np.int64], max_phrases: int) -> list[int]:
    """Places of each class's best phrases; of equal ones the first in the bank.

    Rising, from responses float32 ``[P]`` and class ids int64 ``[P]``. A class with no more than ``max_phrases`` keeps
    all.
    """
    kept: list[int] = []
    for class_id in np.unique(phrase_classes):
        rows = np.flatnonzero(phrase_classes == class_id)
        kept.extend(rows[np.argsort(-responses[rows], kind="stable")[:max_phrases]].tolist())
    return sorted(kept)


def detect_in_groups(
    detector: Detector, images: Sequence[Image], phrases: Sequence[Iterable[str] | None]
) -> list[Detections]:
    """Detect in several images, each with its own phrases: one batch a prompt set, results in the images' order.

    Images are uint8 ``[H, W, 3]`` each and may differ in size; None stands for the whole bank.

    Raises:
        ValueError: Not one entry an image.
        ImageError, BankError, EngineError: See ``Detector.__call__``; nothing is run where a phrase is not known.
    """
    prompt_sets = [detector.prompts.of(texts) for texts in phrases]
    if len(prompt_sets) != len(images):
        raise ValueError(f"expected one list of phrases an image, got {len(prompt_sets)} for {len(images)} images")
    found: dict[int, Detections] = {}
    for texts, indices in grouped(one.bank.prompts.texts for one in prompt_sets).items():
        found.update(zip(indices, detector.batch([images[index] for index in indices], texts), strict=True))
    return [found[index] for index in range(len(images))]


def grouped(phrases: Iterable[Sequence[str]]) -> dict[frozenset[str], list[int]]:
    """Places of equal sets of phrases, by set; sets in the order in which they first come."""
    indices: dict[frozenset[str], list[int]] = {}
    for index, texts in enumerate(phrases):
        indices.setdefault(frozenset(texts), []).append(index)
    return indices
