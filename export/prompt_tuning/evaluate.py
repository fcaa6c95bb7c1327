"""Prompt evaluation in one table: prompts files and banks, single phrases, ensembles, on one set's features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from medprompt.core.errors import PromptError
from medprompt.core.progress import Progress, Silent
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.prompt_tuning.calibrate import prompts_for_labels
from medprompt.generation.calibration import calibrated_labels, image_marks, records_that_saw, without_weights
from medprompt.prompts.bank import PromptBank, check_encoder
from medprompt.prompts.diff import read_either
from medprompt.prompts.ensemble import ensembled_bank
from medprompt.prompts.schema import Prompts

Ensemble = Literal["max", "mean", "embedding", "calibrated"]
ENSEMBLES: tuple[Ensemble, ...] = get_args(Ensemble)


@dataclass(frozen=True)
class PromptEvalRow:
    """One prompt set and its AP.

    Attributes:
        source: The file.
        ensemble: How the phrases of a class were combined; ``alone`` for a single phrase.
        phrases, phrase: How many; the single phrase, None for a whole file.
        ap: Mean over IoU 0.50 … 0.95 and the set's classes; None unless the prompts name them all.
        ap50: The same at IoU 0.50.
        ap_by_label, ap50_by_label: Of the classes that the prompts name, by the set's name for them.
    """

    source: str
    ensemble: str
    phrases: int
    phrase: str | None
    ap: float | None
    ap50: float | None
    ap_by_label: dict[str, float]
    ap50_by_label: dict[str, float]


@dataclass(frozen=True)
class PromptEvalReport:
    """All rows, in the order asked for, and what they were measured with: the set ``data``, its size, the model.

    Attributes:
        left_out: A sentence for each row that could not be made.
    """

    rows: tuple[PromptEvalRow, ...]
    labels: tuple[str, ...]
    data: str
    images: int
    boxes: int
    checkpoint_sha256: str
    left_out: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return asdict(self)


def evaluate_prompts(
    evaluator: PromptEvaluator,
    files: Sequence[Path],
    *,
    checkpoint_sha256: str,
    ensembles: Sequence[Ensemble] = (),
    each: bool = False,
    progress: Progress | None = None,
) -> PromptEvalReport:
    """Measure prompts files and banks on the images of one set.

    Args:
        evaluator: The model on the images.
        files: Prompts files, or banks of the model's text encoder.
        checkpoint_sha256: The model, which a calibration must have been made on.
        ensembles: Ways to combine the phrases of a class; each file as it stands where empty. ``max``, ``mean`` and
            ``embedding`` take calibrated phrases without their weights, and others with theirs.
        each: Measure each phrase alone too.
        progress: Hears of each row.

    Raises:
        PromptError: An ensemble that the model or a file does not allow, or a calibration made on these very images;
            where other rows can be measured, that row alone is left out.
        BankError: A bank of another encoder.
        DataError: A file that shares no class with the set.
    """
    progress, labelled = progress or Silent(), evaluator.labelled
    evaluator.features.family.check_pooling("mean" if "mean" in ensembles else "max")
    marks = image_marks(labelled)
    banks = [(_bank_of_file(evaluator, path), str(path)) for path in files]
    refused: list[PromptError] = []
    variants = [one for pair in banks for one in _variants(*pair, ensembles, each, checkpoint_sha256, marks, refused)]
    if refused and not variants:
        raise refused[0]
    progress.step(f"{len(variants)} prompt sets on {len(labelled.images)} images", len(variants))
    rows = []
    for variant in variants:
        rows.append(_row(evaluator, *variant))
        progress.advance()
    boxes = sum(len(image.boxes_xyxy) for image in labelled.images)
    left_out = tuple(f"{error.where}: calibrated is left out: {error.problem} {error.got}" for error in refused)
    return PromptEvalReport(
        tuple(rows), labelled.labels, labelled.name, len(labelled.images), boxes, checkpoint_sha256, left_out
    )


def _bank_of_file(evaluator: PromptEvaluator, path: Path) -> PromptBank:
    """The set's classes, phrases not yet ensembled."""
    family, read = evaluator.features.family, read_either(path)
    chosen = prompts_for_labels(read.prompts if isinstance(read, PromptBank) else read, evaluator.labelled)
    if isinstance(read, PromptBank):
        check_encoder(read, family.encoder_fingerprint(), str(path))
        return read.subset([entry.label for entry in chosen.classes])
    bank = bank_from_prompts(family, chosen.model_copy(update={"ensemble": None}))
    return replace(bank, prompts=chosen)


