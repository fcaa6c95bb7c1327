"""What labelled objects look like, in words: size, colour and shape measured on their own boxes and pixels.

Labels name classes. To learn what "tiny" or "purple" mean apart from any class, a step adds phrases composed of such
words: objects that fit a phrase are its positives, whatever their class, and the others its negatives.

Every word is a range of measured values. A value close to the end of a range is neither a yes nor a no.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEASURES = ("size", "elongation", "hue", "saturation", "value")
"""Columns of ``measure_attributes``: side of the square of the same area, in shares of the picture's side; longer over
shorter side; hue in degrees from 90 to 450, so that red and pink do not wrap; saturation and value in 0 … 1."""

BORDER = np.array([0.08, 0.05, 8.0, 0.015, 0.05])
"""How close to the end of a range a value is doubtful: in shares of the end for the first two, else in its unit."""

RELATIVE = np.array([True, True, False, False, False])


@dataclass(frozen=True)
class AttributeWord:
    """A word and others of the same meaning, with minimum and maximum of each measure that matters.

    Words of one attribute stand at the same position of a phrase.
    """

    attribute: str
    texts: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]


EVER = float("inf")
ATTRIBUTE_WORDS = (
    # BCCD: white blood cells have a size of 0.19 … 0.39, red ones 0.15 … 0.21 (5th and 95th percentile in the first 60
    # training images); nuclei of the Data Science Bowl 0.03 … 0.16.
    AttributeWord("size", ("tiny", "minute"), {"size": (0.0, 0.09)}),
    AttributeWord("size", ("small", "little"), {"size": (0.09, 0.15)}),
    AttributeWord("size", ("medium", "medium sized"), {"size": (0.15, 0.26)}),
    AttributeWord("size", ("large", "big"), {"size": (0.26, EVER)}),
    AttributeWord("color", ("purple", "violet"), {"hue": (215, 305), "saturation": (0.08, EVER)}),
    AttributeWord("color", ("pink", "reddish"), {"hue": (315, 385), "saturation": (0.06, EVER)}),
    AttributeWord("color", ("gray", "grey"), {"saturation": (0.0, 0.06), "value": (0.2, 0.75)}),
    AttributeWord("color", ("white", "bright"), {"saturation": (0.0, 0.06), "value": (0.75, EVER)}),
    # A box tells of elongation along its sides only; an object that lies aslant passes for round.
    AttributeWord("shape", ("round", "circular"), {"elongation": (0.0, 1.3)}),
    AttributeWord("shape", ("oval",), {"elongation": (1.3, 1.7)}),
    AttributeWord("shape", ("elongated", "long"), {"elongation": (1.7, EVER)}),
)
ATTRIBUTE_ORDER = (("size", "color", "shape"), ("size", "shape", "color"))
NOUNS = ("object", "spot", "blob", "bump", "thing", "body")
TINY_NOUNS = ("dot", "speck", "spot", "particle")
"""Nouns that say "tiny" themselves stand only with words that say so too."""

ATTRIBUTE_TEXTS = (*(text for word in ATTRIBUTE_WORDS for text in word.texts), *NOUNS, *TINY_NOUNS)
"""Every word that a composed phrase may hold."""


@dataclass(frozen=True)
class AttributePhrase:
    """A composed phrase: its text, and the indices in ``ATTRIBUTE_WORDS`` of the words that must all fit."""

    text: str
    words: tuple[int, ...]

    def fits(self, fits: NDArray[np.int8]) -> NDArray[np.int8]:
        """``[N]`` from the words' own ``[N, W]``: 1 fits, -1 does not, 0 doubtful."""
        worst: NDArray[np.int8] = fits[:, list(self.words)].min(axis=1)
        return worst


def longest_attribute_phrase(length: Callable[[str], int]) -> str:
    """The longest phrase that can be composed, by a text's ``length`` in the text encoder's tokens."""
    texts: dict[str, list[str]] = {}
    for word in ATTRIBUTE_WORDS:
        texts.setdefault(word.attribute, []).extend(word.texts)
    parts = [max(texts[name], key=length) for name in ATTRIBUTE_ORDER[0] if name in texts]
    return " ".join([*parts, max((*NOUNS, *TINY_NOUNS), key=length)])


