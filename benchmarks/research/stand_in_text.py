"""Sentences for the stand-in language model: definitions of anatomy, cells and diseases, and a dictionary's glosses.

No class of ours is treated in its own way: whatever a definition says of a term becomes sentences about that term.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medprompt.core.errors import EngineError, InputError
from medprompt.generation.lexicon import Lexicon

ONTOLOGIES = ("CL", "UBERON", "MONDO", "EFO", "PATO")
"""Cell types, anatomy, diseases, experimental factors, qualities: those of the wheel that define terms in English."""

NAMES = 3
"""Maximum number of names of a term that sentences are made with."""

MAX_NAME_LENGTH = 40
"""Characters; longer names are formulas and taxonomy."""

BLANK = "[MASK]"


@dataclass(frozen=True)
class Definition:
    """What a book says of a term.

    Attributes:
        names: The term and its synonyms.
        text: The definition.
    """

    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Sentence:
    """A sentence to learn from.

    Attributes:
        text: The sentence.
        answer: The part of it that is masked; any part where None.
    """

    text: str
    answer: str | None = None


def ontology_definitions() -> list[Definition]:
    """Read the ontologies of the wheel ``cellxgene-ontology-guide``, the newest of each.

    Raises:
        EngineError: It is not installed, or ``zstandard`` is not.
    """
    spec = find_spec("cellxgene_ontology_guide")
    if spec is None or not spec.submodule_search_locations:
        raise _missing("cellxgene-ontology-guide")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    terms = [term for name in ONTOLOGIES for term in _newest(folder, name).values()]
    return list(_defined(terms))


def _newest(folder: Path, name: str) -> dict[str, Any]:
    try:
        import zstandard
    except ImportError as error:
        raise _missing("zstandard") from error
    path = max(folder.glob(f"{name}-ontology-*.json.zst"))
    terms: dict[str, Any] = json.loads(zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read())
    return terms


def _missing(package: str) -> EngineError:
    return EngineError(
        f"The stand-in language model needs {package}, which is not installed.",
        fix="pip install cellxgene-ontology-guide zstandard",
    )


def _defined(terms: Iterable[dict[str, Any]]) -> Iterator[Definition]:
    for term in terms:
        names = [
            name for name in (term.get("label"), *term.get("synonyms", ())) if name and len(name) <= MAX_NAME_LENGTH
        ]
        if term.get("description") and names:
            yield Definition(tuple(names[:NAMES]), _first_sentences(term["description"]))


def wordnet_definitions(folder: Path) -> list[Definition]:
    """Read the glosses of WordNet's nouns (Debian: ``wordnet-base``).

    Args:
        folder: Where ``data.noun`` lies.

    Raises:
        InputError: It does not.
    """
    try:
        lines = (folder / "data.noun").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise InputError(
            "WordNet cannot be read.", where=str(folder), got=str(error), fix="apt-get install wordnet-base, --wordnet"
        ) from error
    return [_glossed(line) for line in lines if line[:1].isdigit()]


def _glossed(line: str) -> Definition:
    fields, _, gloss = line.partition(" | ")
    parts = fields.split()
    words = [word.replace("_", " ") for word in parts[4 : 4 + 2 * int(parts[3], 16) : 2]]
    return Definition(tuple(words[:NAMES]), gloss.partition('; "')[0].strip())


def _first_sentences(text: str, longest: int = 240) -> str:
    """Whole sentences from the start of a text, up to a length; the first one at least."""
    parts = re.split(r"(?<=[.;]) ", " ".join(text.split()))
    kept = parts[0]
    for part in parts[1:]:
        if len(kept) + len(part) >= longest:
            break
        kept += " " + part
    return kept


def sentences_from_definitions(definitions: Iterable[Definition], lexicon: Lexicon) -> list[Sentence]:
    """Each term with its definition; and where that has a word of an attribute, the lexicon's question, for every name.

    Args:
        definitions: Terms and texts.
        lexicon: Its words and questions.
    """
    made = []
    for entry in definitions:
        made.append(Sentence(f"{entry.names[0]} is {entry.text}"))
        for attribute, question in lexicon.questions.mlm.items():
            answer = lexicon.normalised(attribute, entry.text)
            if answer:
                made += [Sentence(question.format(name=name).replace(BLANK, answer), answer) for name in entry.names]
    return made
