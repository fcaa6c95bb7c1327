"""What tells labels and phrases apart, and which of them a reader cannot see as they are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Literal, TypeVar

L = TypeVar("L")

JOINERS = "\u200c\u200d"
"""Invisible, but part of words of Persian and Hindi, and of emoji."""

BLANKS = re.compile("[\u034f\u115f\u1160\u2800\u3164\uffa0]")
"""Characters that show nothing, though Unicode counts them as letters, marks or symbols."""


QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb"
"""Quotation marks of word processors, which YAML takes for letters."""


def label_identity(label: str) -> str:
    """What tells labels apart: their letters, whatever the case, blanks and Unicode form; so data names them too."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return " ".join("".join(mark for mark in text if unicodedata.category(mark) != "Cf").split())


def phrase_identity(text: str) -> str:
    """What tells phrases apart: their words, whatever the case, blanks, canonical form, and full stop at the end."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(" ".join(folded.split()).rstrip(". ").split())


def text_fault(text: str, kind: Literal["label", "phrase"]) -> str:
    """Why a label or phrase cannot be shown as it is; empty where it can.

    A phrase's blanks are tidied before; a label is used as it stands.
    """
    hidden = [mark for mark in text if unicodedata.category(mark) in ("Cc", "Cf", "Cs") and mark not in JOINERS]
    hidden += BLANKS.findall(text)
    if hidden:
        return f"a {kind} must not hold the invisible character U+{ord(hidden[0]):04X}"
    if text.startswith(tuple(QUOTES)):
        return f"a {kind} must not stand in typographic quotation marks: YAML reads straight ones alone"
    if mixed := _mixed_word(text):
        return f"a {kind} must not mix Latin and Cyrillic letters in a word, which look alike: {mixed!r}"
    if kind == "label":
        return (
            "" if text == " ".join(text.split()) and text else "a label must not begin or end with a blank, or hold two"
        )
    if "\\" in text:
        return "a phrase must not hold a backslash; only double quotes make a character of an escape"
    return "" if any(unicodedata.category(mark)[0] in "LNS" for mark in text) else "a phrase must hold a word"


def _mixed_word(text: str) -> str:
    """A word of letters of two scripts that a reader cannot tell apart, such as a Cyrillic o among Latin letters."""
    for found in re.finditer(r"[^\W\d_]+", text):
        word = found.group()
        scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
        if {"LATIN", "CYRILLIC"} <= scripts:
            return word
    return ""


def twins(texts: Mapping[L, str], key: Callable[[str], str]) -> Iterator[tuple[L, str]]:
    """Each text whose key an earlier one has: where it stands, and the earlier text."""
    first: dict[str, str] = {}
    for place, text in texts.items():
        if (name := key(text)) in first:
            yield place, first[name]
        first.setdefault(name, text)


def nearest_label(wanted: str, labels: Iterable[str]) -> str:
    """A question after the label that may be meant, such as ``'rbc': is it 'RBC'?``; empty where none is near."""
    known = {label_identity(label): label for label in labels}
    return "".join(
        f"{wanted!r}: is it {known[near]!r}?" for near in get_close_matches(label_identity(wanted), known, 1)
    )
