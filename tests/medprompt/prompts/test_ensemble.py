"""The mean of embeddings: what it must equal, what it refuses, what a bank made of it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medprompt.core.errors import PromptError
from medprompt.core.manifest import TensorSpec
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import load_bank, save_bank
from medprompt.prompts.ensemble import ensemble_text, ensembled_bank, ensembled_prompts, mean_embedding
from medprompt.prompts.file import prompts_from_raw
from medprompt.prompts.schema import Prompts
from tests.medprompt.prompts.test_bank import make_bank

few = settings(max_examples=30, deadline=None)

vectors = arrays(np.float64, 4, elements=st.floats(0.1, 2))
"""In one quadrant, so that no mean of them vanishes."""

weights = st.floats(0.05, 1)
weighted = st.lists(st.tuples(vectors, weights), min_size=1, max_size=5)


def mean(pairs):
    return mean_embedding(np.stack([row for row, _ in pairs]), np.array([weight for _, weight in pairs]))


@few
@given(vectors, weights)
def test_one_phrase_is_itself(row, weight):
    np.testing.assert_allclose(mean([(row, weight)]), row, rtol=1e-12)


@few
@given(vectors, st.lists(weights, min_size=2, max_size=5))
def test_equal_phrases_are_themselves(row, shares):
    np.testing.assert_allclose(mean([(row, share) for share in shares]), row, rtol=1e-12)


@few
@given(weighted, st.randoms(use_true_random=False))
def test_order_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    np.testing.assert_allclose(mean(shuffled), mean(pairs), rtol=1e-12)


@few
@given(weighted)
def test_unit_vectors_give_a_unit_vector(pairs):
    units = [(row / np.linalg.norm(row), weight) for row, weight in pairs]
    assert np.linalg.norm(mean(units)) == pytest.approx(1, abs=1e-12)


@few
@given(weighted, st.floats(0.1, 10))
def test_only_ratios_of_weights_count(pairs, factor):
    np.testing.assert_allclose(mean([(row, weight * factor) for row, weight in pairs]), mean(pairs), rtol=1e-9)


def test_a_mean_by_hand():
    rows = np.array([[3.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    found = mean_embedding(rows, np.array([0.75, 0.25]))
    # Direction (0.75, 0.25), length 0.75 · 3 + 0.25 · 1 = 2.5.
    np.testing.assert_allclose(found, 2.5 * np.array([3, 1]) / np.sqrt(10), rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 0.0], [-1.0, 0.0]], "cancel each other out"),
        ([[1.0, 0.0], [0.0, 0.0]], "all zeros"),
    ],
)
def test_no_mean(rows, words):
    with pytest.raises(PromptError, match=words):
        mean_embedding(np.array(rows), np.ones(2))


def test_a_bank_of_means(tmp_path):
    bank = make_bank({"a": ["x y", "z", "u", "v"], "b": ["q"]}, by_token=False)
    made = ensembled_bank(bank)
    assert made.prompts.texts == ("x y; z; u; and 1 more", "q")
    assert made.prompts.classes[0].phrases[0].origin.mean_of == {"x y": 1.0, "z": 1.0, "u": 1.0, "v": 1.0}
    assert made.prompts.classes[0].phrases[0].source == "ensemble"
    np.testing.assert_allclose(made.tensors["vector"][0], mean_embedding(bank.tensors["vector"][:4], np.ones(4)))
    np.testing.assert_array_equal(made.tensors["vector"][1], bank.tensors["vector"][4])
    np.testing.assert_array_equal(made.tensors["task"], bank.tensors["task"])
    assert made.encoder == bank.encoder
    save_bank(made, tmp_path / "bank.safetensors")
    assert load_bank(tmp_path / "bank.safetensors").content_hash() == made.content_hash()


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_one_row_a_class_is_the_same_under_either_pooling(pooling):
    made = ensembled_bank(make_bank({"a": ["x", "z"], "b": ["q"]}, by_token=False, pooling=pooling))
    spec = TensorSpec(name="phrase_to_class", dtype="float32", shape=("P", "C"), source="phrase_to_class")
    np.testing.assert_array_equal(prompt_inputs(made, [spec])["phrase_to_class"], np.eye(2))


def test_weights_are_shares():
    raw = {"classes": [{"label": "a", "phrases": [{"text": "x", "weight": 0.5}, "z"]}], "ensemble": "embedding"}
    made = ensembled_prompts(Prompts.model_validate(raw))
    (phrase,) = made.classes[0].phrases
    assert (phrase.text, phrase.weight, phrase.origin.mean_of) == ("x; z", 1.0, {"x": 0.5, "z": 1.0})
    assert made.ensemble is None


def test_token_families_are_refused():
    with pytest.raises(PromptError, match="embedding space") as caught:
        ensembled_bank(make_bank({"a": ["x", "z"]}))
    assert caught.value.exit_code == 2


def test_texts_that_clash():
    raw = {"classes": [{"label": "a", "phrases": ["x", "z"]}, {"label": "b", "phrases": ["x; z"]}]}
    with pytest.raises(PromptError, match="same text"):
        ensembled_prompts(Prompts.model_validate(raw))


@pytest.mark.parametrize(
    ("texts", "shown"),
    [(["a"], "a"), (["a", "b", "c"], "a; b; c"), (["a", "b", "c", "d", "e"], "a; b; c; and 2 more")],
)
def test_text(texts, shown):
    assert ensemble_text(texts) == shown


@pytest.mark.parametrize("value", ["mean", "", True, 1])
def test_an_unknown_ensemble(value):
    with pytest.raises(PromptError, match="not valid"):
        prompts_from_raw({"classes": [{"label": "a", "phrases": ["x"]}], "ensemble": value}, "p.yaml")