def _variants(
    bank: PromptBank,
    source: str,
    ensembles: Sequence[Ensemble],
    each: bool,
    checkpoint_sha256: str,
    marks: Sequence[str],
    refused: list[PromptError],
) -> Iterator[tuple[PromptBank, str, str, int, str | None]]:
    """Each bank, its source, ensemble and number of phrases, and the single phrase.

    A calibration that cannot be judged here leaves out its row alone, and is put on ``refused``.
    """
    chosen: Sequence[Ensemble | None] = ensembles or [None]
    for ensemble in chosen:
        if ensemble is None:
            _refuse_own_images(bank.prompts, source, checkpoint_sha256, marks, needed=False)
        elif ensemble == "calibrated":
            try:
                _refuse_own_images(bank.prompts, source, checkpoint_sha256, marks, needed=True)
            except PromptError as error:
                refused.append(error)
                continue
        name = ensemble or _as_written(bank.prompts)
        yield _combined(bank, ensemble), source, name, len(bank.prompts.texts), None
    if each:
        for index, text in enumerate(bank.prompts.texts):
            yield _single_phrase(bank, index), source, "alone", 1, text


def _as_written(prompts: Prompts) -> str:
    if all(len(entry.phrases) == 1 for entry in prompts.classes):
        return "one phrase"
    if prompts.ensemble:
        return prompts.ensemble
    known = calibrated_labels(prompts)
    return "calibrated" if known & {entry.label for entry in prompts.classes} else prompts.pooling


def _combined(bank: PromptBank, ensemble: Ensemble | None) -> PromptBank:
    """The bank under another ensemble; as its prompts say where None."""
    if ensemble is None:
        return ensembled_bank(bank) if bank.prompts.ensemble else bank
    prompts = bank.prompts if ensemble == "calibrated" else without_weights(bank.prompts)
    pooling = "mean" if ensemble == "mean" else "max"
    changed = replace(bank, prompts=prompts.model_copy(update={"pooling": pooling, "ensemble": None}))
    return ensembled_bank(changed) if ensemble == "embedding" else changed


def _refuse_own_images(
    prompts: Prompts, source: str, checkpoint_sha256: str, marks: Sequence[str], *, needed: bool
) -> None:
    """A calibration must be there if needed, of this checkpoint, and made on other images."""
    labels = [entry.label for entry in prompts.classes]
    known = calibrated_labels(prompts)
    bare = [entry.label for entry in prompts.classes if len(entry.phrases) > 1 and entry.label not in known]
    remedy = "medprompt prompts calibrate CHECKPOINT --prompts P.yaml --data TRAIN --out Q.yaml, then evaluate Q.yaml"
    if needed and bare:
        raise PromptError(
            "The phrases have no calibrated weights.", where=source, got=f"none for {', '.join(bare)}", fix=remedy
        )
    records = [r for r in prompts.calibration or () if r.weights and set(labels) & set(r.labels)]
    others = [record for record in records if record.checkpoint != checkpoint_sha256]
    if others:
        raise PromptError(
            "The phrases were calibrated for another checkpoint.",
            where=source,
            expected=checkpoint_sha256[:16],
            got=others[0].checkpoint[:16],
            fix=remedy,
        )
    seen = records_that_saw(prompts, labels, marks)
    if seen:
        raise PromptError(
            "The phrases were calibrated on images of this set.",
            where=source,
            got=f"calibrated on {seen[0].data}",
            fix="calibrate on training images, and measure on others",
        )


def _single_phrase(bank: PromptBank, index: int) -> PromptBank:
    """One phrase, one class, weight 1."""
    entry, phrase = [(entry, phrase) for entry in bank.prompts.classes for phrase in entry.phrases][index]
    alone = entry.with_phrases([phrase.model_copy(update={"weight": 1.0})])
    single = bank.at(np.array([index]), [alone])
    return replace(single, prompts=single.prompts.model_copy(update={"ensemble": None}))


def _row(
    evaluator: PromptEvaluator, bank: PromptBank, source: str, ensemble: str, phrases: int, phrase: str | None
) -> PromptEvalRow:
    accuracy = evaluator.accuracy(bank)
    named = {label.casefold() for label in bank.labels}
    whole = all(label.casefold() in named for label in evaluator.labelled.labels)
    return PromptEvalRow(
        source=source,
        ensemble=ensemble,
        phrases=phrases,
        phrase=phrase,
        ap=accuracy.ap if whole else None,
        ap50=accuracy.ap50 if whole else None,
        ap_by_label=_of_named(accuracy.ap_by_label, named),
        ap50_by_label=_of_named(accuracy.ap50_by_label, named),
    )


def _of_named(values: dict[str, float], named: set[str]) -> dict[str, float]:
    """Classes that the prompts do not name score 0, which says nothing about the prompts."""
    return {label: value for label, value in values.items() if label.casefold() in named}
