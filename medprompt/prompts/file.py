"""The prompts file: YAML in, validated classes and phrases out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from medprompt.errors import PromptError

PhraseSource = Literal["manual", "mlm", "vqa", "hybrid", "search", "tuned"]


class Entry(BaseModel):
    """A frozen record; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(Entry):
    """A terminology code, for reports: scheme designator (SCT, RADLEX …), value and meaning."""

    scheme: StrictStr
    value: StrictStr
    meaning: StrictStr = ""


class Phrase(Entry):
    """What the model is told. Its weight (0 … 1) multiplies its score."""

    text: StrictStr
    weight: float = Field(default=1.0, gt=0, le=1)
    source: PhraseSource = "manual"

    @field_validator("text")
    @classmethod
    def _tidy(cls, text: str) -> str:
        tidy = " ".join(text.split())
        if not tidy.strip(". "):
            raise ValueError("a phrase must not be empty")
        return tidy


class PromptClass(Entry):
    """What a report names, and the phrases that speak for it."""

    label: StrictStr = Field(min_length=1)
    code: Code | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    phrases: tuple[Phrase, ...] = Field(min_length=1)

    @field_validator("phrases", mode="before")
    @classmethod
    def _bare_strings_are_phrases(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError("expected a list of phrases")  # noqa: TRY004 - pydantic wants ValueError
        return tuple({"text": item} if not isinstance(item, dict | Phrase) else item for item in value)


class Prompts(Entry):
    """A whole prompts file.

    Attributes:
        classes: The classes, in the order of their ids.
        pooling: How the phrases of one class are combined: best (``max``) or weighted mean.
        task: The task sentence of families that take one (OmDet-Turbo); their own wording by default.
    """

    classes: tuple[PromptClass, ...] = Field(min_length=1)
    pooling: Literal["max", "mean"] = "max"
    task: StrictStr | None = None

    @model_validator(mode="after")
    def _unique(self) -> Prompts:
        for kind, names in (
            ("label", [c.label for c in self.classes]),
            ("phrase", [p.text.casefold() for c in self.classes for p in c.phrases]),
        ):
            doubles = [name for name, count in Counter(names).items() if count > 1]
            if doubles:
                raise ValueError(f"duplicate {kind}: {', '.join(map(repr, doubles))}")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """All phrase texts, class by class."""
        return tuple(phrase.text for entry in self.classes for phrase in entry.phrases)


def prompts_from_yaml(path: Path) -> Prompts:
    """Read and validate a prompts file.

    Raises:
        PromptError: The file is missing, is not YAML, or breaks a rule; every broken rule is listed.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PromptError("The prompts file cannot be read.", where=str(path), got=str(error)) from error
    try:
        return Prompts.model_validate(raw)
    except ValidationError as error:
        raise PromptError(
            "The prompts file is not valid.",
            expected="classes: [{label: RBC, phrases: [red round cell, …]}, …], every phrase a unique string",
            got="; ".join(_sentence(detail) for detail in error.errors()),
            where=str(path),
            fix="mend the entries named above; see docs/prompts.md",
        ) from error


def _sentence(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    shown = repr(detail.get("input"))
    return f"{place or 'file'}: {message} (got {shown[:60]})"
