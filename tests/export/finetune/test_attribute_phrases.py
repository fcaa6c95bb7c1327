"""Attribute words: what is measured, where a word begins and ends, and which phrases are composed."""

import numpy as np
import pytest

from medprompt.export.finetune.attribute_phrases import (
    ATTRIBUTE_TEXTS,
    ATTRIBUTE_WORDS,
    MEASURES,
    TINY_NOUNS,
    AttributePhrase,
    draw_attribute_phrases,
    fitting_words,
    longest_attribute_phrase,
    measure_attributes,
)

PURPLE, PINK, WHITE, BLACK = (140, 100, 200), (230, 150, 170), (250, 250, 250), (0, 0, 0)
WORD = {word.texts[0]: n for n, word in enumerate(ATTRIBUTE_WORDS)}


def measures(size=0.2, elongation=1.0, hue=265.0, saturation=0.5, value=0.7):
    return np.array([[size, elongation, hue, saturation, value]])


def told(fits, verdict=1):
    return {ATTRIBUTE_WORDS[n].texts[0] for n in np.flatnonzero(fits == verdict)}


def picture(colour, box, side=100):
    image = np.full((side, side, 3), 128, dtype=np.uint8)
    x, y, w, h = (round(part * side) for part in box)
    image[y - h // 2 : y + h // 2, x - w // 2 : x + w // 2] = colour
    return image, np.array([box], dtype=np.float32)


@pytest.mark.parametrize(
    ("colour", "box", "ratio", "words"),
    [
        (PURPLE, (0.5, 0.5, 0.06, 0.06), 1.0, {"tiny", "purple", "round"}),
        (PURPLE, (0.5, 0.5, 0.4, 0.4), 1.0, {"large", "purple", "round"}),
        (PINK, (0.3, 0.3, 0.2, 0.2), 1.0, {"medium", "pink", "round"}),
        (WHITE, (0.5, 0.5, 0.06, 0.2), 1.0, {"small", "white", "elongated"}),
        (WHITE, (0.5, 0.5, 0.1, 0.2), 2.0, {"white", "round"}),  # squeezed; its size lies on a border
        (BLACK, (0.5, 0.5, 0.2, 0.2), 1.0, {"medium", "round"}),  # a colour without a word
        (PINK, (0.995, 0.5, 0.01, 0.01), 1.0, {"tiny", "round"}),  # less than a pixel, at the edge: grey background
    ],
)
def test_what_an_object_looks_like(colour, box, ratio, words):
    found = told(fitting_words(measure_attributes(*picture(colour, box), ratio))[0])
    assert words <= found | {"gray"}
    assert found - {"gray", "pink"} <= words


def test_no_object():
    found = measure_attributes(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4), np.float32), 1.0)
    assert found.shape == (0, len(MEASURES))
    assert fitting_words(found).shape == (0, len(ATTRIBUTE_WORDS))
    assert draw_attribute_phrases(fitting_words(found), 4, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("size", "tiny", "small"),
    [(0.0, 1, -1), (0.082, 1, -1), (0.085, 0, 0), (0.09, 0, 0), (0.0955, 0, 0), (0.0975, -1, 1), (0.2, -1, -1)],
)
def test_a_size_on_the_border_is_neither(size, tiny, small):
    fits = fitting_words(measures(size=size))[0]
    assert (fits[WORD["tiny"]], fits[WORD["small"]]) == (tiny, small)


@pytest.mark.parametrize(
    ("hue", "saturation", "colours"),
    [(265, 0.5, {"purple"}), (350, 0.5, {"pink"}), (370, 0.5, {"pink"}), (310, 0.5, set()), (265, 0.02, {"gray"}),
     (265, 0.08, set()), (120, 0.5, set())],
)  # fmt: skip
def test_colours(hue, saturation, colours):
    found = told(fitting_words(measures(hue=hue, saturation=saturation, value=0.5))[0])
    assert found & {"purple", "pink", "gray", "white"} == colours


def test_a_phrase_fits_as_its_least_word():
    fits = np.zeros((3, len(ATTRIBUTE_WORDS)), np.int8)
    fits[:, [0, 4]] = [[1, 1], [1, 0], [0, -1]]
    assert AttributePhrase("tiny purple dot", (0, 4)).fits(fits).tolist() == [1, 0, -1]


def test_every_second_phrase_is_true_of_an_object_and_the_next_has_another_word():
    fits = fitting_words(np.concatenate([measures(size=0.05), measures(size=0.4, hue=350.0)]))
    drawn = draw_attribute_phrases(fits, 200, np.random.default_rng(0))
    assert all((phrase.fits(fits) == 1).any() for phrase in drawn[::2])
    assert sum((phrase.fits(fits) == 1).any() for phrase in drawn[1::2]) < 60
    assert all(part in " ".join(ATTRIBUTE_TEXTS).split() for phrase in drawn for part in phrase.text.split())
    attributes = [[ATTRIBUTE_WORDS[word].attribute for word in phrase.words] for phrase in drawn]
    assert all(len(set(names)) == len(names) for names in attributes)
    assert {len(names) for names in attributes} == {1, 2, 3}


def test_nouns_that_say_tiny_stand_with_tiny_only():
    fits = fitting_words(np.concatenate([measures(size=0.05), measures(size=0.4)]))
    for phrase in draw_attribute_phrases(fits, 100, np.random.default_rng(1)):
        assert (phrase.text.split()[-1] in set(TINY_NOUNS) - {"spot"}) <= (WORD["tiny"] in phrase.words)


def test_kinds_count_once():
    """A hundred red cells do not drown one white."""
    fits = fitting_words(np.concatenate([measures(size=0.05)] + [measures(size=0.4, hue=350.0)] * 100))
    drawn = draw_attribute_phrases(fits, 400, np.random.default_rng(0))[::2]
    of_the_one = sum(phrase.fits(fits)[0] == 1 for phrase in drawn)
    assert 80 < of_the_one < 180


def test_the_same_seed_draws_the_same():
    fits = fitting_words(measures())
    first, second = (draw_attribute_phrases(fits, 8, np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_no_composed_phrase_is_longer_than_the_longest():
    longest = longest_attribute_phrase(len)
    assert longest == "medium sized reddish elongated particle"
    fits = fitting_words(np.concatenate([measures(size=s, elongation=e) for s in (0.05, 0.2, 0.4) for e in (1.0, 2.0)]))
    drawn = draw_attribute_phrases(fits, 300, np.random.default_rng(0))
    assert max(len(phrase.text) for phrase in drawn) <= len(longest)
