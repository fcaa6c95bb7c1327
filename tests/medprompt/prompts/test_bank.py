import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from medprompt.core.errors import BankError
from medprompt.prompts.bank import METADATA_KEY, SEAL, PromptBank, check_encoder, load_bank, save_bank
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
        (json.dumps({"version": "1"}), "another version"),
        (json.dumps({"version": 1, "layouts": {"other": "phrase"}}), "prompts: is missing"),
    ],
)
def test_damaged_headers(tmp_path, header, message):
    path = tmp_path / "bank.safetensors"
    save_file({"vector": np.zeros((1, 3), np.float32)}, path, metadata=header and {METADATA_KEY: header})
    with pytest.raises(BankError, match=message):
        load_bank(path)


@pytest.mark.parametrize("left", [0, 8, 40, 300, -5])
def test_a_truncated_file(tmp_path, left):
    path = tmp_path / "bank.safetensors"
    save_bank(make_bank({"a": ["x"]}), path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BankError, match="cannot be read"):
        load_bank(path)


def rewrite(path, change, *, seal):
    """Change a bank's header (JSON values) and tensors, and write it again, with its old seal or without one."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()[METADATA_KEY])
    tensors = load_file(path)
    if not seal:
        del header[SEAL]
    change(header, tensors)
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(header)})


def swap_labels(header, tensors):
    first, second = header["prompts"]["classes"]
    first["label"], second["label"] = second["label"], first["label"]


def swap_rows(header, tensors):
    tensors["vector"] = np.ascontiguousarray(tensors["vector"][::-1])


def swap_counts(header, tensors):
    header["token_counts"].reverse()


def raise_threshold(header, tensors):
    header["prompts"]["classes"][0]["threshold"] = 0.9


@pytest.mark.parametrize("change", [swap_labels, swap_rows, swap_counts, raise_threshold])
def test_a_bank_that_was_changed_is_refused(tmp_path, change):
    path = tmp_path / "bank.safetensors"
    save_bank(make_bank({"a": ["x"], "b": ["long y phrase"]}), path)
    rewrite(path, change, seal=True)
    with pytest.raises(BankError, match="not as it was written"):
        load_bank(path)


def test_a_bank_without_a_seal_is_read(tmp_path):
    bank = make_bank({"a": ["x"], "b": ["y"]})
    save_bank(bank, tmp_path / "bank.safetensors")
    rewrite(tmp_path / "bank.safetensors", lambda header, tensors: None, seal=False)
    assert same(load_bank(tmp_path / "bank.safetensors"), bank)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder", None, "encoder: expected text"),
        ("layouts", {"vector": "row", "task": "shared"}, "layouts.vector: expected 'phrase', 'token'"),
        ("layouts", {"task": "shared"}, "not those its header names"),
        ("token_counts", [2, -1], "token_counts.1: expected greater than"),
        ("token_counts", [10**30, 2], "token_counts.0: expected less than"),
        ("token_counts", [2.5, 2], "token_counts.0: expected a valid integer"),
        ("token_counts", 4, "token_counts: expected a list"),
        ("token_counts", [1, 3], "no token but its separator"),
        ("separator_tokens", -1, "separator_tokens: expected greater than"),
        ("separator_tokens", "1", "separator_tokens: expected a valid integer"),
        ("separator_tokens", 9, "no token but its separator"),
        ("prompts", None, "prompts: expected keys and values"),
        ("prompts", {"classes": []}, "prompts.classes: expected at least one entry"),
        ("prompts", {"classes": [{"label": "a", "phrases": ["x"]}, {"label": "a", "phrases": ["y"]}]}, "one label"),
    ],
)  # fmt: skip
def test_a_header_that_fits_no_tensors(tmp_path, field, value, message):
    path = tmp_path / "bank.safetensors"
    save_bank(make_bank({"a": ["x"], "b": ["y"]}, by_token="token" in field), path)
    rewrite(path, lambda header, tensors: header.update({field: value}), seal=False)
    with pytest.raises(BankError, match=message) as caught:
        load_bank(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_features_are_floating_point(tmp_path, dtype):
    path = tmp_path / "bank.safetensors"
    save_bank(make_bank({"a": ["x"]}), path)
    rewrite(path, lambda header, tensors: tensors.update(vector=tensors["vector"].astype(dtype)), seal=False)
    with pytest.raises(BankError, match=f"another type(.|\n)*{dtype}"):
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
