"""Prompts in other words: what a model that reads follows, and what it answers alike. Pure text, numpy and torch free.

Four kinds ask for something else, or for nothing: whoever reads answers otherwise. Synonyms ask for the same. Four
kinds are only reported: few text encoders know what "no" does or in which order words stand, a model need not know
other languages, and beside other classes some lose what they find alone, or find it only there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, StrictStr

from medprompt.core.errors import PromptError
from medprompt.core.models import FrozenModel, validate
from medprompt.core.yaml import read_yaml_file
from medprompt.prompts.names import phrase_identity
from medprompt.prompts.schema import PromptClass

V = TypeVar("V")

SHIPPED = Path(__file__).with_name("wording.yaml")

Kind = Literal["exchanged", "absent", "filler", "empty", "synonyms", "negated", "shuffled", "translated", "beside"]
KINDS: Mapping[Kind, str] = {
    "exchanged": "the phrases of another class of the bundle",
    "absent": "something that no image shows",
    "filler": "words that name nothing",
    "empty": "no words at all",
    "synonyms": "other words for the same",
    "negated": "'no' before the phrase",
    "shuffled": "the phrase's words in another order",
    "translated": "the phrase in another language",
    "beside": "its own phrases, together with the other classes of the bundle, and with one of them left out",
}
FOREIGN: tuple[Kind, ...] = ("absent", "filler", "empty")
"""Kinds that ask for what is not there, in words that the class does not have."""

MOST_SYNONYMS = 2
"""Ways in which a phrase is said otherwise, at most."""


class Wording(FrozenModel):
    """A words file; see ``wording.yaml`` for its keys."""

    filler: tuple[StrictStr, ...] = ()
    absent: tuple[StrictStr, ...] = ()
    synonyms: dict[StrictStr, tuple[StrictStr, ...]] = Field(default_factory=dict)
    translations: dict[StrictStr, dict[StrictStr, StrictStr]] = Field(default_factory=dict)

    def over(self, base: Wording) -> Wording:
        """These words above those of ``base``."""
        languages = {*base.translations, *self.translations}
        return Wording(
            filler=self.filler or base.filler,
            absent=self.absent or base.absent,
            synonyms=_folded(base.synonyms) | _folded(self.synonyms),
            translations={
                language: _folded(base.translations.get(language, {})) | _folded(self.translations.get(language, {}))
                for language in sorted(languages)
            },
        )


def _folded(table: Mapping[str, V]) -> dict[str, V]:
    return {phrase_identity(term): value for term, value in table.items()}


def read_wording(path: Path | None = None) -> Wording:
    """The shipped words, with those of a file above them.

    Raises:
        PromptError: The file is missing, is not YAML, or breaks a rule.
    """
    shipped = _read(SHIPPED).over(Wording())
    return shipped if path is None else _read(path).over(shipped)


def _read(path: Path) -> Wording:
    fix = "see `medprompt docs prompts-audit`"
    source = read_yaml_file(path, PromptError("The words file cannot be read.", fix=fix))
    failure = PromptError(
        "The words file is not valid.", where=str(path), expected=", ".join(Wording.model_fields), fix=fix
    )
    return validate(Wording, source.value, failure, source)


@dataclass(frozen=True)
class Question:
    """What is asked in a class's place.

    Attributes:
        name: Which of its kind: another class, a word, a language.
        texts: The phrases.
    """

    kind: Kind
    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Unasked:
    """A kind that a class cannot be asked in, and why."""

    kind: Kind
    why: str


def questions_of(texts: tuple[str, ...], words: Wording) -> Iterator[Question | Unasked]:
    """A class's phrases in other words: every kind but ``exchanged``, which needs another class."""
    yield from _or_why("absent", _fixed("absent", words.absent, texts), "the words file has no absent things")
    yield from _or_why("filler", _fixed("filler", words.filler, texts), "the words file has no filler")
    yield Question("empty", "nothing", ("",))
    ways = (partial(synonymous, words=words, way=way) for way in range(MOST_SYNONYMS))
    said = [_changed("synonyms", f"way {n}", texts, change) for n, change in enumerate(ways, start=1)]
    yield from _or_why("synonyms", said, "the words file has no synonym of any word in the phrases")
    yield from _or_why("negated", [_changed("negated", "no", texts, negated)], "the phrases are negated")
    yield from _or_why("shuffled", [_changed("shuffled", "reversed", texts, shuffled)], "each phrase is one word")
    tables = words.translations.items()
    spoken = [_changed("translated", name, texts, partial(translated, table=table)) for name, table in tables]
    yield from _or_why("translated", spoken, "the words file lacks a translation of some word")


def _or_why(kind: Kind, questions: Iterable[Question | None], why: str) -> Iterator[Question | Unasked]:
    """The questions, each once; where there is none, the reason."""
    distinct = {question.texts: question for question in reversed([*questions]) if question}
    found: list[Question | Unasked] = [*reversed(distinct.values())]
    yield from found or [Unasked(kind, why)]


def _fixed(kind: Kind, phrases: Iterable[str], texts: tuple[str, ...]) -> list[Question]:
    """Phrases that no phrase of the class has in it."""
    known = " ".join(texts).casefold()
    return [Question(kind, text, (text,)) for text in phrases if text.casefold() not in known]


def _changed(kind: Kind, name: str, texts: tuple[str, ...], change: Callable[[str], str | None]) -> Question | None:
    """The phrases that can be changed; None where there is none."""
    made = dict.fromkeys(text for text in map(change, texts) if text is not None)
    return Question(kind, name, tuple(made)) if made else None


def negated(text: str) -> str | None:
    """``no red cell``; None of what begins so."""
    return None if re.match(r"(?:no|not|without)\b", text, re.IGNORECASE) else f"no {text}"


def shuffled(text: str) -> str | None:
    """The words in reverse order; None where that changes nothing."""
    words = text.split()
    return " ".join(reversed(words)) if words != words[::-1] else None


def synonymous(text: str, words: Wording, way: int = 0) -> str | None:
    """Every known term replaced by its synonym number ``way``, or its last; None where no term is known."""
    made = _replaced(text, {term: names[min(way, len(names) - 1)] for term, names in words.synonyms.items() if names})
    return None if phrase_identity(made) == phrase_identity(text) else made


def translated(text: str, table: Mapping[str, str]) -> str | None:
    """The phrase word for word; None where a word has no translation, or is the same in that language."""
    left = _replaced(text, dict.fromkeys(table, ""))
    made = _replaced(text, table)
    return None if re.search(r"\w", left) or phrase_identity(made) == phrase_identity(text) else made


def _replaced(text: str, table: Mapping[str, str]) -> str:
    """Terms replaced where they are whole words, the longest first, each place once; whatever their case."""
    terms = sorted(table, key=len, reverse=True)
    pattern = "|".join(rf"(?<![\w-]){re.escape(term)}(?![\w-])" for term in terms)
    found = re.sub(pattern, lambda part: table[part[0].casefold()], text, flags=re.IGNORECASE) if terms else text
    return " ".join(found.split())


def texts_of(entry: PromptClass) -> tuple[str, ...]:
    """The phrases that a class was made of, those of an ensemble one by one."""
    made = [phrase.origin.mean_of if phrase.origin else None for phrase in entry.phrases]
    return tuple(text for phrase, mean in zip(entry.phrases, made, strict=True) for text in (mean or (phrase.text,)))
