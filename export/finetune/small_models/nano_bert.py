"""The text side of a small GLIP and Grounding DINO: two layers of BERT, with MiniLM's vocabulary, which is BERT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from medprompt.export.finetune.small_models.nano import token_vectors

CONTEXT = 256
"""Tokens that it reads at once."""

WIDTH = 96


def read_vocabulary(minilm: Path) -> list[str]:
    """The word pieces of MiniLM's folder, by id."""
    return (minilm / "vocab.txt").read_text(encoding="utf-8").splitlines()


def bert_config(vocabulary: int) -> Any:
    """The ``BertConfig`` of a vocabulary of so many word pieces."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=CONTEXT,
    )


def bert_tokenizer(minilm: Path) -> Any:
    """The tokenizer of MiniLM's folder."""
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab=str(minilm / "vocab.txt"), model_max_length=CONTEXT)


@torch.no_grad()
def load_words(text_model: nn.Module | Any, minilm: Path) -> None:
    """Let a BERT of ``bert_config`` start from MiniLM's token vectors."""
    vectors = token_vectors(minilm, read_vocabulary(minilm), WIDTH)
    text_model.get_input_embeddings().weight[:] = vectors[2:]  # MiniLM's own special tokens are in its table
