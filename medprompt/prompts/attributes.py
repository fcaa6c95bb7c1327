"""Attribute prompts: from a template and the words for each attribute to phrases. Pure text, nothing is read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from string import Formatter
from typing import Any, Literal

from medprompt.core.errors import PromptError

ATTRIBUTES = ("color", "shape", "texture", "size", "location", "modality")
"""Attributes that every prompts file knows; others are declared under ``free_attributes``."""

NAME = "name"
"""The template field that holds the class's name."""

DEFAULT_TEMPLATE = "{size} {color} {shape} {texture} {name}[ in {location}][, {modality}]"
MAX_PHRASES = 200
"""More phrases than this from one class are refused: a product grows fast, and each costs memory and time."""

Combine = Literal["product", "aligned"]
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Combination:
    """One phrase and the word that each attribute has in it.

    Attributes:
        text: The phrase.
        attributes: Word of each attribute that is not empty.
        ranks: Index of each attribute's word in its list, from 0.
    """

    text: str
    attributes: Mapping[str, str]
    ranks: Mapping[str, int] = field(default_factory=dict)


def phrases_from_attributes(
    name: str,
    attributes: Mapping[str, Iterable[str] | str | None],
    template: str = DEFAULT_TEMPLATE,
    *,
    free: Iterable[str] = (),
    combine: Combine = "product",
    max_phrases: int = MAX_PHRASES,
) -> tuple[Combination, ...]:
    """Fill a template with every combination of the attributes' words.

    Args:
        name: What stands for ``{name}``.
        attributes: A word, a list of words, or nothing for each attribute. An empty word in a list means "also
            without".
        template: Fields in braces. A part in square brackets is left out where a field in it is empty. Spaces and
            commas that an empty field leaves over are dropped.
        free: Further attributes that are allowed.
        combine: ``product``: every combination; ``aligned``: the first words together, the second words together, …,
            for as long as the longest list; a shorter list keeps its last word.
        max_phrases: More combinations are refused.

    Returns:
        Distinct phrases in the order of the lists, the last field of the template changing fastest.

    Raises:
        PromptError: An attribute or field that is not known, an attribute that the template does not use, or more
            combinations than ``max_phrases``.

    Example:
        >>> words = {"color": ["pink", "red"], "shape": "oval", "location": None}
        >>> [w.text for w in phrases_from_attributes("bump", words, "{color}, {shape} {name} {location}")]
        ['pink, oval bump', 'red, oval bump']
    """
    known = (*ATTRIBUTES, *free)
    fields = template_fields(template, known)
    lists = {key: _words(key, value) for key, value in attributes.items()}
    check_known(lists, known)
    used = [key for key in fields if lists.get(key)]
    _check_used(lists, fields, template)
    combinations: dict[str, Combination] = {}
    for row in _rows([len(lists[key]) for key in used], combine, max_phrases, name):
        ranks = {key: index for key, index in zip(used, row, strict=True) if lists[key][index]}
        filled = {key: lists[key][index] for key, index in ranks.items()}
        text = filled_template(template, {NAME: name, **filled})
        combinations.setdefault(text.casefold(), Combination(text, filled, ranks))
    return tuple(combinations.values())


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse attributes that are not known.

    Raises:
        PromptError: Listing the known ones.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise PromptError(
            "An attribute is not known.",
            expected=", ".join(known),
            got=", ".join(unknown),
            fix="correct the name, or declare it: free_attributes: [NAME]",
        )


def template_fields(template: str, known: Iterable[str]) -> tuple[str, ...]:
    """List a template's attribute fields in their order.

    Raises:
        PromptError: A broken template, one without ``{name}``, or a field that is not known.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise PromptError(
            "The template cannot be read.",
            got=f"{template!r}: {error}",
            fix="write fields as {color}; double a brace that is meant as such",
        ) from error
    fields = [part[1] for part in parts if part[1] is not None]
    unknown = [name for name in fields if name not in (NAME, *known)]
    dressed = [part[1] for part in parts if part[2] or part[3]]
    if unknown or dressed:
        raise PromptError(
            "The template has a field that is not known.",
            where=template,
            expected=", ".join(f"{{{name}}}" for name in (NAME, *known)),
            got=", ".join(f"{{{name}}}" for name in unknown) or f"a format in {{{dressed[0]}}}",
            fix="correct the field, or declare it: free_attributes: [NAME]",
        )
    if NAME not in fields:
        raise PromptError("The template does not name the class.", where=template, expected="a field {name}")
    return tuple(dict.fromkeys(name for name in fields if name != NAME))


def filled_template(template: str, words: Mapping[str, str]) -> str:
    """Put words into a template whose fields are known; absent fields and their optional parts drop out."""
    kept = _OPTIONAL.sub(lambda part: part[1] if _complete(part[1], words) else "", template)
    return tidy(Formatter().vformat(kept, (), defaultdict(str, words)))


def tidy(text: str) -> str:
    """Drop the spaces and commas that empty fields leave over."""
    chunks = [" ".join(chunk.split()) for chunk in text.split(",")]
    return ", ".join(chunk for chunk in chunks if chunk)


def _complete(part: str, words: Mapping[str, str]) -> bool:
    return all(words.get(name) for _, name, _, _ in Formatter().parse(part) if name is not None)


def _words(key: str, value: Any) -> list[str]:
    values = [value] if isinstance(value, str) or value is None else value
    if not isinstance(values, list | tuple) or not all(isinstance(word, str) or word is None for word in values):
        raise PromptError(
            "An attribute must be a word or a list of words.",
            where=key,
            got=repr(value),
            fix="write color: red, or color: [red, pink]",
        )
    return [" ".join((word or "").split()) for word in values] if values != [None] else []


def _check_used(lists: Mapping[str, list[str]], fields: Iterable[str], template: str) -> None:
    idle = sorted(key for key, words in lists.items() if any(words) and key not in set(fields))
    if idle:
        raise PromptError(
            "The template does not use an attribute.",
            where=template,
            got=", ".join(idle),
            fix=f"add {{{idle[0]}}} to the template, or leave the attribute out",
        )


def _rows(sizes: list[int], combine: Combine, max_phrases: int, name: str) -> list[tuple[int, ...]]:
    count = prod(sizes) if combine == "product" else max(sizes, default=1)
    if count > max_phrases:
        raise PromptError(
            "The attributes give too many phrases.",
            where=name,
            expected=f"at most {max_phrases}",
            got=f"{' x '.join(map(str, sizes))} = {count}",
            fix="give fewer words an attribute, or split the class's phrases by hand",
        )
    if combine == "product":
        return list(product(*(range(size) for size in sizes)))
    return [tuple(min(rank, size - 1) for size in sizes) for rank in range(count)]
