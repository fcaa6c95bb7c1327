"""The per-image format published with arXiv 2209.15517: image path → caption, prefix, name and suffix lists.

A caption is the classes' phrases joined by ". "; the phrase of class i is ``prefix[i] + name[i] + suffix[i]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, StrictStr, model_validator

from medprompt.core.errors import PromptError
from medprompt.core.files import write_text
from medprompt.core.models import FrozenModel, validate
from medprompt.core.output_kinds import read_kind
from medprompt.generation.prompt_map import PromptMap, read_json
from medprompt.prompts.file import prompts_from_raw
from medprompt.prompts.schema import PhraseSource, Prompts

BETWEEN = ". "


class Caption(FrozenModel):
    """What one image is prompted with. Further fields, which some of the files have, are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    caption: StrictStr
    prefix: tuple[StrictStr, ...]
    suffix: tuple[StrictStr, ...]
    name: tuple[StrictStr, ...]

    @model_validator(mode="after")
    def _whole(self) -> Caption:
        if not len(self.prefix) == len(self.name) == len(self.suffix) > 0:
            raise ValueError("prefix, name and suffix must be lists of one length, one entry a class")
        if not all(self.phrases) or not all(name.strip() for name in self.name):
            raise ValueError("a name or phrase is empty")
        missing = [phrase for phrase in self.phrases if phrase not in self.caption]
        if missing:
            raise ValueError(f"the caption does not hold {missing[0]!r}")
        return self

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrase of each class."""
        parts = zip(self.prefix, self.name, self.suffix, strict=True)
        return tuple("".join(part).strip() for part in parts)


def caption_from_phrases(phrases: Sequence[str], names: Sequence[str]) -> Caption:
    """Split each class's phrase around its name; the whole phrase counts as the name where it is not in it."""
    prefix, name, suffix = zip(*map(_around, phrases, names), strict=True)
    return Caption(caption=BETWEEN.join(phrases), prefix=prefix, suffix=suffix, name=name)


def _around(phrase: str, name: str) -> tuple[str, str, str]:
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", phrase)
    return (phrase[: found.start()], found[0], phrase[found.end() :]) if found else ("", phrase, "")


def load_published(path: Path) -> dict[str, Caption]:
    """Read a per-image file.

    Raises:
        PromptError: Missing, not JSON, empty, or an entry that breaks a rule.
    """
    raw = read_json(path, "The per-image prompts cannot be read.")
    if not isinstance(raw, dict) or not raw:
        raise PromptError(
            "The file has no images.",
            where=str(path),
            expected="image path → caption, prefix, …",
            fix="give the per-image JSON that a generator wrote",
        )
    return {image: _caption(value, f"{path}: {image}") for image, value in raw.items()}


def _caption(value: Any, where: str) -> Caption:
    expected = '{"caption": "white round bump", "prefix": ["white round "], "suffix": [""], "name": ["bump"]}'
    return validate(Caption, value, PromptError("A per-image prompt is not valid.", where=where, expected=expected))


CAPTIONS = read_kind("per-image prompts", load_published)


def save_published(captions: Mapping[str, Caption], path: Path) -> None:
    """Write a per-image file as the published ones are written, whole or not at all."""
    write_text(path, json.dumps({image: caption.model_dump(mode="json") for image, caption in captions.items()}))


def prompts_from_published(
    captions: Mapping[str, Caption], labels: Sequence[str], source: PhraseSource = "hybrid"
) -> tuple[Prompts, PromptMap]:
    """Collapse per-image prompts: every distinct phrase once, and which of them each image is prompted with.

    ``labels`` are what a report calls each class, in the order of the lists; ``source`` is what made the phrases.

    Raises:
        PromptError: Another number of classes, or two classes with one phrase.
    """
    counts: list[dict[str, tuple[str, int]]] = [{} for _ in labels]
    chosen: dict[str, tuple[str, ...]] = {}
    for image, caption in captions.items():
        if len(caption.phrases) != len(labels):
            raise PromptError(
                "An image's prompt has another number of classes.",
                where=image,
                expected=f"{len(labels)}: {', '.join(labels)}",
                got=f"{len(caption.phrases)}: {', '.join(caption.phrases)}",
                fix="give one label= for each class, in the order of the lists",
            )
        for seen, text in zip(counts, caption.phrases, strict=True):
            first, count = seen.get(text.casefold(), (text, 0))
            seen[text.casefold()] = (first, count + 1)
        chosen[image] = caption.phrases
    phrases = [
        [{"text": text, "source": source, "origin": {"images": n}} for text, n in seen.values()] for seen in counts
    ]
    classes = [{"label": label, "phrases": own} for label, own in zip(labels, phrases, strict=True)]
    return prompts_from_raw({"classes": classes}, "per-image prompts"), chosen
