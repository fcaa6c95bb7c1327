import numpy as np
import pytest

from medprompt.core.errors import BankError
from medprompt.core.manifest import TensorSpec
from medprompt.prompts.assemble import MASKED, prompt_inputs
from tests.medprompt.prompts.test_bank import make_bank

SPECS = (
    TensorSpec(name="image", dtype="uint8", shape=("B", 4, 4, 3), source="image"),
    TensorSpec(name="vector", dtype="float32", shape=(1, "P", 3), source="phrase"),
    TensorSpec(name="token", dtype="float32", shape=(1, "T", 3), source="token"),
    TensorSpec(name="bias", dtype="float32", shape=(1, "T", "T"), source="block_bias"),
    TensorSpec(name="phrase_tokens", dtype="int64", shape=("P", "L"), source="phrase_tokens"),
    TensorSpec(name="task", dtype="float32", shape=(1, 2, 3), source="shared"),
    TensorSpec(name="phrase_to_class", dtype="float32", shape=("P", "C"), source="phrase_to_class"),
)


def test_every_source():
    bank = make_bank({"a": ["one two", "three"], "b": ["four"]})
    feeds = prompt_inputs(bank, SPECS)
    assert "image" not in feeds
    assert feeds["vector"].shape == (1, 3, 3)
    assert feeds["token"].shape == (1, 8, 3)  # one token before, then 3 + 2 + 2
    assert (feeds["token"][0, 0] == 0).all()
    assert feeds["phrase_tokens"].tolist() == [[1, 2], [4, 4], [6, 6]]  # separators at 3, 5 and 7 never score
    assert feeds["phrase_to_class"].tolist() == [[1, 0], [1, 0], [0, 1]]
    blocks = [0, 1, 1, 1, 2, 2, 3, 3]
    expected = np.where(np.equal.outer(blocks, blocks), 0, MASKED)
    assert (feeds["bias"][0] == expected).all()


def test_mean_pooling_sums_to_one_a_class():
    bank = make_bank({"a": ["one", "two", "three"], "b": ["four"]}, pooling="mean")
    matrix = prompt_inputs(bank, SPECS)["phrase_to_class"]
    assert matrix.sum(axis=0) == pytest.approx([1, 1])
    assert matrix[0] == pytest.approx([1 / 3, 0])


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec(name="absent", dtype="float32", shape=(1, "P", 3), source="phrase"),
        TensorSpec(name="vector", dtype="float32", shape=(1, "P", 7), source="phrase"),
        TensorSpec(name="vector", dtype="float32", shape=("P", 3), source="phrase"),
    ],
)
def test_a_bank_that_does_not_fit(spec):
    with pytest.raises(BankError):
        prompt_inputs(make_bank({"a": ["x"]}), [spec])
