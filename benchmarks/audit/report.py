"""An audit of prompts: run it, and what it says to people, to files and to a release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprompt.benchmarks.accuracy.evaluation import reporting_thresholds
from medprompt.benchmarks.accuracy.predictions import answers_to_set, own_labels, short_name
from medprompt.benchmarks.audit.answers import ClassAnswers, answer_of, of_class
from medprompt.benchmarks.audit.asking import Asker, encoder_of_checkpoint
from medprompt.benchmarks.audit.tables import tables
from medprompt.benchmarks.audit.verdict import (
    AGREEMENT,
    LEAST_AP,
    LEAST_IMAGES,
    LITTLE,
    MOST,
    ClassVerdict,
    Reading,
    class_as_json,
    judge,
    overall,
)
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table
from medprompt.data import DetectionSet
from medprompt.metrics.bootstrap import draw_images
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.wording import Question, Unasked, Wording, read_wording
from medprompt.runtime.detector import Detector

RESAMPLES = 400
METHOD = (
    "Each class was asked for alone, with its own phrases and with others in their place. What is left of an answer is "
    "the lesser of two shares: of AP50, and of the mean score at the labelled boxes. "
    f"ignores: on average {MOST:.0%} or more are left where the bundle's other classes are asked for (things that are "
    "not there, where it has one class). "
    f"reads: {LITTLE:.0%} or less is left for each other class and for what is not there, and {MOST:.0%} or more under "
    "synonyms. partly: anything between. "
    f"A verdict takes {LEAST_IMAGES} images with the class, an AP50 of {LEAST_AP:g}, and the same verdict in "
    f"{AGREEMENT:.0%} of the draws of images."
)


@dataclass(frozen=True)
class SetAudit:
    """The verdicts on one labelled set, what could not be asked of each class, and images that could not be read."""

    name: str
    images: int
    verdicts: tuple[ClassVerdict, ...]
    unasked: tuple[tuple[str, Unasked], ...]
    unread: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "images": self.images,
            "classes": [class_as_json(verdict) for verdict in self.verdicts],
            "not_asked": [{"label": label, "kind": one.kind, "why": one.why} for label, one in self.unasked],
            "unread": list(self.unread),
        }


@dataclass(frozen=True)
class PromptAudit:
    """Every set, on one engine; ``checkpoint`` says whether phrases could be encoded; ``notes`` are for the reader."""

    sets: tuple[SetAudit, ...]
    device: str
    bundle_sha256: str
    bank_sha256: str
    checkpoint: bool
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def verdicts(self) -> tuple[ClassVerdict, ...]:
        """Of every class of every set."""
        return tuple(verdict for entry in self.sets for verdict in entry.verdicts)

    @property
    def reading(self) -> Reading:
        """The bundle's own verdict."""
        return overall(self.verdicts)

    @property
    def unread(self) -> tuple[str, ...]:
        """Every image that could not be read."""
        return tuple(line for entry in self.sets for line in entry.unread)

    @property
    def unclear(self) -> tuple[str, ...]:
        """Each class without a verdict, and why."""
        return tuple(f"{one.label}: {one.why}" for one in self.verdicts if one.reading is Reading.unclear)

    def tables(self) -> Iterator[Table]:
        """Verdicts, changes, and what was not asked."""
        for entry in self.sets:
            drawn = f"{self.resamples} draws of {entry.images} images"
            yield from tables(entry.name, entry.verdicts, entry.unasked, self.reading, drawn)

    def as_json(self) -> dict[str, Any]:
        """A report that can be attached to the bundle; see ``medprompt.bundles.attached``."""
        return {
            "kind": "prompts",
            "outcome": "no verdict" if self.unclear else "measured",
            "verdict": str(self.reading),
            "bundle_sha256": self.bundle_sha256,
            "bank_sha256": self.bank_sha256,
            "device": self.device,
            "checkpoint": self.checkpoint,
            "method": METHOD,
            "intervals": {"level": 0.95, "resamples": self.resamples, "seed": self.seed},
            "notes": list(self.notes),
            "sets": [entry.as_json() for entry in self.sets],
            "tables": [one.as_json() for one in self.tables()],
        }


