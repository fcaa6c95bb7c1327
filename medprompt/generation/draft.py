"""What a generator starts from: classes that may lack phrases, the models (two protocols, no torch), and its rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medprompt.core.progress import Progress, Silent
from medprompt.generation.answers import Answer, AnswerCache
from medprompt.generation.lexicon import Lexicon
from medprompt.prompts.attributes import Combine
from medprompt.prompts.file import prompts_from_raw, read_prompts_yaml
from medprompt.prompts.schema import Prompts

Method = Literal["mlm", "vqa", "hybrid"]
ASKED = ("color", "shape", "location")
"""Attributes that are requested where neither the template nor the caller says which: those of arXiv 2209.15517."""

SEEN = ("color", "shape", "texture", "size")
"""Attributes that the hybrid method takes from the image; it asks the language model for the rest."""


class LanguageModel(Protocol):
    """A masked language model."""

    fingerprint: str

    def answers(self, question: str, words: Sequence[str] | None, top_k: int) -> tuple[Answer, ...]:
        """Fill ``[MASK]``: the likeliest of ``words`` (of all words, where None), best first."""


class ImageModel(Protocol):
    """A model that answers questions about images."""

    fingerprint: str

    def answer(self, images_rgb: Sequence[NDArray[np.uint8]], questions: Sequence[str]) -> tuple[Answer, ...]:
        """Answer one question for each uint8 ``[H, W, 3]`` image."""


@dataclass(frozen=True)
class PromptTemplateFile:
    """A prompts file to be filled: classes may still lack phrases.

    Attributes:
        prompts: The file; a class without phrases has a placeholder.
        words: By label, the attributes that are given by hand. They are used as they are, and not asked for.
    """

    prompts: Prompts
    words: Mapping[str, Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True)
class GenerationOptions:
    """What a run asks, and how it makes phrases of the answers.

    Attributes:
        method: ``mlm``, ``vqa``, or ``hybrid``: ``SEEN`` attributes from the image, the rest from the language model.
        language_model, image_model: As the method needs them.
        asked: Attributes to ask for; by default those of the file's template, or ``ASKED``.
        top_k: Answers of the language model an attribute.
        combine: How the language model's answers are put together.
        date: Recorded with each phrase, as YYYY-MM-DD.
        batch: Images a call of the image model.
    """

    method: Method
    lexicon: Lexicon
    language_model: LanguageModel | None = None
    image_model: ImageModel | None = None
    asked: tuple[str, ...] = ()
    top_k: int = 3
    combine: Combine = "aligned"
    date: str | None = None
    batch: int = 8
    cache: AnswerCache = field(default_factory=AnswerCache)
    progress: Progress = field(default_factory=Silent)


def draft_from_yaml(path: Path) -> PromptTemplateFile:
    """Read a prompts file whose classes may still lack phrases.

    Raises:
        PromptError: See ``prompts_from_yaml``.
    """
    source = read_prompts_yaml(path)
    raw = source.value
    classes = raw.get("classes") if isinstance(raw, dict) else None
    if not isinstance(classes, list) or not all(isinstance(entry, dict) for entry in classes):
        return PromptTemplateFile(prompts_from_raw(raw, str(path), source), {})
    filled = [
        entry if {"phrases", "attributes"} & set(entry) else {**entry, "phrases": [f"{entry.get('label')} (unfilled)"]}
        for entry in classes
    ]
    prompts = prompts_from_raw({**raw, "classes": filled}, str(path), source)
    words = {
        entry["label"]: {
            key: (value,) if isinstance(value, str) else tuple(word or "" for word in value)
            for key, value in (entry.get("attributes") or {}).items()
            if value
        }
        for entry in classes
    }
    return PromptTemplateFile(prompts, words)
