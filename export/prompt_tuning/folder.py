"""A model folder of any of transformers' kinds, or its name on the Hub, in; loaded model and processor out.

The wrong kind is refused first. Without a network, a folder is all that works.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.files import sha256_of_file


def model_type_of_folder(folder: Path, kinds: Iterable[str], wanted: str) -> str:
    """Read the ``model_type`` of a folder made by ``save_pretrained``; ``kinds`` will do, ``wanted`` says so in words.

    Raises:
        CheckpointError: No config, another kind of model, or weights as pickle only.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "The model folder has no usable config.json.",
            where=str(folder),
            expected=f"{wanted}, saved with save_pretrained",
            got=f"{type(error).__name__}: {error}",
        ) from error
    if model_type not in set(kinds):
        raise CheckpointError(
            f"The model folder is of the wrong kind: {wanted} is needed.",
            where=str(folder),
            expected=f"a model_type such as {', '.join(sorted(kinds)[:8])}",
            got=f"model_type: {model_type}",
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            "The model folder has no safetensors weights; a pickle is never read.",
            where=str(folder),
            fix="load it where you trust it and save it again: model.save_pretrained(FOLDER)",
        )
    return model_type


def loaded(auto_class: Any, folder: Path, wanted: str) -> Any:
    """Load a model in float32 for inference; weights that transformers would fill at random are refused.

    Raises:
        CheckpointError: The weights are damaged, or some are missing, such as the head of another kind of model.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = auto_class.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The model cannot be loaded.",
            where=str(folder),
            got=str(error),
            fix="save model and processor again with save_pretrained(FOLDER)",
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"The folder's weights are not those of {wanted}; transformers would have filled some at random.",
            where=str(folder),
            got=f"{len(missing)} missing, such as {missing[0]}",
            fix="use a checkpoint that was trained for this task",
        )
    return model.eval()


def loaded_processor(auto_class: Any, folder: Path) -> Any:
    """Load a tokenizer or processor.

    Raises:
        CheckpointError: Its files are missing or damaged.
    """
    try:
        return auto_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The model's tokenizer or processor cannot be loaded.",
            where=str(folder),
            got=str(error),
            fix="save it beside the model with save_pretrained",
        ) from error


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 (16 hex digits) over the names and bytes of weights, configs and vocabulary."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix in {".safetensors", ".json", ".txt", ".model"}):
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()[:16]


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
