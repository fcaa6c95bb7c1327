"""A part of a bank by phrase equals a fresh bank of those phrases, whatever their order; no class is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprompt.core.errors import BankError
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.phrase_set import phrase_key, phrase_rows, subset_phrases
from tests.medprompt.prompts.test_bank import make_bank
from tests.runtime.bundles import make_bank as weighted_bank
from tests.runtime.bundles import make_manifest

EVERYTHING = {"a": ["x", "long y phrase", "z z"], "b": ["q"], "c": ["r", "s t"]}


@given(st.lists(st.sampled_from(["x", "long y phrase", "z z", "q", "r", "s t"])), st.booleans())
def test_a_set_equals_a_fresh_bank(texts: list[str], by_token: bool) -> None:
    whole: PromptBank = make_bank(EVERYTHING, by_token=by_token)
    kept = {name: [text for text in phrases if text in texts] for name, phrases in EVERYTHING.items()}
    if not all(kept.values()):
        with pytest.raises(BankError, match="left without"):
            subset_phrases(whole, texts)
        return
    part = subset_phrases(whole, texts)
    assert part.content_hash() == make_bank(kept, by_token=by_token).content_hash()
    assert part.labels == whole.labels


@pytest.mark.parametrize(
    ("texts", "rows"),
    [
        (["q", "r", "x"], [0, 3, 4]),
        (["r", "x", "q", "x", "r"], [0, 3, 4]),
        ([" LONG  y\tphrase ", "Q", "S T"], [1, 3, 5]),
        ([text for phrases in EVERYTHING.values() for text in phrases], [0, 1, 2, 3, 4, 5]),
    ],
    ids=["order", "doubles", "case and spacing", "all"],
)
def test_neither_order_nor_case_nor_spacing_matter(texts: list[str], rows: list[int]) -> None:
    whole: PromptBank = make_bank(EVERYTHING)
    assert phrase_rows(whole, texts).tolist() == rows
    exact = [whole.prompts.texts[row] for row in rows]
    assert subset_phrases(whole, texts).content_hash() == subset_phrases(whole, exact).content_hash()


def test_the_whole_bank_is_itself() -> None:
    whole: PromptBank = make_bank(EVERYTHING)
    assert subset_phrases(whole, whole.prompts.texts).content_hash() == whole.content_hash()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "none of a, b, c"),
        (["x", "z z"], "none of b, c"),
        (["x", "q", "r", "blue"], "'blue'"),
        (["x", "q", "r", ""], "''"),
        ("q", "'q'"),
    ],
    ids=["nothing", "two classes", "unknown", "empty phrase", "one phrase as text"],
)
def test_bad_sets(texts: list[str], words: str) -> None:
    with pytest.raises(BankError) as caught:
        phrase_rows(make_bank(EVERYTHING), texts, "frame.png")
    assert words in caught.value.got
    assert caught.value.where == "frame.png"


@pytest.mark.parametrize(
    ("pooling", "column"),
    [("max", [0.5, 0.25]), ("mean", [2 / 3, 1 / 3])],
)
def test_weights_and_class_columns_stay(pooling: str, column: list[float]) -> None:
    classes = [
        {
            "label": "RBC",
            "threshold": 0.3,
            "phrases": [{"text": "a", "weight": 0.5}, {"text": "b", "weight": 1.0}, {"text": "c", "weight": 0.25}],
        },
        {"label": "WBC", "phrases": ["d"]},
    ]
    part = subset_phrases(weighted_bank(classes, pooling), ["c", "a", "d"])
    matrix = prompt_inputs(part, make_manifest().inputs)["phrase_to_class"]
    np.testing.assert_allclose(matrix, np.array([[column[0], 0], [column[1], 0], [0, 1]]), rtol=1e-6)
    assert [entry.threshold for entry in part.prompts.classes] == [0.3, None]


@pytest.mark.parametrize(("text", "key"), [("A  b", "a b"), ("\ta b\n", "a b"), ("ß", "ss"), ("", "")])
def test_keys(text: str, key: str) -> None:
    assert phrase_key(text) == key
