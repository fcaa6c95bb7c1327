"""A model by folder or by its name on the Hugging Face Hub. Without a network, a folder is all that works."""

from __future__ import annotations

import re
from pathlib import Path

from medprompt.core.errors import CheckpointError

WANTED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""Weights, configs, vocabularies, chat templates: no pickle and no code is fetched."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", re.ASCII)
"""OWNER/NAME, or OWNER/NAME@REVISION (a branch, a tag or a commit)."""


def model_folder(source: str | Path) -> Path:
    """Return a folder as it is; fetch a Hub model into transformers' own cache, or find it there.

    Args:
        source: A folder, ``OWNER/NAME``, or ``OWNER/NAME@REVISION``.

    Raises:
        CheckpointError: No such folder, and not a Hub id; or the Hub cannot be reached, or refuses.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(
            "There is no such model folder.",
            where=str(source),
            expected="a folder made by save_pretrained, or a model of the Hugging Face Hub as OWNER/NAME[@REVISION]",
        )
    return _fetched(str(source))


def _fetched(source: str) -> Path:
    import huggingface_hub

    name, _, revision = source.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(WANTED_FILES), ignore_patterns=["*/*"]
        )
    except Exception as error:  # offline, unreachable, gated, unknown: huggingface_hub raises a dozen types
        raise CheckpointError(
            "The model is not a local folder, and cannot be fetched from the Hugging Face Hub.",
            where=source,
            got=f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}",
            fix=f"where there is a network: hf download {name} --local-dir FOLDER; then pass FOLDER",
        ) from error
    return Path(found)