def audit_prompts(
    bundle: Bundle | Path | str,
    data: Sequence[DetectionSet],
    *,
    checkpoint: Path | None = None,
    words: Wording | None = None,
    absent: Sequence[PromptBank] = (),
    device: str = "auto",
    threads: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strict: bool = False,
    progress: Progress | None = None,
) -> PromptAudit:
    """Ask a bundle for each class of labelled images in other words, and judge whether its answers follow.

    Args:
        bundle: A bundle, or its folder.
        data: Labelled sets. Each has its own verdicts: what one set does not label may be in its images.
        checkpoint: The checkpoint that the bundle was made from. Without it, only phrases of banks are asked.
        words: Other words; the shipped ones by default.
        absent: Other banks of the same encoder, whose classes are in no image.
        device: The bundle's engine.
        threads: CPU threads of the engine.
        resamples: Draws of images behind each interval and verdict.
        seed: Of the draws.
        strict: Stop at an image that cannot be read; else it is left out and listed.
        progress: Notified of each image.

    Raises:
        DataError: A category without a class, or no image that can be read.
        BankError: A bank of another encoder; or a model that reads all phrases as one text, without a checkpoint.
        InputError: Another checkpoint than the bundle's.
    """
    progress, loaded = progress or Silent(), load_bundle(bundle)
    bank = loaded.bank
    data = [entry.covered_by(bank.labels) for entry in data]
    labels = [own_labels(bank, entry) for entry in data]
    encode = encoder_of_checkpoint(loaded, checkpoint) if checkpoint else None
    asker = Asker(bank, words or read_wording(), encode, tuple(absent))
    with Detector.load(loaded, device, threshold=0.0, threads=threads) as detector:
        sets = [
            _audit_set(entry, own, detector, asker, resamples, seed, strict, progress)
            for entry, own in zip(data, labels, strict=True)
        ]
        served = detector.choice.device
    return PromptAudit(
        *(tuple(sets), served, loaded.sha256, bank.content_hash(), encode is not None, resamples, seed),
        notes=tuple(_notes(bank)),
    )


def _notes(bank: PromptBank) -> Iterator[str]:
    tuned = [e.label for e in bank.prompts.classes if any(phrase.source == "tuned" for phrase in e.phrases)]
    if tuned:
        yield (
            f"the phrases of {', '.join(tuned)} were tuned: the bundle's vectors are no longer what their words encode "
            "to, and questions in words are compared with them"
        )


def _audit_set(
    labelled: DetectionSet,
    labels: Sequence[str],
    detector: Detector,
    asker: Asker,
    resamples: int,
    seed: int,
    strict: bool,
    progress: Progress,
) -> SetAudit:
    asked, unasked = _questions(labels, asker)
    detectors = {id(bank): detector.share(prompts=bank) for bank in asked.values()}  # classes share a bank of many
    try:
        progress.step(f"ask on {short_name(labelled.name)}: {len(detectors)} times an image", len(labelled.images))
        kept, found, unread = answers_to_set(
            lambda image: {key: one(image) for key, one in detectors.items()}, labelled, progress, strict
        )
    finally:
        for one in detectors.values():
            one.close()
    progress.step(f"judge on {short_name(labelled.name)}", len(labels))
    draws, verdicts = draw_images(len(kept.images), resamples, seed), []
    for label in labels:
        alone = kept.only(label)
        (threshold,) = reporting_thresholds([label], detector)
        mine = {question: (name, question) for name, question in asked if name == label}
        answers = {
            question: answer_of(alone, [of_class(one[id(asked[key])], label) for one in found], threshold)
            for question, key in mine.items()
        }
        own = answers.pop(None)
        other = {question: answer for question, answer in answers.items() if question is not None}
        verdicts.append(judge(ClassAnswers(label, own, other), list(draws)))
        progress.advance()
    return SetAudit(short_name(labelled.name), len(kept.images), tuple(verdicts), unasked, unread)


Key = tuple[str, Question | None]
"""A class, and what is asked in its place; None for its own phrases."""


def _questions(labels: Sequence[str], asker: Asker) -> tuple[dict[Key, PromptBank], tuple[tuple[str, Unasked], ...]]:
    banks: dict[Key, PromptBank] = {}
    unasked = []
    for label in labels:
        banks[label, None] = asker.own(label)
        for one in asker.ask(label):
            if isinstance(one, Unasked):
                unasked.append((label, one))
            else:
                banks[label, one[0]] = one[1]
    return banks, tuple(unasked)
