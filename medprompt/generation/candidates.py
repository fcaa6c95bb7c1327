"""What a class could be called instead: its phrases with other attribute words, fewer of them, its other names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from medprompt.generation.augment import expert_texts, has_degree, replaced_word
from medprompt.generation.lexicon import AttributeWords, Lexicon
from medprompt.prompts.attributes import DEFAULT_TEMPLATE, NAME, filled_template, tidy
from medprompt.prompts.schema import AttributeOrigin, Origin, Phrase, PromptClass, Prompts

Words = Mapping[str, AttributeOrigin]
"""The word of each attribute."""

_NO_WORDS = AttributeWords(words=("",))


@dataclass(frozen=True)
class ClassWords:
    """What new phrases of one class are made of.

    Attributes:
        date: Recorded with each new phrase, as YYYY-MM-DD.
        values: The words that the class's own phrases have for each attribute, in their order.
    """

    entry: PromptClass
    template: str
    lexicon: Lexicon
    date: str | None = None
    values: Mapping[str, tuple[AttributeOrigin, ...]] = field(default_factory=dict)

    def starting_phrases(self) -> tuple[Phrase, ...]:
        """The class's own phrases, then its names, then the lexicon's descriptions of it; each text once."""
        entry = self.entry
        names = (entry.label, *(entry.name_for(use) for use in ("mlm", "vqa", "prompt")))
        experts = (self._new(text, name) for name, text in expert_texts(entry, self.lexicon))
        return _distinct([*entry.phrases, *(self._new(name, entry.label) for name in names), *experts])

    def variants(self, phrase: Phrase) -> tuple[Phrase, ...]:
        """Phrases that differ from ``phrase`` in one attribute word, the likelier ones first.

        A word is left out; replaced by another of the class's own, by a synonym or with a degree word; an attribute
        is added that other phrases of the class have; last come all other words that the lexicon has for it.
        """
        words = attribute_words(phrase, self.lexicon)
        left_out: list[tuple[str, AttributeOrigin | None]] = [(attribute, None) for attribute in words]
        added = [(absent, value) for absent in self.values if absent not in words for value in self.values[absent]]
        steps = [*left_out, *self._exchanged(words), *added, *self._any_word(words)]
        made = filter(None, (self._child(phrase, words, attribute, new) for attribute, new in steps))
        return _distinct([phrase, *made])[1:]

    def _exchanged(self, words: Words) -> Iterator[tuple[str, AttributeOrigin]]:
        for attribute, word in words.items():
            entry = self.lexicon.attributes.get(attribute, _NO_WORDS)
            yield from ((attribute, value) for value in self.values.get(attribute, ()))
            yield from ((attribute, AttributeOrigin(value=w)) for w in entry.synonyms.get(word.value, ()))
            if word.value.split()[0] not in entry.degrees:  # one degree a word
                yield from ((attribute, AttributeOrigin(value=f"{degree} {word.value}")) for degree in entry.degrees)

    def _any_word(self, words: Words) -> Iterator[tuple[str, AttributeOrigin]]:
        for attribute in words:
            if attribute in self.lexicon.attributes and attribute not in ("location", "modality"):
                listed = self.lexicon.attributes[attribute].words
                yield from ((attribute, AttributeOrigin(value=word)) for word in listed)

    def _child(self, parent: Phrase, words: Words, attribute: str, new: AttributeOrigin | None) -> Phrase | None:
        """The phrase with one attribute's word put in or left out; None where that cannot be done."""
        changed = {key: word for key, word in {**words, attribute: new}.items() if word is not None}
        has_words = parent.origin is not None and bool(parent.origin.attributes)
        if has_words and self._filled(words).casefold() == parent.text.casefold():
            text = self._filled(changed)
        else:
            text = self._exchanged_in_text(parent.text, words.get(attribute), new, attribute)
        return self._new(text, parent.text, parent.weight, changed if has_words else None) if text else None

    def _exchanged_in_text(
        self, text: str, old: AttributeOrigin | None, new: AttributeOrigin | None, attribute: str
    ) -> str:
        if old is None:
            return ""  # written by hand: there is no telling where a new word belongs
        degrees = self.lexicon.attributes.get(attribute, _NO_WORDS).degrees
        if new is not None and has_degree(text, old.value, degrees, new.value):
            return ""
        return tidy(replaced_word(text, old.value, new.value if new else "") or "")

    def _filled(self, words: Words) -> str:
        name = self.entry.name_for("prompt")
        return filled_template(self.template, {NAME: name, **{key: word.value for key, word in words.items()}})

    def _new(
        self, text: str, parent: str, weight: float = 1.0, attributes: dict[str, AttributeOrigin] | None = None
    ) -> Phrase:
        origin = Origin(parent=parent, date=self.date, attributes=attributes or None)
        return Phrase(text=text, weight=weight, source="search", origin=origin)


def class_words(prompts: Prompts, lexicon: Lexicon, date: str | None = None) -> tuple[ClassWords, ...]:
    """Collect, for each class of a prompts file, what its candidates are made of."""
    words = (_values(attribute_words(phrase, lexicon) for phrase in entry.phrases) for entry in prompts.classes)
    return tuple(
        ClassWords(entry, entry.template or prompts.template or DEFAULT_TEMPLATE, lexicon, date, values)
        for entry, values in zip(prompts.classes, words, strict=True)
    )


def attribute_words(phrase: Phrase, lexicon: Lexicon) -> dict[str, AttributeOrigin]:
    """The word of each attribute in a phrase: what its origin names, else the longest of the lexicon found in it."""
    if phrase.origin and phrase.origin.attributes:
        return dict(phrase.origin.attributes)
    found = {}
    for attribute, entry in lexicon.attributes.items():
        present = [word for word in entry.words if replaced_word(phrase.text, word, word) is not None]
        if present:
            found[attribute] = AttributeOrigin(value=max(present, key=len))
    return found


def _values(phrases: Iterable[Words]) -> dict[str, tuple[AttributeOrigin, ...]]:
    values: dict[str, dict[str, AttributeOrigin]] = {}
    for words in phrases:
        for attribute, word in words.items():
            values.setdefault(attribute, {}).setdefault(word.value.casefold(), word)
    return {attribute: tuple(words.values()) for attribute, words in values.items()}


def _distinct(phrases: Iterable[Phrase]) -> tuple[Phrase, ...]:
    once: dict[str, Phrase] = {}
    for phrase in phrases:
        once.setdefault(phrase.text.casefold(), phrase)
    return tuple(once.values())
