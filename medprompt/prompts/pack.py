"""Prompt packs: ready prompts files that ship with medprompt, one a data set."""

from __future__ import annotations

from pathlib import Path

from medprompt.core.errors import PromptError
from medprompt.prompts.file import prompts_from_yaml
from medprompt.prompts.schema import Prompts

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
