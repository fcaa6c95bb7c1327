"""Candidates: every one differs from its parent in one word, and says so."""

import pytest

from medprompt.generation.candidates import attribute_words, class_words
from medprompt.generation.lexicon import Lexicon
from medprompt.prompts.schema import Phrase, Prompts

LEXICON = Lexicon.model_validate(
    {
        "attributes": {
            "color": {"words": ["red", "dark red", "blue"], "synonyms": {"red": ["reddish"]}, "degrees": ["pale"]},
            "shape": {"words": ["round"]},
            "location": {"words": ["skin", "lung"]},
        },
        "experts": {"bump": ["raised growth"]},
    }
)


def words_of(entry, **whole):
    return class_words(Prompts.model_validate({"classes": [entry], **whole}), LEXICON, "2026-01-02")[0]


def texts(phrases):
    return [phrase.text for phrase in phrases]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("red round bump", {"color": "red", "shape": "round"}),
        ("a dark red bump", {"color": "dark red"}),  # the longest word counts
        ("reddened bump", {}),  # whole words alone
        ("bump", {}),
    ],
)
def test_words_are_found_in_a_phrase(text, words):
    found = attribute_words(Phrase(text=text), LEXICON)
    assert {attribute: word.value for attribute, word in found.items()} == words


def test_a_class_starts_from_its_phrases_names_and_descriptions():
    entry = {"label": "Polyp", "names": {"prompt": "bump", "mlm": "polyp"}, "phrases": ["red bump", "bump"]}
    phrases = words_of(entry).starting_phrases()
    assert texts(phrases) == ["red bump", "bump", "Polyp", "raised growth"]
    assert [phrase.source for phrase in phrases] == ["manual", "manual", "search", "search"]
    assert phrases[3].origin.parent == "bump"
    assert phrases[3].origin.date == "2026-01-02"


@pytest.mark.parametrize(
    ("phrase", "others", "wanted"),
    [
        # Left out, the class's own other word, synonym, degree, the lexicon's other words.
        ("red bump", ["blue lump"], ["bump", "blue bump", "reddish bump", "pale red bump", "dark red bump"]),
        ("pale red bump", [], ["pale bump", "pale reddish bump", "pale blue bump"]),
        ("bump", ["red lump"], []),  # where a word belongs in a phrase written by hand is not known
        ("red", [], ["reddish", "pale red", "dark red", "blue"]),  # never nothing at all
        ("bump in lung", [], ["bump in"]),  # the lexicon's other places would be untrue
    ],
)
def test_variants_of_a_phrase_written_by_hand(phrase, others, wanted):
    words = words_of({"label": "x", "phrases": [phrase, *others]})
    made = words.variants(words.entry.phrases[0])
    assert texts(made) == wanted
    assert all(one.origin.parent == phrase and one.source == "search" for one in made)


def test_variants_of_a_filled_template_keep_their_words():
    entry = {
        "label": "x",
        "template": "{color} {shape} bump{name}[ in {location}]".replace("bump{name}", "{name}"),
        "names": {"prompt": "bump"},
        "attributes": {"color": ["red"], "location": ["lung"]},
        "phrases": [{"text": "round bump", "origin": {"attributes": {"shape": {"value": "round"}}}}],
    }
    words = words_of(entry)
    parent = words.entry.phrases[1]
    assert parent.text == "red bump in lung"
    made = {one.text: one for one in words.variants(parent)}
    assert list(made) == [
        "bump in lung",
        "red bump",
        "reddish bump in lung",
        "pale red bump in lung",
        "red round bump in lung",
        "dark red bump in lung",
        "blue bump in lung",
    ]
    added = made["red round bump in lung"].origin.attributes
    assert {key: word.value for key, word in added.items()} == {"color": "red", "location": "lung", "shape": "round"}
    assert set(made["red bump"].origin.attributes) == {"color"}


def test_a_word_takes_one_degree():
    words = words_of({"label": "x", "attributes": {"color": "pale red"}})
    assert not [text for text in texts(words.variants(words.entry.phrases[0])) if "pale pale" in text]


def test_a_weight_goes_on_to_the_variants():
    words = words_of({"label": "x", "phrases": [{"text": "red bump", "weight": 0.5}]})
    assert {one.weight for one in words.variants(words.entry.phrases[0])} == {0.5}
