"""Phrases in other words: each kind of change, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from medprompt.core.errors import PromptError
from medprompt.prompts.schema import Phrase, PromptClass
from medprompt.prompts.wording import (
    KINDS,
    Question,
    Unasked,
    Wording,
    negated,
    questions_of,
    read_wording,
    shuffled,
    synonymous,
    texts_of,
    translated,
)

WORDS = Wording(
    synonyms={
        "red blood cell": ("erythrocyte",),
        "cell": ("body",),
        "RED": ("crimson", "scarlet"),
        "disc": ("circle",),
    },
    translations={"de": {"red": "rot", "disc": "Scheibe", "oval": "oval"}},
).over(Wording())


@pytest.mark.parametrize(
    ("text", "way", "said"),
    [
        ("red disc", 0, "crimson circle"),
        ("Red disc", 1, "scarlet circle"),  # the last synonym stands for those that a term lacks
        ("a red blood cell", 0, "a erythrocyte"),  # the longest term, and nothing of it twice
        ("red-disc", 0, None),
        ("discus", 0, None),
        ("polyp", 0, None),
    ],
)
def test_synonyms_replace_whole_terms(text: str, way: int, said: str | None) -> None:
    assert synonymous(text, WORDS, way) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [("red disc", "rot Scheibe"), ("red polyp", None), ("oval", None), ("red, oval disc", "rot, oval Scheibe")],
)
def test_a_translation_is_whole_or_none(text: str, said: str | None) -> None:
    assert translated(text, WORDS.translations["de"]) == said


def test_negation_and_order() -> None:
    assert negated("polyp") == "no polyp"
    assert negated("No polyp") is None
    assert negated("nodule") == "no nodule"
    assert shuffled("small red cell") == "cell red small"
    assert shuffled("cell") is None
    assert shuffled("cell by cell") is None


def test_every_kind_is_asked_or_named() -> None:
    for texts in ("red disc",), ("polyp",), ("no", "xyz"), ("bicycle",):
        for words in read_wording(), Wording():
            found = list(questions_of(texts, words))
            assert {one.kind for one in found} == KINDS.keys() - {"exchanged", "beside"}
            asked = [one for one in found if isinstance(one, Question)]
            assert len({(one.kind, one.texts) for one in asked}) == len(asked)
            assert all(one.texts for one in asked)
            assert not {one.kind for one in asked} & {one.kind for one in found if isinstance(one, Unasked)}


def test_a_word_of_the_class_is_not_absent_from_it() -> None:
    names = [one.name for one in questions_of(("a bicycle",), read_wording()) if one.kind == "absent"]
    assert "bicycle" not in names
    assert names


def test_own_words_stand_above_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("absent: [tram]\nsynonyms: {Polyp: [growth]}\ntranslations: {fr: {polyp: polype}}\n")
    words = read_wording(path)
    assert words.absent == ("tram",)
    assert words.filler == read_wording().filler
    assert synonymous("polyp", words) == "growth"
    assert synonymous("red disc", words) == "crimson circle"
    assert sorted(words.translations) == ["de", "es", "fr"]


@pytest.mark.parametrize("content", ["synonyms: [a]", "colours: {}", "- a", "absent: yes"])
def test_a_file_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(content)
    with pytest.raises(PromptError, match="words file"):
        read_wording(path)


def test_an_ensemble_is_asked_by_its_phrases() -> None:
    plain = PromptClass(label="RBC", phrases=(Phrase(text="red cell"),))
    assert texts_of(plain) == ("red cell",)
    joined = {"text": "a; b", "source": "ensemble", "origin": {"mean_of": {"a": 1.0, "b": 0.5}}}
    made = PromptClass.model_validate({"label": "RBC", "phrases": [joined]})
    assert texts_of(made) == ("a", "b")
