"""More phrases from those there are: synonyms, degree words, expert descriptions, and pairs of normal and abnormal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

from medprompt.core.errors import PromptError
from medprompt.generation.lexicon import Lexicon
from medprompt.prompts.file import checked_prompts
from medprompt.prompts.schema import Origin, Phrase, PromptClass, Prompts

ABNORMAL, NORMAL = "abnormal", "normal"


@dataclass(frozen=True)
class Augmentation:
    """What to add.

    Attributes:
        synonyms, degrees: Replace one attribute's word by a synonym; put a degree word before it.
        experts: Add the lexicon's descriptions of a class, found by any of its names.
        pairs_of: Add the classes "abnormal" and "normal" for this object, such as "tissue"; None: do not.
        max_new: Maximum number of new phrases a class.
        date: Recorded with each new phrase, as YYYY-MM-DD.
    """

    synonyms: bool = True
    degrees: bool = True
    experts: bool = True
    pairs_of: str | None = None
    max_new: int = 20
    date: str | None = None


def augmented_prompts(prompts: Prompts, lexicon: Lexicon, augmentation: Augmentation) -> Prompts:
    """Add phrases to every class; those that are there stay, in their order, before the new ones.

    Each new phrase differs from its parent, which its origin names, in one word. Where a class has more candidates
    than ``max_new``, every phrase gets its turn before any gets a second.

    Raises:
        PromptError: Nothing was found to add, or a pair's class is there already.
    """
    taken = {text.casefold() for text in prompts.texts}
    classes = [_augmented_class(entry, lexicon, augmentation, taken) for entry in prompts.classes]
    if augmentation.pairs_of:
        classes += _pair_classes(augmentation.pairs_of, lexicon, augmentation, taken)
    made = checked_prompts(prompts, classes, "augmented prompts")
    if made.texts == prompts.texts:
        raise PromptError(
            "There is nothing to add.",
            got=", ".join(prompts.texts[:3]),
            fix="use words of the lexicon in the phrases, or pass lexicon=FILE that has yours",
        )
    return made


def _augmented_class(entry: PromptClass, lexicon: Lexicon, rules: Augmentation, taken: set[str]) -> PromptClass:
    streams = [_variants(phrase, lexicon, rules) for phrase in entry.phrases]
    if rules.experts:
        streams.insert(0, (_new(text, name, rules) for name, text in expert_texts(entry, lexicon)))
    new: list[Phrase] = []
    for phrase in chain.from_iterable(zip_longest(*streams)):  # each stream in turn
        if len(new) == rules.max_new:
            break
        if phrase and phrase.text.casefold() not in taken:
            taken.add(phrase.text.casefold())
            new.append(phrase)
    return entry.with_phrases((*entry.phrases, *new))


def _variants(phrase: Phrase, lexicon: Lexicon, rules: Augmentation) -> Iterator[Phrase]:
    for attribute, word in _words_of(phrase, lexicon):
        entry = lexicon.attributes[attribute]
        synonyms = entry.synonyms.get(word, ()) if rules.synonyms else ()
        degrees = tuple(f"{degree} {word}" for degree in entry.degrees) if rules.degrees else ()
        for new in (*synonyms, *degrees):
            text = replaced_word(phrase.text, word, new)
            if text is not None and not has_degree(phrase.text, word, entry.degrees, new):
                yield _new(text, phrase.text, rules, phrase.weight)


def _words_of(phrase: Phrase, lexicon: Lexicon) -> list[tuple[str, str]]:
    """(attribute, word) pairs that a phrase may have: those its origin names, else all of the lexicon."""
    named = phrase.origin.attributes if phrase.origin else None
    if named:
        return [(key, word.value) for key, word in named.items() if key in lexicon.attributes]
    return [(key, word) for key, entry in lexicon.attributes.items() for word in entry.words]


def replaced_word(text: str, word: str, new: str) -> str | None:
    """``text`` with the first whole ``word`` replaced (case is ignored); None where it is not in it."""
    pattern = rf"(?<![\w-]){re.escape(word)}(?![\w-])"
    found = re.search(pattern, text, flags=re.IGNORECASE)
    return text[: found.start()] + new + text[found.end() :] if found else None


def has_degree(text: str, word: str, degrees: Iterable[str], new: str) -> bool:
    """Whether a degree would be put before a word that has one already ("very pale red")."""
    if not new.endswith(f" {word}"):
        return False
    return any(replaced_word(text, f"{degree} {word}", "") is not None for degree in degrees)


def expert_texts(entry: PromptClass, lexicon: Lexicon) -> list[tuple[str, str]]:
    """(name, description) pairs that the lexicon has for a class, by any of its names or phrases."""
    names = (entry.label, *(entry.name_for(use) for use in ("mlm", "vqa", "prompt")))
    known_names = {name.casefold() for name in (*names, *(phrase.text for phrase in entry.phrases))}
    return [(name, text) for name, texts in lexicon.experts.items() if name.casefold() in known_names for text in texts]


def _new(text: str, parent: str, rules: Augmentation, weight: float = 1.0) -> Phrase:
    return Phrase(text=text, weight=weight, source="augmented", origin=Origin(parent=parent, date=rules.date))


def _pair_classes(name: str, lexicon: Lexicon, rules: Augmentation, taken: set[str]) -> list[PromptClass]:
    made = []
    for label, templates in ((ABNORMAL, lexicon.pairs.abnormal), (NORMAL, lexicon.pairs.normal)):
        texts = [template.replace("{name}", name) for template in templates]
        fresh = [text for text in texts if text.casefold() not in taken][: rules.max_new]
        if not fresh:
            raise PromptError("The lexicon has no phrases for a pair.", where=f"pairs: {label}", expected="a phrase")
        made.append(PromptClass(label=label, phrases=tuple(_new(text, name, rules) for text in fresh)))
    return made
