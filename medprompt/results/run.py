"""What a run found, as files: results JSON and CSV. A failed image is not one without findings.

The page ``item-status`` describes the statuses, the page ``results`` the files.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medprompt.core.convert import plain_rows
from medprompt.core.detections import Detections
from medprompt.core.errors import RejectCode
from medprompt.core.files import atomic_write, write_json
from medprompt.core.output_kinds import file_kind
from medprompt.core.tiling import Tiling
from medprompt.results.schema import RESULTS_VERSION, Status

if TYPE_CHECKING:
    from medprompt.prompts.schema import Code


@dataclass(frozen=True)
class PromptSubset:
    """The part of the bank that an image was prompted with.

    Attributes:
        hash: First 16 hex digits of its content hash, see ``PromptBank.content_hash``.
        phrases: Its phrases, in the bank's order.
    """

    hash: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class SegmenterUsed:
    """A segmenter that made the masks of a run: its bundle's hash, and the device that served."""

    bundle_sha256: str
    engine: str


@dataclass(frozen=True)
class Item:
    """What became of one image, or of one frame of a file of many.

    Attributes:
        path: The file.
        detections: What was found; None where the image could not be served.
        error: Why not; empty where it could.
        overlay: The picture with boxes drawn in, where one was made.
        prompt_set: What it was prompted with; None for the whole bank, or where it could not be served.
        frame: Which frame, from 1, where the file has several.
        code: Why the input may not be analysed; None where it may.
        warnings: What a reader should know about an image that was served.
        sha256: Hash of the file; empty where it cannot be read.
        dicom: How a DICOM frame became pixels, see ``medprompt.dicom.pixels``.
        time_s: When a frame of a video is shown, in seconds; None where the video does not say, and for images.
    """

    path: Path
    detections: Detections | None
    error: str = ""
    overlay: Path | None = None
    prompt_set: PromptSubset | None = None
    frame: int | None = None
    code: RejectCode | None = None
    warnings: tuple[str, ...] = ()
    sha256: str = ""
    dicom: dict[str, Any] | None = None
    time_s: float | None = None

    @property
    def status(self) -> Status:
        """What is known about the image.

        ``OK`` and ``OK_WITH_WARNINGS`` may mean: nothing found. With the others nothing is known: ``REJECTED`` is an
        input that may not be analysed, ``ERROR`` a failure that should not have been.
        """
        if self.detections is None:
            return "REJECTED" if self.code else "ERROR"
        return "OK_WITH_WARNINGS" if self.warnings else "OK"

    @property
    def name(self) -> str:
        """The file, and the frame where it has several: ``file.dcm#frame 3``."""
        return str(self.path) if self.frame is None else f"{self.path}#frame {self.frame}"

    def counts(self) -> str:
        """Number of detections by class, for people: ``12 RBC, 1 WBC``."""
        if self.detections is None:
            return "not known"
        found = Counter(one.label for one in self.detections)
        return ", ".join(f"{count} {label}" for label, count in found.most_common()) or "none"

    def as_json(self) -> dict[str, Any]:
        """As JSON values; ``detections`` and ``size_hw`` are null where nothing is known about the image."""
        found, asked = self.detections, self.prompt_set
        return {
            "file": str(self.path),
            "frame": self.frame,
            "sha256": self.sha256 or None,
            "status": self.status,
            "code": self.code,
            "warnings": list(self.warnings),
            "size_hw": None if found is None else list(found.size_hw),
            "detections": None if found is None else list(found.rows()),
            "error": self.error or None,
            "overlay": str(self.overlay) if self.overlay else None,
            "prompt_set": {"hash": asked.hash, "phrases": list(asked.phrases)} if asked else None,
            "dicom": self.dicom,
            "time_s": None if self.time_s is None else round(self.time_s, 6),
        }


NAMED = 5
"""Of the files of a kind that were passed over, so many are named; all are counted."""


