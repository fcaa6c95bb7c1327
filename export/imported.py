"""What a user calls a checkpoint, turned into a folder that a family loads: a file, an adapter, a name on the Hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medprompt.core.errors import CheckpointError, need_module
from medprompt.core.files import real_path, write_json
from medprompt.core.manifest import ImportRecord, SourceFile
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    checkpoint_sha256,
    import_record,
    json_table,
    licence_files,
)
from medprompt.export.importers.run import RECORD_FILE, ImportOptions, source_files, write_imported

HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
"""A repository and a commit: a branch may be another model tomorrow."""
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "LICENSE*", "LICENCE*"]
"""What is downloaded; no pickle, no code."""


@contextmanager
def usable_checkpoint(checkpoint: Path, options: ImportOptions) -> Iterator[Path]:
    """Yield a folder that a family loads: the checkpoint itself, or what it is imported into while the block lasts.

    Raises:
        CheckpointError: See ``write_checkpoint``.
    """
    if not needs_import(checkpoint):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="medprompt-") as aside:
        folder = Path(aside) / real_path(checkpoint).name  # a bundle keeps the checkpoint's name
        folder.mkdir()
        write_checkpoint(checkpoint, folder, options)
        yield folder


def needs_import(checkpoint: Path) -> bool:
    """Whether a checkpoint is a file, a PEFT adapter or a name on the Hub."""
    return checkpoint.is_file() or _is_adapter(checkpoint) or _on_the_hub(checkpoint) is not None


def write_checkpoint(source: Path, folder: Path, options: ImportOptions) -> ImportRecord:
    """Import a checkpoint into an empty folder, and load it once to see that it is whole.

    Raises:
        CheckpointError: It cannot be used, or it needs no import.
    """
    if not needs_import(source):
        raise CheckpointError(
            "There is nothing to import.",
            where=str(source),
            expected="a checkpoint file of another project, a PEFT adapter, or OWNER/NAME@COMMIT on the Hub",
            got="a folder" if source.is_dir() else "no such file",
            fix="medprompt export takes a folder of transformers as it is" if source.is_dir() else "",
        )
    if found := _on_the_hub(source):
        record = _write_hub(source, found["repo"], found["revision"], folder, options)
    else:
        record = _write_adapted(source, folder, options) if source.is_dir() else write_imported(source, folder, options)
    try:
        family = family_from_checkpoint(folder)
    except CheckpointError as error:
        error.where = error.where.replace(str(folder), str(source))
        raise
    if source.is_dir() or (source.is_file() and family.own_licence):
        _keep_licences(source if source.is_dir() else source.parent, folder)
    return record


def _keep_licences(source: Path, folder: Path) -> None:
    """Copy the licence files that lie in a folder into another, beside those that it has."""
    for path in licence_files(source):
        taken = (folder / path.name).exists()
        shutil.copyfile(path, folder / (f"{path.name}.{source.name}" if taken else path.name))


def _on_the_hub(source: Path) -> re.Match[str] | None:
    return None if source.exists() else HUB_NAME.fullmatch(source.as_posix())


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def _write_hub(source: Path, repo: str, revision: str, folder: Path, options: ImportOptions) -> ImportRecord:
    snapshot = _downloaded(repo, revision)
    if _is_adapter(snapshot):
        return _write_adapted(snapshot, folder, options)
    shutil.copytree(snapshot, folder, dirs_exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    here = SourceFile(name=source.as_posix(), sha256=checkpoint_sha256(folder))
    return _recorded(folder, ImportRecord(format="hugging-face-hub", files=(here,)))


def _downloaded(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # of network, permission and name, in many types
        raise CheckpointError(
            "The checkpoint cannot be downloaded from the Hub.",
            where=f"{repo}@{revision}",
            got=f"{type(error).__name__}: {error}".splitlines()[0][:200],
            fix=f"where the Hub can be reached: hf download {repo} --revision {revision} --local-dir FOLDER; then name "
            "FOLDER here",
        ) from error


def _recorded(folder: Path, record: ImportRecord) -> ImportRecord:
    write_json(folder / RECORD_FILE, record.model_dump(mode="json"))
    return record


def _write_adapted(adapter: Path, folder: Path, options: ImportOptions) -> ImportRecord:
    """The base model with an adapter merged into it, and the processor of whichever of the two has one."""
    need_module("peft", "Merging an adapter", "peft", "lora")
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(
            "The adapter has no weights that can be read.",
            where=str(adapter),
            expected=ADAPTER_WEIGHTS,
            fix="save the adapter with save_pretrained(FOLDER), which writes safetensors",
        )
    with usable_checkpoint(_base_of(adapter, options), options) as base:
        family = family_from_checkpoint(base)
        _keep_licences(base, folder)
        _merged(family.model, adapter).save_pretrained(folder)
        family.processor.save_pretrained(folder)
        own = import_record(base)
        record = ImportRecord(
            format="peft-adapter",
            files=(
                *source_files(adapter / ADAPTER_WEIGHTS, adapter / ADAPTER_CONFIG),
                SourceFile(name=_base_of(adapter, options).name, sha256=checkpoint_sha256(base)),
                *(own.files if own else ()),
            ),
            rules=family.rules,
            warnings=own.warnings if own else (),
        )
    return _recorded(folder, record)


def _base_of(adapter: Path, options: ImportOptions) -> Path:
    """The model that an adapter belongs to: handed in, or where its config says, if it is there."""
    stated = str(json_table(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    base = options.base or Path(stated)
    if options.base is None and not (stated and base.is_dir()):
        raise CheckpointError(
            "The model that the adapter belongs to is not here.",
            where=f"{adapter / ADAPTER_CONFIG}: base_model_name_or_path",
            expected="the folder of the model that the training began with",
            got=stated or "nothing",
            fix="base=FOLDER",
        )
    return base


def _merged(model: Any, adapter: Path) -> Any:
    """The model with every tensor of the adapter in it.

    Raises:
        CheckpointError: peft cannot put it on this model, or left a tensor out.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    tell_embeddings(model)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True, use_safetensors=True)
    except Exception as error:  # peft raises many types for an adapter of another model
        raise CheckpointError(
            "The adapter does not belong to this model.",
            where=str(adapter),
            got=f"{type(error).__name__}: {error}".splitlines()[0][:200],
            fix="base=FOLDER, the model that the training began with",
        ) from error
    taken = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    left = [
        name
        for name, tensor in load_file(adapter / ADAPTER_WEIGHTS).items()
        if name not in taken or not torch.equal(taken[name], tensor.to(taken[name].dtype))
    ]
    if left:
        raise CheckpointError(
            "The adapter holds weights that this model does not take; what they were trained for would be lost.",
            where=str(adapter),
            got=f"{len(left)} not taken, such as {left[0]}",
            fix="base=FOLDER, the model that the training began with",
        )
    return adapted.merge_and_unload(safe_merge=True).eval()


def tell_embeddings(model: Any) -> None:
    """Let a model say what its input embeddings are: peft asks, and transformers' Grounding DINO cannot tell.

    A model without embeddings is left as it is.
    """
    import torch

    try:
        model.get_input_embeddings()
    except NotImplementedError:  # what transformers raises where embeddings lie in none of the places that it looks at
        words = next((module for module in model.modules() if isinstance(module, torch.nn.Embedding)), None)
        if words is not None:
            model.get_input_embeddings = lambda: words
