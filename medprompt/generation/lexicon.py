"""The lexicon: words that fit an attribute, their synonyms and degrees, and the questions that ask for them."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, StrictStr, model_validator

from medprompt.core.errors import PromptError
from medprompt.core.models import FrozenModel, validate
from medprompt.core.yaml import read_yaml_file
from medprompt.prompts.schema import Questions

SHIPPED = Path(__file__).with_name("lexicon.yaml")
_NEGATIONS = frozenset({"no", "non", "not", "without"})


class AttributeWords(FrozenModel):
    """The words of one attribute; see ``lexicon.yaml`` for what each list is for."""

    words: tuple[StrictStr, ...] = Field(min_length=1)
    aliases: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    synonyms: dict[StrictStr, tuple[StrictStr, ...]] = Field(default_factory=dict)
    degrees: tuple[StrictStr, ...] = ()

    @model_validator(mode="after")
    def _aliases_lead_to_words(self) -> AttributeWords:
        lost = sorted(set(self.aliases.values()) - set(self.words))
        if lost:
            raise ValueError(f"aliases of words that are not listed: {', '.join(lost)}")
        return self


class Pairs(FrozenModel):
    """Object-agnostic phrases for what is in order and what is not; ``{name}`` is the object."""

    normal: tuple[StrictStr, ...] = ()
    abnormal: tuple[StrictStr, ...] = ()


class Lexicon(FrozenModel):
    """A whole lexicon file."""

    attributes: dict[StrictStr, AttributeWords]
    questions: Questions = Field(default_factory=Questions)
    pairs: Pairs = Field(default_factory=Pairs)
    experts: dict[StrictStr, tuple[StrictStr, ...]] = Field(default_factory=dict)

    def words(self, attribute: str) -> tuple[str, ...] | None:
        """Words that an attribute may have; None where the lexicon has no list, so that any word fits."""
        entry = self.attributes.get(attribute)
        return entry.words if entry else None

    def normalised(self, attribute: str, answer: str) -> str | None:
        """Bring a model's answer to a word of the attribute.

        The longest listed word (or alias) in the answer counts, the earliest of equally long ones; one after "not"
        does not. Without a list the answer stands as it is, in lower case. None where nothing in the answer fits.

        Example:
            >>> lexicon_from_yaml().normalised("shape", "It is a circle.")
            'round'
        """
        spoken = re.findall(r"[\w-]+", answer.casefold())
        entry = self.attributes.get(attribute)
        if entry is None:
            return " ".join(spoken) or None
        pairs = (*zip(entry.words, entry.words, strict=True), *entry.aliases.items())
        meanings = {said.casefold(): word for said, word in pairs}
        longest = max(len(key.split()) for key in meanings)
        for length in range(longest, 0, -1):
            for start in range(len(spoken) - length + 1):
                said = " ".join(spoken[start : start + length])
                negated = start > 0 and spoken[start - 1] in _NEGATIONS
                if said in meanings and not negated:
                    return meanings[said]
        return None


def lexicon_from_yaml(path: Path | None = None) -> Lexicon:
    """Read a lexicon, the shipped one by default.

    Raises:
        PromptError: The file is missing, is not YAML, or breaks a rule.
    """
    path = path or SHIPPED
    fix = "start from a copy of the shipped lexicon: medprompt/generation/lexicon.yaml"
    source = read_yaml_file(path, PromptError("The lexicon cannot be read.", fix=fix))
    return validate(Lexicon, source.value, PromptError("The lexicon is not valid.", where=str(path), fix=fix), source)
