"""A checkpoint file of another project in, a folder that a family loads out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medprompt.core.errors import CheckpointError
from medprompt.core.files import sha256_of_file
from medprompt.core.manifest import ImportRecord, SourceFile
from medprompt.export.importers import importers
from medprompt.export.importers.base import Foreign, Importer, Weights
from medprompt.export.importers.mapping import convert, listed, mapping_sha256
from medprompt.export.importers.pickles import plain, read_pickle, tensors_of
from medprompt.export.importers.stated import Stated, python_values, read_config
from medprompt.export.importers.tokenizer import tokenizer_of

RECORD_FILE = "import.json"
"""Where an imported checkpoint came from: an ``ImportRecord``."""
RULES_KEY = "trained_rules"
"""In config.json; transformers keeps a key that it does not know when it saves a model again."""
WEIGHTS = ("state_dict", "model")
"""What projects call the weights that they evaluate themselves; ``state_dict`` is an average where one was kept."""
OTHER_WEIGHTS = ("model_ema", "ema_model", "ema_state_dict")
"""What they call a second set of weights."""


@dataclass(frozen=True)
class ImportOptions:
    """What a file does not hold.

    Attributes:
        tokenizer: A folder with the text model's tokenizer.
        config: The project's config; None where the file holds it.
        weights: Which of several sets of weights is taken, by its name in the file; None: the one that the project
            itself evaluates.
        base: The model that a PEFT adapter belongs to; None: where the adapter's config says.
    """

    tokenizer: Path | None = None
    config: Path | None = None
    weights: str | None = None
    base: Path | None = None

    @property
    def paths(self) -> list[Path | None]:
        """All that is read."""
        return [self.tokenizer, self.config, self.base]


def write_imported(source: Path, folder: Path, options: ImportOptions) -> ImportRecord:
    """Turn a file into a folder that a family loads; whether it is whole, a loading will tell.

    Raises:
        CheckpointError: The file, the config or the tokenizer cannot be used, or they do not belong together.
    """
    foreign, taken = read_foreign(source, options)
    importer = importer_of(foreign)
    rules, trained = importer.rules(foreign), importer.trained_rules(foreign)
    weights = Weights(convert(foreign.weights.tensors, rules, str(source)), str(source))
    config = {**importer.config(foreign, weights), RULES_KEY: trained.model_dump(mode="json")}
    importer.processor(foreign).save_pretrained(folder)
    save_file(dict(weights.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", config)
    record = ImportRecord(
        format=importer.name,
        files=tuple(source_files(source, options.config)),
        weights=taken,
        mapping_sha256=mapping_sha256(rules),
        rules=trained,
        warnings=importer.warnings(foreign),
    )
    _write(folder / RECORD_FILE, record.model_dump(mode="json"))
    return record


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def source_files(*paths: Path | None) -> Iterator[SourceFile]:
    """The name and hash of each file."""
    for path in paths:
        if path is not None:
            yield SourceFile(name=path.name, sha256=sha256_of_file(path))


def importer_of(foreign: Foreign) -> Importer:
    """The importer of a file's format.

    Raises:
        CheckpointError: No importer recognises it.
    """
    known = importers()
    for importer in known:
        if importer.recognises(foreign):
            return importer
    raise CheckpointError(
        "The file's weights are of no format that is known.",
        where=str(foreign.path),
        expected=f"weights of {', '.join(importer.name for importer in known)}",
        got=listed(foreign.weights.tensors),
        fix="medprompt docs checkpoints says which formats are read, and from which code",
    )


def read_foreign(source: Path, options: ImportOptions) -> tuple[Foreign, str]:
    """Read a file and what was handed in beside it; and the name of the weights that were taken.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    content = _content(source)
    taken, table = _chosen(content, source, options.weights)
    weights, top_level = Weights(tensors_of(table, source), str(source)), frozenset(content) - frozenset(table)
    bare = Foreign(source, weights, top_level, Stated({}, ""), None, Stated({}, ""))
    importer = importer_of(bare)  # before anything is asked for that another format would not need
    if options.tokenizer is None:
        raise CheckpointError(
            "A checkpoint file does not hold its tokenizer.",
            where="tokenizer",
            expected="a folder with the tokenizer of its text model, such as that of bert-base-uncased",
            got="none",
            fix="tokenizer=FOLDER",
        )
    stated = _stated(importer, options.config, content, source)
    text, tokenizer = _text_config(options.tokenizer), tokenizer_of(options.tokenizer)
    return replace(bare, stated=stated, tokenizer=tokenizer, text=text), taken


def _content(source: Path) -> Mapping[str, Any]:
    try:
        content = load_file(source) if source.suffix == ".safetensors" else read_pickle(source)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("The file cannot be read.", where=str(source), got=str(error)[:200]) from error
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            "The file holds no weights by name.",
            where=str(source),
            expected="a state dict, or a table with one",
            got=type(content).__name__,
        )
    return content


def _chosen(content: Mapping[str, Any], source: Path, wanted: str | None) -> tuple[str, Mapping[str, Any]]:
    """The weights and their name; the file itself, under no name, where it is a state dict."""
    there = [name for name in (*WEIGHTS, *OTHER_WEIGHTS) if isinstance(content.get(name), Mapping)]
    name = wanted or next(iter(there), "")
    if name and name not in there:
        raise CheckpointError(
            "The file has no such weights.",
            where="weights",
            expected=", ".join(there) or "no name: the file is one set of weights",
            got=name,
        )
    return name, content[name] if name else content


def _stated(importer: Importer, config: Path | None, content: Mapping[str, Any], source: Path) -> Stated:
    """The project's config: handed in, in the file, or nothing where a format needs none."""
    if config is None and not importer.needs_config:
        return Stated({}, f"{source}: no config")
    stated = _own_config(content, source) if config is None else read_config(config)
    stated.check_whole(importer.states)
    return stated


def _own_config(content: Mapping[str, Any], source: Path) -> Stated:
    """The config in the file: mmengine's text, or the arguments of a training.

    Raises:
        CheckpointError: It holds none.
    """
    meta, arguments = plain(content.get("meta")), plain(content.get("args"))
    if isinstance(meta, Mapping) and isinstance(meta.get("cfg"), str):
        try:
            return Stated(python_values(meta["cfg"]), f"{source}: meta.cfg")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise CheckpointError(
                "The config in the file cannot be read.", where=f"{source}: meta.cfg", fix="config=FILE"
            ) from error
    if isinstance(arguments, Mapping):
        return Stated(arguments, f"{source}: args")
    raise CheckpointError(
        "The checkpoint does not hold the config that it was trained with, and not all of it shows in the weights.",
        where="config",
        expected="the project's own config file (Python, YAML or JSON)",
        got="none",
        fix="config=FILE",
    )


def _text_config(folder: Path) -> Stated:
    path = folder / "config.json"
    return read_config(path) if path.is_file() else Stated({}, f"{folder}: no config.json")
