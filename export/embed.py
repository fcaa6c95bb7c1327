"""Prompts in, prompt bank out: the text encoder's whole work, done once and offline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from medprompt.export.families.base import EncodedPhrases, Family
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.ensemble import ensembled_bank
from medprompt.prompts.schema import Prompts


def bank_from_prompts(family: Family, prompts: Prompts) -> PromptBank:
    """Encode every phrase of a prompts file; with ``ensemble: embedding``, one row a class.

    Raises:
        PromptError: Phrases that the text encoder would cut, does not know or cannot tell apart, see
            ``Family.check_phrases``, or that cannot be ensembled.
    """
    family.check_phrases(prompts.texts)
    family.check_pooling(prompts.pooling)
    return unchecked_bank(family, prompts)


def unchecked_bank(family: Family, prompts: Prompts) -> PromptBank:
    """The same of phrases that are tried out: two of them may be the same to the tokenizer."""
    with torch.no_grad():
        encoded = family.encode(prompts.texts, prompts.task)
    stated = prompts.model_copy(update={"task": family.task_of(prompts.texts, prompts.task)})
    bank = bank_from_encoded(family, stated, encoded)
    return ensembled_bank(bank) if prompts.ensemble == "embedding" else bank


def phrase_warnings(family: Family, texts: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each phrase of which the text encoder sees a part only."""
    unknown = ((text, family.unknown_words(text)) for text in texts)
    return tuple(
        f"{text!r}: the tokenizer does not know {', '.join(map(repr, words))}" for text, words in unknown if words
    )


def bank_from_encoded(family: Family, prompts: Prompts, encoded: EncodedPhrases) -> PromptBank:
    """Wrap encoded phrases as a bank of this family's encoder."""
    return PromptBank(
        prompts=prompts,
        encoder=family.encoder_fingerprint(),
        tensors={name: tensor.detach().to(torch.float32).numpy() for name, tensor in encoded.tensors.items()},
        layouts={name: family.layouts[name.split(".")[0]] if "." not in name else "shared" for name in encoded.tensors},
        token_counts=np.array(encoded.token_counts, dtype=np.int64),
        separator_tokens=encoded.separator_tokens,
    )
