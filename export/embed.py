"""Prompts in, prompt bank out: the text encoder's whole work, done once and offline."""

from __future__ import annotations

import numpy as np
import torch

from medprompt.export.families.base import EncodedPhrases, Family
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.ensemble import ensembled_bank
from medprompt.prompts.file import Prompts


def bank_from_prompts(family: Family, prompts: Prompts) -> PromptBank:
    """Encode every phrase of a prompts file; with ``ensemble: embedding``, one row a class.

    Raises:
        PromptError: A phrase is longer than the text encoder reads, or phrases that cannot be ensembled.
    """
    family.check_phrases(prompts.texts)
    with torch.no_grad():
        encoded = family.encode(prompts.texts, prompts.task)
    stated = prompts.model_copy(update={"task": family.task_of(prompts.texts, prompts.task)})
    bank = bank_from_encoded(family, stated, encoded)
    return ensembled_bank(bank) if prompts.ensemble == "embedding" else bank


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
