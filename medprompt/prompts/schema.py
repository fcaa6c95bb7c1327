"""What a prompts file may say: its classes and phrases, validated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictStr, ValidationInfo, field_validator, model_validator

from medprompt.core.errors import PromptError
from medprompt.core.models import TEXT, Fault, FrozenModel, Place, faulty
from medprompt.prompts.attributes import ATTRIBUTES, DEFAULT_TEMPLATE, phrases_from_attributes, template_fields
from medprompt.prompts.names import label_identity, phrase_identity, text_fault, twins

PhraseSource = Literal["manual", "mlm", "vqa", "hybrid", "search", "tuned", "augmented", "ensemble"]

STORED = {"stored": True}
"""Validation context of a bank's header: its names were checked, under the rules of their time, when it was made."""


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")  # noqa: TRY004 - pydantic wants ValueError
    return value


Number = Annotated[float, BeforeValidator(_no_boolean)]
"""A number; YAML's ``yes`` and ``true`` are none, though Python counts with them."""


class Code(FrozenModel):
    """A terminology code, for reports: scheme designator (SCT, RADLEX …), value and meaning.

    Designator and value are short enough, and of the characters, that a DICOM report can hold them (PS3.3, 8.1).
    """

    scheme: StrictStr = Field(pattern=r"^[^\\\x00-\x1f]{1,16}$")
    value: StrictStr = Field(pattern=r"^[^\\\x00-\x1f]{1,256}$")
    meaning: StrictStr = ""


class AttributeOrigin(FrozenModel):
    """Where one attribute's word comes from.

    Attributes:
        source: ``manual``, or the kind of model that gave it.
        question, probability: What the model was asked, and gave its answer.
        model: Fingerprint of the model.
    """

    value: StrictStr
    source: Literal["manual", "mlm", "vqa"] = "manual"
    question: StrictStr | None = None
    probability: Number | None = Field(default=None, ge=0, le=1)
    model: StrictStr | None = None


class Origin(FrozenModel):
    """Where a phrase comes from; the model does not see it.

    Attributes:
        model: Fingerprints of the models that gave it.
        question: What was asked, where one question gave the whole phrase.
        probability: Joint probability of its words; the mean over its images where it was made from images.
        parent, images: Phrase, and number of images, that it was made from.
        mean_of: Of an embedding that is the mean of several phrases': their texts and weights.
    """

    model: StrictStr | None = None
    question: StrictStr | None = None
    probability: Number | None = Field(default=None, ge=0, le=1)
    date: StrictStr | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    parent: StrictStr | None = None
    images: int | None = Field(default=None, gt=0)
    attributes: dict[StrictStr, AttributeOrigin] | None = None
    mean_of: dict[StrictStr, Number] | None = None


class Names(FrozenModel):
    """What a class is called when a language model is asked, when images are asked, and in phrases."""

    mlm: StrictStr | None = Field(default=None, min_length=1)
    vqa: StrictStr | None = Field(default=None, min_length=1)
    prompt: StrictStr | None = Field(default=None, min_length=1)


class Questions(FrozenModel):
    """Questions by attribute: with ``{name}``, and ``[MASK]`` for a masked language model."""

    mlm: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    vqa: dict[StrictStr, StrictStr] = Field(default_factory=dict)


class About(FrozenModel):
    """What a pack of prompts is for, where its words come from, and whether they work without fine-tuning."""

    dataset: StrictStr
    target: StrictStr
    sources: tuple[StrictStr, ...] = Field(min_length=1)
    zero_shot: StrictStr


class Calibration(FrozenModel):
    """On what the weights and thresholds of some classes were measured.

    Attributes:
        data, images: The labelled set, and how many images it has.
        sketch: The least of its images' hashes, 8 hex digits each: enough to tell that another set shares images.
        checkpoint: SHA-256 of the checkpoint.
        weights, thresholds: Whether phrase weights, and class thresholds, were set.
        chosen: The thresholds that were set, by class: one that was changed since is not a calibrated one.
    """

    labels: tuple[StrictStr, ...] = Field(min_length=1)
    data: StrictStr
    images: int = Field(gt=0)
    sketch: StrictStr = Field(pattern=r"^[0-9a-f]{8}( [0-9a-f]{8})*$")
    checkpoint: StrictStr
    weights: bool
    thresholds: bool
    date: StrictStr | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    chosen: dict[StrictStr, float] | None = None

    def covers(self, label: str, threshold: float | None) -> bool:
        """Whether a class's threshold is the one that was chosen on these images."""
        return self.thresholds and label in self.labels and (self.chosen or {}).get(label, threshold) == threshold