def measure_attributes(
    image: NDArray[np.uint8], boxes_cxcywh: NDArray[np.float32], width_to_height: float
) -> NDArray[np.float64]:
    """Measure objects where the model sees them.

    Args:
        image: uint8 ``[h, w, 3]``, RGB.
        boxes_cxcywh: ``[N, 4]`` in 0 … 1.
        width_to_height: Of the source, since the model's own square may have squeezed it.

    Returns:
        ``[N, 5]``, see ``MEASURES``. Colour is the mean over the middle half of each side of the box.
    """
    boxes = boxes_cxcywh.astype(np.float64)
    width, height = boxes[:, 2], boxes[:, 3]
    ratio = width * width_to_height / height
    colours = [_hue_saturation_value(_middle(image, *box)) for box in boxes]
    return np.column_stack([np.sqrt(width * height), np.maximum(ratio, 1 / ratio), np.reshape(colours, (-1, 3))])


def _middle(image: NDArray[np.uint8], x: float, y: float, w: float, h: float) -> NDArray[np.float64]:
    """Mean colour in 0 … 1 of the middle of a box, at least one pixel."""
    height, width = image.shape[:2]
    columns, rows = _span(x - w / 4, x + w / 4, width), _span(y - h / 4, y + h / 4, height)
    mean: NDArray[np.float64] = image[rows, columns].reshape(-1, 3).mean(axis=0) / 255
    return mean


def _span(low: float, high: float, size: int) -> slice:
    first = min(max(round(low * size), 0), size - 1)
    return slice(first, max(first + 1, round(high * size)))


def _hue_saturation_value(colour: NDArray[np.float64]) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    return (hue * 360 - 90) % 360 + 90, saturation, value


def fitting_words(measures: NDArray[np.float64]) -> NDArray[np.int8]:
    """Which words are true of which object: ``[N, 5]`` to ``[N, W]``, 1 true, -1 false, 0 doubtful."""
    return np.stack([_fits(word, measures) for word in ATTRIBUTE_WORDS], axis=1)


def _fits(word: AttributeWord, measures: NDArray[np.float64]) -> NDArray[np.int8]:
    verdict = np.ones(len(measures), dtype=np.int8)
    for name, (low, high) in word.ranges.items():
        index = MEASURES.index(name)
        value = measures[:, index]
        for sign, end in ((1, low), (-1, high)):
            if 0 < end < EVER:
                margin = BORDER[index] * (end if RELATIVE[index] else 1.0)
                inside, outside = sign * value >= sign * end + margin, sign * value < sign * end - margin
                verdict = np.minimum(verdict, np.where(inside, 1, np.where(outside, -1, 0))).astype(np.int8)
    return verdict


def draw_attribute_phrases(fits: NDArray[np.int8], count: int, rng: np.random.Generator) -> list[AttributePhrase]:
    """Compose ``count`` phrases that tell the objects of a step apart; none where no object fits any word.

    Every second phrase is true of an object; the others have one word of such a phrase changed. Objects that look alike
    count once, so that a hundred red cells do not drown one white. ``fits``: see ``fitting_words``.
    """
    kinds = np.unique(fits, axis=0)
    kinds = kinds[(kinds == 1).any(axis=1)]
    if not len(kinds):
        return []
    drawn = []
    for number in range(count):
        words = _words_of(kinds[rng.integers(len(kinds))], rng)
        drawn.append(_phrase(words if number % 2 == 0 else _one_changed(words, rng), rng))
    return drawn


def _words_of(kind: NDArray[np.int8], rng: np.random.Generator) -> list[int]:
    """One to three of the words that are true of an object."""
    true = rng.permutation(np.flatnonzero(kind == 1))
    return [int(word) for word in true[: rng.integers(1, len(true) + 1)]]


def _one_changed(words: Sequence[int], rng: np.random.Generator) -> list[int]:
    changed = list(words)
    index = int(rng.integers(len(changed)))
    attribute = ATTRIBUTE_WORDS[changed[index]].attribute
    others = [n for n, word in enumerate(ATTRIBUTE_WORDS) if word.attribute == attribute and n != changed[index]]
    changed[index] = int(rng.choice(others))
    return changed


def _phrase(words: Sequence[int], rng: np.random.Generator) -> AttributePhrase:
    by_attribute = {ATTRIBUTE_WORDS[word].attribute: ATTRIBUTE_WORDS[word] for word in words}
    order = ATTRIBUTE_ORDER[rng.integers(len(ATTRIBUTE_ORDER))]
    chosen = [str(rng.choice(by_attribute[name].texts)) for name in order if name in by_attribute]
    tiny = any("tiny" in word.texts for word in by_attribute.values())
    noun = str(rng.choice(TINY_NOUNS if tiny else NOUNS))
    return AttributePhrase(" ".join([*chosen, noun]), tuple(sorted(words)))