@dataclass(frozen=True)
class Run:
    """What one run of a bundle found, and with what.

    Attributes:
        items: The images, in their order.
        labels: Classes that were looked for, in the order of their ids.
        bundle_sha256: Hash of the bundle, see ``medprompt.bundles.load.bundle_hash``.
        bank_sha256: Hash of the prompts served, see ``PromptBank.content_hash``.
        engine: Device that served.
        engine_reason: Why it.
        engine_rejected: Devices passed over, each with its reason.
        thresholds: Least score of each class.
        intended_use: The bundle's own words.
        prompting: How the phrases of an image were chosen: ``bank`` (all), ``map`` or ``top:N``.
        tiling: How images larger than a tile were cut; None where each was analysed in one piece.
        versions: Versions of the packages that made pixels and detections.
        codes: Terminology code of each class, None where its prompts name none; empty: of none.
        segmenter: What made masks of the boxes, where the bundle's own model does not.
        complete: Whether every image was come to; False in what is saved while a run goes on.
        video: For a video what it is, how many frames a live one lost, and how long a frame waited for its detections;
            see ``medprompt.runtime.video``.
        passed_over: Files of folders that were not taken for images, by their kind.
    """

    items: tuple[Item, ...]
    labels: tuple[str, ...]
    bundle_sha256: str
    bank_sha256: str
    engine: str
    engine_reason: str
    engine_rejected: tuple[tuple[str, str], ...] = ()
    thresholds: tuple[float, ...] = ()
    intended_use: str = ""
    prompting: str = "bank"
    tiling: Tiling | None = None
    versions: tuple[tuple[str, str], ...] = ()
    complete: bool = True
    codes: tuple[Code | None, ...] = ()
    video: dict[str, Any] | None = None
    passed_over: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    segmenter: SegmenterUsed | None = None

    @property
    def failed(self) -> tuple[Item, ...]:
        """Images about which nothing is known."""
        return tuple(item for item in self.items if item.detections is None)

    def head_json(self) -> dict[str, Any]:
        """With what the images were analysed: everything that a detection depends on but the image."""
        return {
            "schema_version": RESULTS_VERSION,
            "bundle_sha256": self.bundle_sha256,
            "bank_sha256": self.bank_sha256,
            "prompting": self.prompting,
            "tiling": vars(self.tiling) if self.tiling else None,
            "segmenter": vars(self.segmenter) if self.segmenter else None,
            "engine": self.engine,
            "versions": dict(self.versions),
            "classes": [
                {"label": label, "threshold": round(threshold, 6)}
                for label, threshold in zip(self.labels, self.thresholds, strict=True)
            ],
        }

    def as_json(self) -> dict[str, Any]:
        """The content of the results file."""
        return {
            **self.head_json(),
            "engine_reason": self.engine_reason,
            "engine_rejected": [{"device": device, "reason": reason} for device, reason in self.engine_rejected],
            "intended_use": self.intended_use,
            "complete": self.complete,
            "video": self.video,
            "passed_over": [
                {"kind": kind, "count": len(files), "files": [str(path) for path in files[:NAMED]]}
                for kind, files in sorted(self.passed_over.items())
            ],
            "items": [item.as_json() for item in self.items],
        }


RESULTS = file_kind("a results file", r'\{\s*"schema_version":\s*\d+,\s*"bundle_sha256":')


def write_results(run: Run, path: Path) -> None:
    """Write the results file, whole or not at all.

    Raises:
        InputError: The path cannot be written to.
    """
    write_json(path, run.as_json(), allow_nan=False)


CSV_COLUMNS = (
    *("file", "frame", "time_s", "status", "code", "label", "score", "left", "top", "right", "bottom", "phrase"),
    *("height", "width", "sop_instance_uid", "warnings"),
)
"""Columns of the CSV file, in their order."""

TABLE = file_kind("a table of detections", ",".join(CSV_COLUMNS))


def write_csv(run: Run, path: Path) -> None:
    """Write a table of the detections as CSV (UTF-8, RFC 4180), whole or not at all.

    A row a detection; an item without any has one row whose ``label`` is empty, and whose ``status`` says whether
    that means "nothing found" or "not known".

    Raises:
        InputError: The path cannot be written to.
    """
    with (
        atomic_write(Path(path)) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as handle,
    ):
        writer = csv.DictWriter(handle, CSV_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(row for item in run.items for row in _csv_rows(item))


def _csv_rows(item: Item) -> Iterator[dict[str, Any]]:
    height, width = item.detections.size_hw if item.detections is not None else ("", "")
    about = {
        "file": str(item.path),
        "frame": item.frame,
        "time_s": None if item.time_s is None else round(item.time_s, 6),
        "status": item.status,
        "code": item.code,
        "height": height,
        "width": width,
        "sop_instance_uid": (item.dicom or {}).get("sop_instance_uid"),
        "warnings": "; ".join(item.warnings),
    }
    found = list(plain_rows(item.detections)) if item.detections is not None else []
    for row in found or [{}]:
        yield {**about, **row}
