"""Captions: how a phrase is said to a model, and what its tokenizer reads of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.core.manifest import TrainedRules
from medprompt.core.models import SHORT
from medprompt.images.decode import DICOM_SUFFIXES, SUFFIXES


def read_trained_rules(config: Any) -> TrainedRules:
    """The rules that a checkpoint's config.json states of the project that trained it.

    Raises:
        CheckpointError: Rules that this version does not know.
    """
    stated = getattr(config, "trained_rules", None) or {}
    try:
        return TrainedRules.model_validate(stated)
    except ValidationError as error:
        raise CheckpointError(
            "The rules of the project that trained the model are not known to this version.",
            where="config.json: trained_rules",
            expected=", ".join(TrainedRules.model_fields),
            got=SHORT.repr(stated),
            fix="import the checkpoint again, or install the version of medprompt that imported it",
        ) from error


def clean_name(name: str) -> str:
    """A class name as mmdetection 3.3 says it to its models: without brackets, underscores and double blanks."""
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def refuse_image_name(text: str) -> None:
    """OWL checkpoints are known to take pictures as queries: a name would be read as words here.

    Raises:
        PromptError: The text ends as an image file's name does.
    """
    if Path(text.strip()).suffix.lower() in SUFFIXES | DICOM_SUFFIXES:
        raise PromptError(
            "A phrase is the name of an image file; phrases are read as words.",
            where=repr(text),
            expected="words for what is to be found",
            fix="describe it in words: pictures as prompts are not served",
        )


def read_words(tokenizer: Any, text: str) -> tuple[bool, tuple[str, ...]]:
    """Whether any letter or figure of a text reaches the text encoder, and the words that do not."""
    special = set(tokenizer.all_special_ids) - {tokenizer.pad_token_id} | {tokenizer.unk_token_id}  # pad may be "!"
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    parts = [
        (token in special, text[a:b]) for token, (a, b) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
    ]
    unknown = tuple(dict.fromkeys(word for lost, word in parts if lost))
    return any(not lost and (not unknown or any(map(str.isalnum, word))) for lost, word in parts), unknown


def tokenizer_state(tokenizer: Any) -> str:
    """A fast tokenizer as JSON, without the padding and truncation that its last call left in it."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({**state, "padding": None, "truncation": None}, sort_keys=True)
