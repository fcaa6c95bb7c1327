"""The tokenizer in a folder: its files must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medprompt.core.errors import CheckpointError


def refuse_missing_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer's files: transformers would make an empty one, to which all words are one.

    Raises:
        CheckpointError: They are not there.
    """
    kinds = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
    if not any(all((folder / name).is_file() for name in kind) for kind in kinds):
        raise CheckpointError(
            "The checkpoint has no tokenizer files.",
            where=str(folder),
            expected=" or ".join(" and ".join(kind) for kind in kinds),
            fix="save the processor of the model that the training began with beside the weights: "
            "AutoProcessor.from_pretrained(START).save_pretrained(FOLDER)",
        )


def tokenizer_of(folder: Path) -> Any:
    """Load a tokenizer of transformers from its folder.

    Raises:
        CheckpointError: It has none, or a damaged one.
    """
    from transformers import AutoTokenizer

    refuse_missing_tokenizer(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The tokenizer cannot be loaded.",
            where=str(folder),
            got=f"{type(error).__name__}: {error}"[:300],
            fix="copy the tokenizer's folder again",
        ) from error
