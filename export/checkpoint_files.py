"""What a checkpoint's folder holds and says of itself; what cannot be used is refused before anything is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medprompt.core.errors import CheckpointError
from medprompt.core.files import files_of, sha256_of_file
from medprompt.core.manifest import About, ImportRecord
from medprompt.core.models import validate
from medprompt.core.text import json_from_text, reason
from medprompt.export.families import FAMILIES, HOLDERS
from medprompt.export.families.base import Family
from medprompt.export.importers.pickles import BEGINNINGS
from medprompt.export.importers.run import RECORD_FILE
from medprompt.export.segmenters import SEGMENTERS
from medprompt.export.segmenters.base import BoxSegmenter

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
LFS_MARK = b"version https://git-lfs"
HEAD = 512
"""Bytes at a file's beginning that tell what it is."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LICENCE = re.compile(r"licen[cs]e([._-].*)?", re.IGNORECASE)
"""Names of the files that a project's licence lies in."""
TRAINING_NOTES = ("trainer_state.json", "*_results.json")
"""What a Trainer writes beside a model, and no model is made from."""
ABOUT_FILE = "about.json"
"""What people stated of the weights, an ``About``: no model is made from it, so it is no part of their hash."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
IMAGE_SETTINGS = frozenset(
    {
        *("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
        *("do_pad", "pad_size", "do_center_crop", "crop_size"),
    }
)
"""What an image processor's pixels depend on."""


def model_type_of(folder: Path, served: Mapping[str, str] = FAMILIES) -> str:
    """Read the family of a checkpoint folder, one of those served.

    Raises:
        CheckpointError: No folder, no config, or a family that is not served.
    """
    _refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise _no_config(folder)
    stated = str(config_of(folder).get("model_type"))
    model_type = stated if stated in served else HOLDERS.get(stated, stated)
    if model_type not in served:
        other = model_type in SEGMENTERS or model_type in FAMILIES
        command = "export" if served is SEGMENTERS else "export-segmenter"
        raise CheckpointError(
            "The checkpoint is of a family that is not served.",
            where=str(folder / "config.json"),
            expected=f"model_type: {', '.join(served)}",
            got=f"model_type: {model_type}",
            fix=f"medprompt {command} takes this one" if other else "export a checkpoint of one of these families",
        )
    return model_type


def config_of(folder: Path) -> dict[str, Any]:
    """The table in a checkpoint's config.json; see ``json_table``."""
    return json_table(folder / "config.json")


