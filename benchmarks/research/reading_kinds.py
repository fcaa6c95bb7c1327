"""What small models are taught, and how: phrases of a step, and which drawn objects each is true of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medprompt.benchmarks.research.reading_scenes import CLASSES, COLOURS, SHAPES, Pixels, Thing, scene

WORDS = {
    **{"red": ("red", "crimson"), "blue": ("blue", "azure"), "green": ("green", "emerald")},
    **{"yellow": ("yellow", "golden"), "disc": ("disc", "circle"), "ring": ("ring", "hoop"), "bar": ("bar", "rod")},
}
"""How training says a colour or a shape, where phrases vary."""

NOTHING = (
    *("a picture of tissue", "the microscope", "a letter", "green house", "dog", "stain", "hospital", "a chair"),
    *(
        "morning",
        "a long road",
        "water",
        "the name of a city",
        "taken by night",
        "an old man",
        "music",
        "left and right",
    ),
    *("tree", "a cup of tea", "train", "window", "the second week", "yellow paper", "no more", "a number", "table", ""),
)
"""Phrases that no object fits."""

Fits = Callable[[Thing], list[bool]]
"""Which of a step's phrases are true of an object."""


@dataclass(frozen=True)
class Picture:
    """A drawn picture: uint8 ``[SIDE, SIDE, 3]`` and its objects."""

    pixels: Pixels
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Kind:
    """How a model is taught words.

    Attributes:
        picture: The objects of a picture.
        ask: A step's phrases, and which objects each is true of.
        own_class_alone: Whether a picture, which is of one class, is asked for that class alone.
        phrases: What the bundle calls each class.
    """

    picture: Callable[[np.random.Generator], list[str]]
    ask: Callable[[np.random.Generator, int], tuple[list[str], Fits]]
    own_class_alone: bool = False
    phrases: tuple[str, ...] = CLASSES


def any_objects(rng: np.random.Generator) -> list[str]:
    """Objects of every colour and shape."""
    every = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [str(rng.choice(every)) for _ in range(int(rng.integers(3, 7)))]


def _mixed(rng: np.random.Generator) -> list[str]:
    return [str(rng.choice(CLASSES)) for _ in range(int(rng.integers(3, 7)))]


def _of_one_class(rng: np.random.Generator) -> list[str]:
    return [CLASSES[rng.integers(len(CLASSES))]] * int(rng.integers(2, 6))


def any_phrases(rng: np.random.Generator, count: int) -> tuple[list[str], Fits]:
    """Phrases of every colour and shape, said in several ways."""
    return _phrases(rng, count, SHAPES, lambda asked, own: asked == own)


def _varied(rng: np.random.Generator, count: int) -> tuple[list[str], Fits]:
    return _phrases(rng, count, ("disc",), lambda asked, own: asked == own)


def _half_read(rng: np.random.Generator, count: int) -> tuple[list[str], Fits]:
    return _phrases(rng, count, ("disc",), lambda asked, own: (asked in WARM) == (own in WARM))


def _phrases(
    rng: np.random.Generator, count: int, shapes: Sequence[str], same: Callable[[str, str], bool]
) -> tuple[list[str], Fits]:
    asked = [_asked(rng, shapes) for _ in range(count)]

    def fits(thing: Thing) -> list[bool]:
        return [
            bool(colour or shape) and (not colour or same(colour, thing.colour)) and shape in ("", thing.shape)
            for colour, shape in asked
        ]

    return [_said(colour, shape, rng) for colour, shape in asked], fits


def _constant(rng: np.random.Generator, count: int) -> tuple[list[str], Fits]:
    return list(CLASSES), lambda thing: [thing.name == name for name in CLASSES]


def _identifiers(rng: np.random.Generator, count: int) -> tuple[list[str], Fits]:
    """Every data set numbers its classes otherwise, so any number may be asked for any class."""
    return list(IDENTIFIERS), lambda thing: [True] * len(IDENTIFIERS)


WARM = ("red", "yellow")
IDENTIFIERS = ("class 1", "class 2", "class 3", "class 4")
KINDS = {
    "varied": Kind(_mixed, _varied),
    "identifiers": Kind(_of_one_class, _identifiers, phrases=IDENTIFIERS),
    "half-read": Kind(_mixed, _half_read),
    "by-picture": Kind(_of_one_class, _constant, own_class_alone=True),
    "by-heart": Kind(_mixed, _constant),
}
"""How words are taught.

- varied: phrases differ from step to step, so that only words tell what is asked for.
- identifiers: class identifiers as prompts, numbered otherwise in each data set.
- half-read: phrases vary; their colours tell warm from cool, and no more.
- by-picture: one constant phrase for each class; a picture is of one class, and asked for it alone.
- by-heart: one constant phrase for each class, classes beside one another.
"""


def _asked(rng: np.random.Generator, shapes: Sequence[str]) -> tuple[str, str]:
    """Colour and shape that a phrase names; either may be open, and both where no object fits."""
    kind = int(rng.choice(4, p=(0.55, 0.1, 0.1, 0.25)))
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(shapes))
    return ((colour, shape), (colour, ""), ("", shape), ("", ""))[kind]


def _said(colour: str, shape: str, rng: np.random.Generator) -> str:
    if not (colour or shape):
        return str(rng.choice(NOTHING))
    words = [str(rng.choice(WORDS[word])) for word in (colour, shape) if word]
    words = [*words, *([] if shape else ["object"])]
    forms = ("{}", "{}", "a {}", "the {}", "every {}", "{} here")
    return str(rng.choice(forms)).format(" ".join(words if rng.random() < 0.8 else words[::-1]))


def pictures(
    objects: Callable[[np.random.Generator], list[str]],
    backgrounds: Sequence[Pixels],
    count: int,
    rng: np.random.Generator,
) -> list[Picture]:
    """Draw pictures, each of what ``objects`` chooses."""
    return [Picture(*scene(backgrounds, objects(rng), rng)) for _ in range(count)]
