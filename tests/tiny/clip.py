"""A CLIP tokenizer made in code: the real byte-level BPE, with merges for a few words only."""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

WORDS = (
    "a",
    "red",
    "white",
    "blood",
    "cell",
    "platelet",
    "polyp",
    "small",
    "purple",
    "round",
    "nucleus",
    "detect",
)
END_OF_WORD = "</w>"


def clip_tokenizer(context: int, pad_token: str) -> Any:
    """A tokenizer with the order of ids that models rely on: "!" is 0, the end token is the highest.

    Args:
        context: Most tokens of a text.
        pad_token: ``!`` as in OWL checkpoints, ``<|endoftext|>`` as in CLIP's own.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(dict.fromkeys(pair for word in WORDS for pair in _merges_of_word(word)))
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *("".join(pair) for pair in merges)]
    ordered = dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"])
    vocabulary = {token: place for place, token in enumerate(ordered)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=context)


def _merges_of_word(word: str) -> list[tuple[str, str]]:
    """Pairs that build a word from the left, letter by letter."""
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    return [("".join(pieces[:place]), pieces[place]) for place in range(1, len(pieces))]
