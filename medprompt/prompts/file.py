"""The prompts file: YAML in, validated classes and phrases out; and the packs of them that ship."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from medprompt.core.errors import PromptError
from medprompt.core.files import write_text
from medprompt.core.models import validate
from medprompt.core.output_kinds import file_kind
from medprompt.core.yaml import YamlFile, read_yaml_file
from medprompt.prompts.schema import PromptClass, Prompts


def prompts_from_yaml(path: Path | str) -> Prompts:
    """Read and validate a prompts file.

    Raises:
        PromptError: The file is missing, is not YAML, or breaks a rule; every broken rule is listed.
    """
    source = read_prompts_yaml(Path(path))
    return prompts_from_raw(source.value, str(path), source)


def is_bank(path: Path) -> bool:
    """Whether a file is a prompt bank (safetensors: the length of a JSON header, then the header) by its content."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(9)
            return start[8:] == b"{" and int.from_bytes(start[:8], "little") < Path(path).stat().st_size
    except OSError:
        return False


def read_prompts_yaml(path: Path) -> YamlFile:
    """Read a prompts file's values, unchecked.

    Raises:
        PromptError: The file is missing, is not YAML, or gives a key twice.
    """
    if is_bank(path):
        raise PromptError(
            "This is a prompt bank, and a prompts file is needed here.",
            where=str(path),
            expected="a prompts file (YAML)",
            fix="pass the prompts file that the bank was made from",
        )
    return read_yaml_file(
        path, PromptError("The prompts file cannot be read.", fix="see `medprompt docs prompts-file`")
    )


def prompts_from_raw(raw: Any, where: str, source: YamlFile | None = None) -> Prompts:
    """Validate a prompts file's values; ``where`` says in messages where they come from, ``source`` in which line.

    Raises:
        PromptError: It breaks a rule; every broken rule is listed.
    """
    failure = PromptError(
        "The prompts file is not valid.",
        expected="classes: [{label: RBC, phrases: [red round cell, …]}, …], every phrase a unique string",
        where=where,
        fix=_hint(raw) or "correct the entries named above; see `medprompt docs prompts-file`",
    )
    return validate(Prompts, raw, failure, source)


def _hint(raw: Any) -> str:
    """What to do about a whole file of another form."""
    classes = raw.get("classes", raw) if isinstance(raw, Mapping) else raw
    if raw is None:
        return "write classes into it, or start from a pack: medprompt prompts packs NAME --out P.yaml"
    if isinstance(raw, list):
        return "write 'classes:' on a line above the list"
    if isinstance(classes, Mapping) and classes and all(isinstance(one, list | str) for one in classes.values()):
        return f"write each class as an entry of a list: classes: [{{label: {next(iter(classes))}, phrases: […]}}, …]"
    if isinstance(raw, str) or (isinstance(classes, list) and any(isinstance(one, str) for one in classes)):
        return "write each class as a label and its phrases, also where they are the same word"
    return ""


def checked_prompts(prompts: Prompts, classes: Iterable[PromptClass], where: str) -> Prompts:
    """The file with other classes, checked as if it were read.

    Raises:
        PromptError: It breaks a rule.
    """
    return prompts_from_raw(prompts.with_classes(classes).model_dump(mode="json", exclude_none=True), where)


def yaml_from_prompts(prompts: Prompts) -> str:
    """Write prompts as YAML that reads back as the same prompts; plain phrases stay plain strings."""
    raw = prompts.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for entry in raw["classes"]:
        entry["phrases"] = [p["text"] if set(p) == {"text"} else p for p in entry["phrases"]]
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


WRITTEN = "# Written by medprompt.\n"
PROMPTS_FILE = file_kind("a prompts file", WRITTEN)
"""Known by its first line: a file that a person wrote has the same form."""


def save_prompts(prompts: Prompts, path: Path) -> None:
    """Write a prompts file, whole or not at all."""
    write_text(path, WRITTEN + yaml_from_prompts(prompts))


load_prompts = prompts_from_yaml
"""The name that ``medprompt`` has for it."""


FOLDER = Path(__file__).with_name("packs")


def pack_names() -> tuple[str, ...]:
    """Names of the shipped packs, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def pack_text(name: str) -> str:
    """A pack's YAML as it is shipped, comments included.

    Raises:
        PromptError: No pack of this name.
    """
    if name not in pack_names():
        raise PromptError("There is no such pack.", expected=", ".join(pack_names()), got=name)
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def pack_prompts(name: str) -> Prompts:
    """A pack's prompts, validated; see ``pack_text``."""
    pack_text(name)
    return prompts_from_yaml(FOLDER / f"{name}.yaml")
