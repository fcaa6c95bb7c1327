"""A Hugging Face folder in, a family with loaded weights out; what cannot be used is refused before loading."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.files import sha256_of_file
from medprompt.export.families import FAMILIES, family_class
from medprompt.export.families.base import Family

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def model_type_of(folder: Path) -> str:
    """Read the family of a checkpoint folder.

    Raises:
        CheckpointError: No folder, no config, or a family that is not served.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(
            "The checkpoint has no config.json.",
            where=str(folder),
            expected="a folder made by save_pretrained: config.json, model.safetensors, processor files",
            got="no such folder" if not folder.is_dir() else f"{len(list(folder.iterdir()))} other files",
            fix="save model and processor with save_pretrained(FOLDER)",
        )
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise CheckpointError(
            "config.json is not valid JSON.",
            where=str(config),
            got=str(error),
            fix="copy the checkpoint again, or save it again with save_pretrained",
        ) from error
    if model_type not in FAMILIES:
        raise CheckpointError(
            "The checkpoint is of a family that is not served.",
            where=str(config),
            expected=f"model_type: {', '.join(FAMILIES)}",
            got=f"model_type: {model_type}",
            fix="export a checkpoint of one of these families",
        )
    return str(model_type)


def _refuse_missing_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            "The checkpoint holds pickle weights only, and a pickle can run any code.",
            where=str(folder),
            expected="model.safetensors",
            got=", ".join(pickles),
            fix="in an environment you trust: AutoModelForZeroShotObjectDetection.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER)  # writes safetensors",
        )
    fix = "save the model with save_pretrained(FOLDER)"
    raise CheckpointError("The checkpoint has no weights.", where=str(folder), expected="model.safetensors", fix=fix)


def checkpoint_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of weights and config files."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()


def family_from_checkpoint(
    folder: Path, size_hw: tuple[int, int] | None = None, *, random_weights: bool = False
) -> Family:
    """Load a checkpoint in float32, ready to encode, export and compare.

    Args:
        folder: A folder made by ``save_pretrained`` (model and processor).
        size_hw: Image height and width, for families whose size is free.
        random_weights: Build the model from its config alone, to be trained.

    Raises:
        CheckpointError: See ``model_type_of``; also missing or damaged weights, or no processor.
    """
    folder = Path(folder)
    model_type = model_type_of(folder)
    if not random_weights:
        _refuse_missing_weights(folder)
    family = family_class(model_type)
    return family(_load_model(folder, family, random_weights), _load_processor(folder, family), size_hw)


def _load_model(folder: Path, family: type[Family], random_weights: bool) -> Any:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # our own steps say what is going on

    model_class = getattr(transformers, family.architecture)
    if random_weights:
        return model_class(model_class.config_class.from_pretrained(folder))
    try:
        model, report = model_class.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The weights cannot be loaded.",
            where=str(folder),
            got=str(error),
            fix="copy the checkpoint again, or save it again with save_pretrained",
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            "Weights are missing; transformers would have filled them at random.",
            where=str(folder),
            got=f"{len(missing)} missing, such as {missing[0]}",
            fix=f"save the whole {family.architecture} with save_pretrained",
        )
    return model.eval()


def _load_processor(folder: Path, family: type[Family]) -> Any:
    try:
        return family.load_processor(folder)
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The checkpoint's processor cannot be loaded.",
            where=str(folder),
            expected="processor_config.json or preprocessor_config.json, and the tokenizer's files",
            got=str(error),
            fix="save the processor beside the model with save_pretrained",
        ) from error