class Phrase(FrozenModel):
    """One prompt of the model. Its weight (0 … 1) multiplies its score."""

    text: StrictStr
    weight: Number = Field(default=1.0, gt=0, le=1)
    source: PhraseSource = "manual"
    origin: Origin | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "text" not in value:
            raise ValueError("expected a phrase, or a record with its text; put a phrase that holds ': ' in quotes")
        return value

    @field_validator("text")
    @classmethod
    def _tidy(cls, text: str) -> str:
        tidy = " ".join(text.split())
        if not tidy.strip(". "):
            raise ValueError("a phrase must not be empty")
        return tidy


class PromptClass(FrozenModel):
    """What a report names, and the phrases that speak for it."""

    label: StrictStr = Field(min_length=1)
    code: Code | None = None
    threshold: Number | None = Field(default=None, ge=0, le=1)
    names: Names | None = None
    template: StrictStr | None = None
    questions: Questions | None = None
    phrases: tuple[Phrase, ...] = Field(min_length=1)

    def name_for(self, use: Literal["mlm", "vqa", "prompt"]) -> str:
        """Return the class's name for a use; its label where none is given."""
        given: str | None = getattr(self.names, use, None)
        return given or self.label

    def with_phrases(self, phrases: Iterable[Phrase]) -> PromptClass:
        """The class with other phrases."""
        return self.model_copy(update={"phrases": tuple(phrases)})

    @field_validator("phrases", mode="before")
    @classmethod
    def _bare_strings_are_phrases(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError("expected a list of phrases, such as [red cell, round cell]")  # noqa: TRY004 - pydantic wants ValueError
        return tuple({"text": item} if not isinstance(item, dict | Phrase) else item for item in value)


class Prompts(FrozenModel):
    """A whole prompts file.

    Attributes:
        classes: The classes, in the order of their ids.
        pooling: How the phrases' scores of one class are combined: best (``max``) or weighted mean.
        ensemble: ``embedding``: the phrases of one class become one embedding before any score; see
            ``medprompt.prompts.ensemble``. None: their scores are pooled.
        calibration: On what weights or thresholds were measured, if they were.
        task: The task sentence of families that take one (OmDet-Turbo); the family's own by default.
        template: Template of classes that have none of their own.
        free_attributes: Attributes beside the known ones.
        questions: Questions of classes that have none of their own.

    Raises:
        PromptError: An attribute or template that cannot be used.
    """

    about: About | None = None
    classes: tuple[PromptClass, ...] = Field(min_length=1)
    pooling: Literal["max", "mean"] = "max"
    ensemble: Literal["embedding"] | None = None
    calibration: tuple[Calibration, ...] | None = None
    task: StrictStr | None = None
    template: StrictStr | None = None
    free_attributes: tuple[StrictStr, ...] | None = None
    questions: Questions | None = None

    @model_validator(mode="before")
    @classmethod
    def _attributes_become_phrases(cls, value: Any) -> Any:
        """A class's ``attributes`` are a way to write phrases: what is kept is the phrases and their words."""
        if not isinstance(value, Mapping) or not isinstance(value.get("classes"), list):
            return value
        faults = [fault for index, entry in enumerate(value["classes"]) for fault in _word_faults(index, entry)]
        if faults:
            raise faulty(faults)
        return {**value, "classes": [_expanded(index, value) for index in range(len(value["classes"]))]}

    @model_validator(mode="after")
    def _templates_are_known(self) -> Prompts:
        own = [(("classes", index, "template"), entry.template) for index, entry in enumerate(self.classes)]
        for loc, template in (("template",), self.template), *own:
            if template is not None:
                with _blamed(*loc):
                    template_fields(template, self.known_attributes)
        return self

    @model_validator(mode="after")
    def _names_differ(self, info: ValidationInfo) -> Prompts:
        if info.context != STORED and (faults := list(_name_faults(self.classes))):
            raise faulty(faults)
        return self

    def with_classes(self, classes: Iterable[PromptClass]) -> Prompts:
        """The file with other classes, unchecked."""
        return self.model_copy(update={"classes": tuple(classes)})

    @property
    def known_attributes(self) -> tuple[str, ...]:
        """Attributes that templates and questions may name."""
        return (*ATTRIBUTES, *(self.free_attributes or ()))

    @property
    def texts(self) -> tuple[str, ...]:
        """All phrase texts, class by class."""
        return tuple(phrase.text for entry in self.classes for phrase in entry.phrases)


def _name_faults(classes: tuple[PromptClass, ...]) -> Iterator[Fault]:
    """Labels and phrases that cannot be read, or cannot be told apart."""
    labels: dict[Place, str] = {("classes", n, "label"): entry.label for n, entry in enumerate(classes)}
    phrases: dict[Place, str] = {
        ("classes", n, "phrases", m): phrase.text for n, e in enumerate(classes) for m, phrase in enumerate(e.phrases)
    }
    yield from _faults_of("label", labels, label_identity)
    yield from _faults_of("phrase", phrases, phrase_identity)


def _faults_of(
    kind: Literal["label", "phrase"], texts: Mapping[Place, str], identity: Callable[[str], str]
) -> Iterator[Fault]:
    for loc, text in texts.items():
        if fault := text_fault(text, kind):
            yield Fault(loc, fault, text)
    for loc, first in twins(texts, identity):
        yield Fault(loc, f"duplicate {kind}: it is {first!r}, but for case, blanks or a full stop", texts[loc])


def _word_faults(index: int, entry: Any) -> Iterator[Fault]:
    """Words of a class's attributes that YAML does not read as text."""
    attributes = entry.get("attributes") if isinstance(entry, Mapping) else None
    for key, given in attributes.items() if isinstance(attributes, Mapping) else ():
        several = isinstance(given, list)
        for n, word in enumerate(given) if several else [(0, given)]:
            if not isinstance(word, str | None):
                yield Fault(("classes", index, "attributes", key, *([n] if several else [])), TEXT, word)


@contextmanager
def _blamed(*loc: str | int) -> Iterator[None]:
    """Say of an error of ours where in the file it is."""
    try:
        yield
    except PromptError as error:
        words = (
            f"{error.problem} Expected {error.expected}; got {error.got or error.where}"
            if error.expected
            else str(error)
        )
        raise faulty([Fault(loc, words, ...)]) from error


def _expanded(index: int, whole: Mapping[str, Any]) -> Any:
    """One raw class, its attributes replaced by phrases; anything malformed is left for the schema to refuse."""
    entry = whole["classes"][index]
    if not isinstance(entry, Mapping) or "attributes" not in entry:
        return entry
    attributes, label = entry["attributes"], entry.get("label")
    given, names = entry.get("phrases", []), entry.get("names") or {}
    free = whole.get("free_attributes") or ()
    if not (isinstance(attributes, Mapping) and isinstance(given, list) and isinstance(names, Mapping)):
        words = "expected attributes: {color: pink, shape: [round, oval]}"
        raise faulty([Fault(("classes", index, "attributes"), words, attributes)])
    template = entry.get("template") or whole.get("template") or DEFAULT_TEMPLATE
    with _blamed("classes", index, "attributes"):
        combinations = phrases_from_attributes(str(names.get("prompt") or label), attributes, str(template), free=free)
    seen = {" ".join(str(_text_of(phrase)).split()).casefold() for phrase in given}
    made = [
        {"text": one.text, "origin": {"attributes": {key: {"value": w} for key, w in one.attributes.items()}}}
        for one in combinations
        if one.text.casefold() not in seen
    ]
    return {**{key: item for key, item in entry.items() if key != "attributes"}, "phrases": [*given, *made]}


def _text_of(phrase: Any) -> Any:
    return phrase.get("text") if isinstance(phrase, Mapping) else getattr(phrase, "text", phrase)
