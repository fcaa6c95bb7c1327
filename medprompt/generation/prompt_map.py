"""Which phrases an image is prompted with: a JSON object, image path → list of phrases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medprompt.core.errors import PromptError
from medprompt.core.files import write_json
from medprompt.core.output_kinds import read_kind
from medprompt.prompts.phrase_set import phrase_key
from medprompt.prompts.schema import Prompts

PromptMap = Mapping[str, tuple[str, ...]]


def save_prompt_map(chosen: PromptMap, path: Path) -> None:
    """Write a map, whole or not at all."""
    write_json(path, {image: list(phrases) for image, phrases in chosen.items()}, indent=1)


def load_prompt_map(path: Path) -> PromptMap:
    """Read a map.

    Raises:
        PromptError: Missing, not JSON, or not a list of phrases an image; an empty list or phrase.
    """
    raw = read_json(path, "The prompt map cannot be read.")
    for image, phrases in raw.items() if isinstance(raw, dict) else [("file", raw)]:
        good = isinstance(raw, dict) and isinstance(phrases, list) and phrases
        if not good or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
            raise PromptError(
                "The prompt map has an entry that is not a list of phrases.",
                where=f"{path}: {image}",
                expected='{"image.png": ["pink round bump", …], …}',
                got=repr(phrases)[:80],
            )
    return {image: tuple(phrases) for image, phrases in raw.items()}


PROMPT_MAP = read_kind("a prompt map", load_prompt_map)


def read_json(path: Path, problem: str) -> Any:
    """Read a JSON file.

    Raises:
        PromptError: ``problem``, where the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(problem, where=str(path), got=str(error)) from error


def check_prompt_map(chosen: PromptMap, prompts: Prompts, images: Iterable[str] = ()) -> None:
    """Refuse a map that does not fit the prompts, or the ``images``, which are written as the map writes them.

    Raises:
        PromptError: A phrase that the prompts do not have, or an image that the map does not have.
    """
    known = set(map(phrase_key, prompts.texts))
    foreign = [phrase for phrases in chosen.values() for phrase in phrases if phrase_key(phrase) not in known]
    if foreign:
        raise PromptError(
            "The prompt map names a phrase that the prompts do not have.",
            expected=f"one of {len(known)} phrases",
            got=", ".join(dict.fromkeys(foreign[:3])),
            fix="use the map and the prompts file of one generator run",
        )
    missing = [image for image in images if image not in chosen]
    if missing:
        raise PromptError(
            "Images are missing from the prompt map.",
            expected=f"an entry for each image; the map has {len(chosen)}, such as {next(iter(chosen), 'none')}",
            got=f"{len(missing)} missing: {', '.join(missing[:3])}",
            fix="run the generator on these images, or leave them out",
        )