def json_table(path: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint says.

    Raises:
        CheckpointError: It is none.
    """
    _check_files([path])
    try:
        return dict(json_from_text(path.read_text(encoding="utf-8"), allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} is not valid JSON.",
            where=str(path),
            got=reason(error),
            fix="copy the checkpoint again, or save it again with save_pretrained",
        ) from error


def import_record(folder: Path) -> ImportRecord | None:
    """Where an imported checkpoint came from; None of one that was in the form of transformers.

    Raises:
        CheckpointError: The record is not what this version writes.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        return ImportRecord.model_validate(json_table(path))
    except ValidationError as error:
        raise CheckpointError(
            "The record of the import cannot be read.", where=str(path), fix="import the checkpoint again"
        ) from error


def about_checkpoint(folder: Path) -> About:
    """What people stated of a checkpoint's weights; all of it empty where its folder has no such file.

    Raises:
        CheckpointError: See ``about_file``.
    """
    path = folder / ABOUT_FILE
    return about_file(path) if path.is_file() else About()


def about_file(path: Path) -> About:
    """What a file states of weights.

    Raises:
        CheckpointError: It cannot be read, is no JSON, or has a key that ``About`` has not.
    """
    failure = CheckpointError(
        "What is stated of the weights cannot be read.",
        where=str(path),
        expected="JSON with any of " + ", ".join(About.model_fields),
        fix="see `medprompt docs reviewer`",
    )
    if not path.is_file():
        raise failure
    return validate(About, json_table(path), failure)


def licence_files(folder: Path, family: type[Family] | type[BoxSegmenter] | None = None) -> list[Path]:
    """The licence files that lie beside a checkpoint's weights, which a bundle of them carries on.

    Raises:
        CheckpointError: There is none, and weights of this family are given away under a licence of their own.
    """
    found = sorted(path for path in folder.iterdir() if path.is_file() and LICENCE.fullmatch(path.name))
    if not found and family is not None and family.own_licence:
        raise CheckpointError(
            f"The licence of the weights is not beside them, and a bundle of {family.architecture} has to carry it.",
            where=str(folder),
            expected="LICENSE, LICENSE.txt or LICENSE.md",
            fix="copy the licence file that the weights came with into the folder; of your own training it is that of "
            "the weights that it began with",
        )
    return found


def _no_config(folder: Path) -> CheckpointError:
    inside = sorted(folder.glob("checkpoint-*/config.json"), key=lambda path: path.stat().st_mtime)
    fix = "save model and processor with save_pretrained(FOLDER)"
    if inside:
        fix = f"name the checkpoint inside, such as {inside[-1].parent}"
    elif folder.is_file():
        fix = "medprompt import FILE --tokenizer FOLDER --out NEW_FOLDER, then name NEW_FOLDER"
    elif not folder.exists() and (found := re.fullmatch(r"([\w.-]+/[\w.-]+?)(@.*)?", folder.as_posix())):
        fix = (
            f"hf download {found[1]} --local-dir FOLDER, then name FOLDER; medprompt export and medprompt import take "
        )
        fix += f"{found[1]}@COMMIT too, with all 40 digits of the commit"
    return CheckpointError(
        "The checkpoint has no config.json.",
        where=str(folder),
        expected="a folder made by save_pretrained: config.json, model.safetensors, processor files",
        got=_what_is_there(folder),
        fix=fix,
    )


def _what_is_there(folder: Path) -> str:
    if folder.is_dir():
        return f"{len(list(folder.iterdir()))} other files"
    return "a file" if folder.is_file() else "no such folder"


def _refuse_adapter(folder: Path) -> None:
    """With peft installed transformers would apply it, and without peft pass it over: not left to chance."""
    found = sorted(path.name for path in folder.glob("adapter_*") if path.suffix in {".json", ".safetensors", ".bin"})
    if found:
        raise CheckpointError(
            "The checkpoint holds an adapter (PEFT, LoRA) that is not merged into its model.",
            where=str(folder),
            expected="a whole model: the adapter's weights inside model.safetensors",
            got=", ".join(found),
            fix="medprompt import FOLDER --base MODEL_FOLDER --out NEW_FOLDER merges an adapter that has a folder to "
            "itself; in Python: merge_and_unload(), then save_pretrained(NEW_FOLDER)",
        )


def _refuse_quantised(folder: Path) -> None:
    for key, stated in _quantised_parts(config_of(folder)):
        raise CheckpointError(
            "The checkpoint is quantised.",
            where=f"{folder / 'config.json'}: {key}",
            expected="weights in float32, bfloat16 or float16",
            got=str(stated.get("quant_method", "another kind")) if isinstance(stated, dict) else "another kind",
            fix="load it where its library is installed, then model.dequantize() and save_pretrained(NEW_FOLDER)",
        )


def _quantised_parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Where a config, or that of a part of the model, says that weights are quantised, and how."""
    for key, value in config.items():
        if key == "quantization_config" and value:
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{inner}", stated) for inner, stated in _quantised_parts(value))


def _check_files(paths: list[Path]) -> None:
    """Refuse files that only stand for the real ones: pointers of git-lfs, links to nothing, a download's web page."""
    for path in paths:
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise CheckpointError(
                "A file of the checkpoint cannot be read.",
                where=str(path),
                got=f"{error.strerror}{f', a link to {path.readlink()}' if path.is_symlink() else ''}",
                fix="copy the folder again, with what its links lead to: cp -rL FOLDER NEW_FOLDER",
            ) from error
        if head.startswith(LFS_MARK):
            raise CheckpointError(
                "The file is a git-lfs pointer, not the file itself.",
                where=str(path),
                fix="in the repository that it came from: git lfs pull; or download the file again",
            )
        if path.suffix == ".safetensors" and head[8:9] != b"{":
            raise CheckpointError(
                "The file is no safetensors file.",
                where=str(path),
                got=_kind_of(head),
                fix="copy or download it again: of a model that asks for consent, after you gave it and logged in",
            )


def _kind_of(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(BEGINNINGS):
        return "a zip archive or a pickle, such as torch.save writes"
    return "text, such as a web page or a server's error" if head.isascii() and b"\0" not in head else "other bytes"


def _refuse_missing_weights(folder: Path) -> None:
    if any(files_of(folder, ".safetensors")):
        return
    pickles = sorted(path.name for path in files_of(folder, *PICKLE_SUFFIXES))
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


def checkpoint_sha256(folder: Path, *, with_notes: bool = False) -> str:
    """SHA-256 over the names and bytes of weights and config files.

    A Trainer's notes are left out; ``with_notes`` takes them in, as bundles of version 0.2.0 and before have it.
    """
    digest = hashlib.sha256()
    left_out = (ABOUT_FILE,) if with_notes else (ABOUT_FILE, *TRAINING_NOTES)
    for path in sorted(files_of(folder, ".safetensors", ".json")):
        if any(path.match(pattern) for pattern in left_out):
            continue
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()


def refuse_unusable(folder: Path, random_weights: bool) -> None:
    """Refuse a folder whose files cannot be what they stand for; its weights are looked at unless they are random.

    Raises:
        CheckpointError: No weights or pickles alone, a file that only stands for the real one, quantised weights.
    """
    if not random_weights:
        _refuse_missing_weights(folder)
    _check_files(sorted(files_of(folder, ".safetensors", ".json", ".txt")))
    _refuse_quantised(folder)


def check_processor_files(folder: Path) -> None:
    """Refuse a folder without an image processor, and one whose two files of it differ.

    transformers 5 reads processor_config.json, transformers 4 preprocessor_config.json: the model would see other
    pixels, by the version that it is run with.

    Raises:
        CheckpointError: Neither file states one, or they differ in what pixels depend on.
    """
    found = {name: json_table(folder / name) for name in PROCESSOR_FILES if (folder / name).is_file()}
    whole, images = (found.get(name, {}) for name in PROCESSOR_FILES)
    if not images and not isinstance(whole.get("image_processor"), dict):
        raise CheckpointError(
            "The checkpoint has no image processor: how images are resized and normalised is not stated.",
            where=str(folder),
            expected=" or ".join(PROCESSOR_FILES),
            got=f"{', '.join(found)} without 'image_processor'" if found else "neither",
            fix="save the processor that the model was trained with beside it: processor.save_pretrained(FOLDER)",
        )
    other = whole.get("image_processor") or {}
    differ = sorted(name for name in other.keys() & images.keys() & IMAGE_SETTINGS if other[name] != images[name])
    if differ:
        raise CheckpointError(
            "The checkpoint's two files about its image processor differ.",
            where=f"{folder}: {' and '.join(PROCESSOR_FILES)}",
            got="; ".join(f"{name}: {other[name]} and {images[name]}" for name in differ)[:300],
            fix="remove the one that the model was not trained with",
        )
