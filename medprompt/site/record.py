"""What a bundle was proven on, a row of figures an image: ``site.json`` in the bundle, or attached to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medprompt.bundles.attached import attached_reports
from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError, InputError
from medprompt.core.files import write_text
from medprompt.core.models import FrozenModel, validate
from medprompt.core.output_kinds import ATTACHED_FOLDER, read_kind
from medprompt.prompts.bank import PromptBank
from medprompt.site.detector_statistics import detector_columns, detector_statistics
from medprompt.site.image_statistics import IMAGE_STATISTICS, image_statistics

SITE_FILE = "site.json"
KIND: Literal["site record"] = "site record"

MAX_IMAGES = 200
"""Images of a record, and of a check: more cost time and add little."""

DIGITS = 5
"""Significant digits of a figure: a record of ``MAX_IMAGES`` then stays under 100 KB."""


class SiteRecord(FrozenModel):
    """Figures of images that a bundle was proven on.

    Attributes:
        bundle_sha256: The bundle that it is about; empty in the bundle itself, whose manifest names it.
        prompts_sha256: Of the prompts that were asked, see ``prompts_sha256``.
        threshold: Score from which a detection counts here, whatever the thresholds of the classes are.
        source: Which images these are.
        columns: Units by figure: those of ``IMAGE_STATISTICS``, then those of ``detector_columns``.
        rows: The figures, a row an image.
    """

    kind: Literal["site record"] = KIND
    schema_version: Literal[1] = 1
    bundle_sha256: str = ""
    prompts_sha256: str
    threshold: float
    source: str
    columns: dict[str, str]
    rows: tuple[tuple[float, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if not all(len(row) == len(self.columns) and np.isfinite(row).all() for row in self.rows):
            raise ValueError("expected finite rows with a figure a column")
        return self

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The rows as float64 ``[N, F]``."""
        return np.array(self.rows, dtype=np.float64)


def site_record(
    images: Iterable[NDArray[np.uint8]],
    found: Iterable[Detections],
    bank: PromptBank,
    threshold: float,
    source: str,
    bundle_sha256: str = "",
) -> SiteRecord:
    """Record images (uint8 ``[H, W, 3]``) and all K detections of each, from score 0."""
    rows = [site_row(*pair, threshold) for pair in zip(images, found, strict=True)]
    return record_of_rows(rows, bank, threshold, source, bundle_sha256)


def record_of_rows(
    rows: Sequence[NDArray[np.float64]], bank: PromptBank, threshold: float, source: str, bundle_sha256: str = ""
) -> SiteRecord:
    """As ``site_record``, of rows that ``site_row`` made."""
    return SiteRecord(
        bundle_sha256=bundle_sha256,
        prompts_sha256=prompts_sha256(bank),
        threshold=threshold,
        source=source,
        columns={**IMAGE_STATISTICS, **detector_columns(bank.labels)},
        rows=tuple(tuple(row.tolist()) for row in rows),
    )


def site_row(image_rgb: NDArray[np.uint8], found: Detections, threshold: float) -> NDArray[np.float64]:
    """The figures of one image, rounded as a record keeps them: float64 ``[F]``."""
    figures = np.concatenate([image_statistics(image_rgb), detector_statistics(found, threshold)])
    return np.array([float(f"{value:.{DIGITS}g}") for value in figures])


def prompts_sha256(bank: PromptBank) -> str:
    """Hash of what the model is told; thresholds, which a site may set otherwise, take no part."""
    plain = [entry.model_copy(update={"threshold": None}) for entry in bank.prompts.classes]
    told = bank.prompts.model_copy(update={"classes": tuple(plain), "calibration": None})
    return bank.with_prompts(told).content_hash()


def write_record(path: Path, record: SiteRecord) -> None:
    """Write a record as JSON, a line a row."""
    content = record.model_dump(mode="json", exclude={"rows"})
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in record.rows)
    write_text(path, f'{json.dumps(content, indent=1)[:-2]},\n "rows": [\n{rows}\n]}}\n')


def read_record(path: Path) -> SiteRecord:
    """Read what ``write_record`` wrote.

    Raises:
        InputError: It cannot be read, or is no such record.
    """
    failure = InputError(
        "This is no record of images that a bundle was proven on.",
        where=str(path),
        fix="medprompt bench site BUNDLE --images PROVEN/ --record FILE.json",
    )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(failure.problem, where=failure.where, got=str(error), fix=failure.fix) from error
    return validate(SiteRecord, content, failure)


SITE_RECORD = read_kind("a site record", read_record)
"""As an output."""


def record_of_bundle(bundle: Bundle) -> SiteRecord:
    """The record that a bundle holds, or else the one last attached to it.

    Raises:
        BundleError: It has none; or see ``attached_reports``.
    """
    if SITE_FILE in bundle.manifest.files:
        return read_record(bundle.path / SITE_FILE)
    attached = [(entry.date, name) for name, entry, _ in attached_reports(bundle) if entry.kind == KIND]
    if attached:
        return read_record(bundle.path / ATTACHED_FOLDER / max(attached)[1])
    raise BundleError(
        "The bundle does not say what the images looked like that it was proven on.",
        where=str(bundle.path),
        expected=f"{SITE_FILE}, which export writes where it is given images",
        fix="medprompt bench site BUNDLE --images PROVEN/ --record site.json, then medprompt bundle attach BUNDLE "
        "site.json",
    )
