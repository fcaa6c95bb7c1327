"""What tells labels and phrases apart, and what cannot be shown."""

from __future__ import annotations

import pytest

from medprompt.prompts.names import label_identity, phrase_identity, text_fault, twins


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("RBC", "rbc"),
        ("R\u00adBC", "rbc"),
        ("red\u00a0 cell", "red cell"),
        ("ＲＢＣ", "rbc"),
        ("polyp.", "polyp."),
        ("", ""),
    ],
)
def test_labels(text: str, identity: str) -> None:
    assert label_identity(text) == identity


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("Red  Cell .", "red cell"),
        ("red cell...", "red cell"),
        ("a small. dot", "a small. dot"),
        ("po\u0301lyp", "p\u00f3lyp"),
        ("pólyp", "pólyp"),
        ("ﬁne", "fine"),
        (" . ", ""),
    ],
)
def test_phrases(text: str, identity: str) -> None:
    assert phrase_identity(text) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a ",
        " a",
        "a  b",
        "a\nb",
        "a\tb",
        "a\u00a0b",
        "\x1b[31ma",
        "a\u202eb",
        "\ufeffa",
        "a\u200b",
        "\ud800",
        "\u3164",
        "a\x7f",
    ],
)
def test_labels_that_cannot_be_shown(text: str) -> None:
    assert text_fault(text, "label").startswith("a label must not")


@pytest.mark.parametrize(
    "text", ["polyp, flat", "WBC (5%)", "Zelle µ", "息肉", "cell 🔴", "می\u200cخواهم", "+", "'a\\b'"]
)
def test_labels_that_can(text: str) -> None:
    assert not text_fault(text, "label")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("red\x07cell", "U+0007"),
        ("red\u2066cell", "U+2066"),
        ("red\u200bcell", "U+200B"),
        ("\u201cpolyp\u201d", "quotation marks"),
        ("\u201epolyp", "quotation marks"),
        ("polype \u00ab plat \u00bb", ""),
        ("p\u043elyp", "Latin and Cyrillic"),
        ("\u043f\u043e\u043b\u0438\u043f polyp", ""),
        ("TNF\u03b1 cell", ""),
        ("Crohn\u2019s ulcer", ""),
        (r"red\u200bcell", "backslash"),
        ("?!", "a word"),
        ("is this a polyp?", ""),
        ("🔴", ""),
        ("5", ""),
    ],
)
def test_phrases_that_cannot_be_read(text: str, fault: str) -> None:
    assert fault in text_fault(text, "phrase")
    assert bool(fault) == bool(text_fault(text, "phrase"))


def test_twins_name_the_first() -> None:
    assert list(twins({1: "a", 2: "b", 3: "A", 4: "A"}, str.casefold)) == [(3, "a"), (4, "a")]
    assert list(twins({}, str.casefold)) == []
