import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from medprompt.core.errors import BankError
from medprompt.prompts.bank import METADATA_KEY, PromptBank, check_encoder, load_bank, save_bank
from medprompt.prompts.schema import Prompts


def make_bank(classes, *, seed=0, encoder="e1", by_token=True, shared=1.0, pooling="max"):
    """A bank whose every row is a function of its phrase, as a real encoder's is."""
    prompts = Prompts.model_validate(
        {
            "classes": [{"label": name, "phrases": list(texts)} for name, texts in classes.items()],
            "pooling": pooling,
        }
    )
    counts = [len(text.split()) + 1 for text in prompts.texts]
    rows = [
        np.random.default_rng([seed, *text.encode()]).random((n, 3))
        for text, n in zip(prompts.texts, counts, strict=True)
    ]
    tensors = {
        "vector": np.stack([row[0] for row in rows]).astype(np.float32),
        "task": np.full((2, 3), shared),
    }
    layouts = {"vector": "phrase", "task": "shared"}
    if by_token:
        tensors |= {
            "token": np.concatenate(rows).astype(np.float32),
            "token.before": np.zeros((1, 3), np.float32),
        }
        layouts |= {"token": "token", "token.before": "shared"}
    return PromptBank(prompts, encoder, tensors, layouts, np.array(counts if by_token else [], np.int64), 1)


def same(a, b):
    return a.content_hash() == b.content_hash()


def test_save_and_load(tmp_path):
    bank = make_bank({"a": ["x y", "z"], "b": ["q"]})
    save_bank(bank, tmp_path / "bank.safetensors")
    loaded = load_bank(tmp_path / "bank.safetensors")
    assert same(bank, loaded)
    assert loaded.labels == ("a", "b")
    assert loaded.phrase_classes.tolist() == [0, 0, 1]


names = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True)


@given(names)
def test_a_subset_equals_a_fresh_bank(chosen):
    everything = {name: [f"{name} one", f"{name} two words", name] for name in "abcd"}
    assert same(make_bank(everything).subset(chosen), make_bank({name: everything[name] for name in chosen}))


@given(st.integers(1, 3), st.booleans())
def test_a_merge_equals_a_fresh_bank(cut, by_token):
    everything = {name: [f"{name} one", name] for name in "abcd"}
    first = dict(list(everything.items())[:cut])
    second = dict(list(everything.items())[cut:])
    merged = make_bank(first, by_token=by_token).merge(make_bank(second, by_token=by_token))
    assert same(merged, make_bank(everything, by_token=by_token))


def test_a_merge_joins_the_phrases_of_a_class():
    merged = make_bank({"a": ["x"], "b": ["q"]}).merge(make_bank({"a": ["long y phrase"]}))
    assert same(merged, make_bank({"a": ["x", "long y phrase"], "b": ["q"]}))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_bank({"b": ["y"]}, encoder="e2"), "another text encoder"),
        (make_bank({"b": ["y"]}, shared=2.0), "different task"),
        (make_bank({"b": ["X"]}), "the same phrase"),
    ],
)
def test_banks_that_do_not_merge(other, message):
    with pytest.raises(BankError, match=message):
        make_bank({"a": ["x"]}).merge(other)


def test_banks_of_another_pooling_do_not_merge():
    with pytest.raises(BankError, match="pooling"):
        make_bank({"a": ["x"]}).merge(make_bank({"b": ["y"]}, pooling="mean"))


@pytest.mark.parametrize("labels", [["none"], []])
def test_an_unknown_or_empty_subset(labels):
    with pytest.raises(BankError, match="does not have"):
        make_bank({"a": ["x"]}).subset(labels)


def test_another_encoder_says_how_to_embed():
    with pytest.raises(BankError, match="medprompt prompts embed"):
        check_encoder(make_bank({"a": ["x"]}), "other", "bank.safetensors")


def test_nan_is_refused():
    bank = make_bank({"a": ["x"]}, by_token=False)
    tensors = dict(bank.tensors) | {"vector": np.full((1, 3), np.nan)}
    with pytest.raises(BankError, match="NaN"):
        PromptBank(bank.prompts, "e", tensors, bank.layouts, bank.token_counts)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "not a prompt bank"),
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({"version": 99}), "another version"),
        (json.dumps({"version": 1, "layouts": {"other": "phrase"}}), "not those its header names"),
    ],
)
def test_damaged_headers(tmp_path, header, message):
    path = tmp_path / "bank.safetensors"
    save_file({"vector": np.zeros((1, 3), np.float32)}, path, metadata=header and {METADATA_KEY: header})
    with pytest.raises(BankError, match=message):
        load_bank(path)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_bank(make_bank({"a": ["x"]}), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BankError, match="cannot be read"):
        load_bank(path)


COMMA = "polyp, flat"


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        ([COMMA], (COMMA,)),
        ([COMMA, "RBC"], (COMMA, "RBC")),
        (["RBC, WBC"], ("RBC", "WBC")),
        (["RBC,WBC,"], ("RBC", "WBC")),
        (["RBC", "RBC"], ("RBC",)),
    ],
)
def test_labels_by_commas_and_with_one(asked, labels):
    assert labelled_bank(COMMA, "RBC", "WBC").subset(asked).labels == labels


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("rbc", "'rbc': is it 'RBC'?"),
        ("WCB", "'WCB': is it 'WBC'?"),
        (f"{COMMA},RBC", "'polyp': is it 'polyp, flat'?"),
        ("platelet", "case counts"),
    ],
)
def test_a_label_that_may_be_meant(asked, hint):
    with pytest.raises(BankError, match="does not have these classes") as caught:
        labelled_bank(COMMA, "RBC", "WBC").subset([asked])
    assert hint in str(caught.value)


def test_labels_of_two_banks_that_read_alike_do_not_merge():
    other = make_bank({"rbc": ["small cell"]})
    with pytest.raises(BankError, match="spell a label differently"):
        labelled_bank("RBC").merge(other)


def labelled_bank(*labels):
    return make_bank({label: [f"cell {n}"] for n, label in enumerate(labels)})
