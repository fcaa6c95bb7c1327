"""What is wrong with labelled data: every command that reads labels has the same findings, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from medprompt.core.errors import InputError

FindingKind = Literal[
    "empty_split",
    "missing_image",
    "ambiguous_image",
    "other_name",
    "unreadable_image",
    "other_size",
    "exif_turn",
    "no_label_file",
    "no_image",
    "no_box",
    "percent",
    "other_outline",
    "keypoints",
    "tiny",
    "zero_area",
    "outside",
    "duplicate",
    "undeclared",
    "duplicate_id",
    "merged_category",
    "rotated",
    "scored",
    "unused_category",
    "repeated_image",
    "shared_image",
    "class_without_phrase",
]
"""The page ``datasets`` says what each means. A closed list: JSON carries it."""

MEANINGS: dict[FindingKind, str] = {
    "empty_split": "The data set has no image.",
    "missing_image": "An image that the labels list is missing.",
    "ambiguous_image": "It is not clear which file an image of the labels is.",
    "other_name": "An image was found under another suffix or name than the labels give.",
    "unreadable_image": "An image cannot be read.",
    "other_size": "The labels state another size than the image has.",
    "exif_turn": "An image has an EXIF turn, and nothing says that its labels are of the upright picture.",
    "no_label_file": "An image has no label file, and counts as one without objects.",
    "no_image": "Label files have no image, and count for nothing.",
    "no_box": "The labels have no box.",
    "percent": "The boxes look like percent of the image, and pixels are expected.",
    "other_outline": "Boxes are elsewhere than the outlines and areas beside them.",
    "keypoints": "Lines of the labels look like boxes with points after them, and are read as polygons.",
    "tiny": "A box is under a pixel or in the corner of 2 pixels, as shares of the image (0 … 1) taken for pixels are.",
    "zero_area": "A box has no area, is inside out, or has a side that is no number.",
    "outside": "A box sticks out of its image.",
    "duplicate": "Two boxes of one class are the same.",
    "undeclared": "Labels refer to what is not declared.",
    "duplicate_id": "One id is given to two things.",
    "merged_category": "Categories that are equal but for case or blanks are taken for one.",
    "rotated": "A box is turned by an attribute, and is read as it lies without it.",
    "scored": "The labels have scores, as detections have.",
    "unused_category": "A category has no object, and no phrase.",
    "repeated_image": "An image is in the set more than once.",
    "shared_image": "An image is in another set too.",
    "class_without_phrase": "A class of the data has no phrase.",
}

FATAL: frozenset[FindingKind] = frozenset(
    {
        "empty_split",
        "missing_image",
        "ambiguous_image",
        "other_size",
        "no_box",
        "percent",
        "other_outline",
        "keypoints",
        "undeclared",
        "duplicate_id",
    }
)
"""What makes figures meaningless, be it once. Neither measured nor trained on, unless it is allowed by name."""

FATAL_WHERE_MOST: frozenset[FindingKind] = frozenset({"tiny", "zero_area", "outside"})
"""Likewise where more than half of the boxes are of these kinds."""

MANY: Mapping[str, int] = {"zero_area": 10, "outside": 10}
"""Least number of them for that; of tiny ones a single one will do."""

NEVER_ALLOWED: frozenset[FindingKind] = frozenset({"empty_split", "undeclared", "duplicate_id"})
"""Fatal ones for which there is no way to go on."""

NOTES: frozenset[FindingKind] = frozenset({"no_label_file", "unused_category"})
"""What is told, and no fault by itself."""

SHOWN = 20
"""Findings of a kind that a table shows; JSON has all."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with the image or set, and in words."""

    kind: FindingKind
    where: str
    detail: str


@dataclass(frozen=True)
class Fault:
    """All findings of a kind: how many, the first of them, and whether they make figures meaningless."""

    kind: FindingKind
    count: int
    example: Finding
    fatal: bool

    def __str__(self) -> str:
        where, told = self.example.where, self.example.detail
        example = told if where in told else f"{where}: {told}"
        return f"{self.kind} {self.count}, such as {example}" if self.count > 1 else f"{self.kind}: {example}"


def faults_of(findings: Sequence[Finding], boxes: int) -> tuple[Fault, ...]:
    """Findings of each kind together, in the order of ``FindingKind``; ``boxes``: how many the set has."""
    bad = sum(finding.kind in FATAL_WHERE_MOST for finding in findings)
    faults = []
    for kind in get_args(FindingKind):
        own = [finding for finding in findings if finding.kind == kind]
        if own:
            most = kind in FATAL_WHERE_MOST and bad > boxes / 2 and bad >= MANY.get(kind, 1)
            fatal = kind in FATAL or most
            faults.append(Fault(kind, len(own), own[0], fatal))
    return tuple(faults)


def check_allowed(allow: Iterable[str]) -> None:
    """Refuse names that are no findings, or none that may be allowed.

    Raises:
        InputError: See above.
    """
    known = [kind for kind in get_args(FindingKind) if kind in (FATAL | FATAL_WHERE_MOST) - NEVER_ALLOWED]
    unknown = [name for name in allow if name not in known]
    if unknown:
        raise InputError(
            "There is no such finding, or it cannot be allowed.",
            where="allow",
            expected=", ".join(known),
            got=", ".join(unknown),
            fix="name one of these, or mend the labels: `medprompt data check` lists what is wrong",
        )


@dataclass(frozen=True)
class SetSummary:
    """What a set holds.

    Attributes:
        images: How many.
        boxes: By class, as written, without those ignored.
        without_boxes: Images that have none: background, and no fault.
        ignored: Crowds and difficult objects.
    """

    name: str
    images: int
    boxes: Mapping[str, int]
    without_boxes: int
    ignored: int = 0


@dataclass(frozen=True)
class DataCheck:
    """The set that was checked, then those it was compared with; what is wrong, in the order it was met."""

    sets: tuple[SetSummary, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found but notes."""
        return all(finding.kind in NOTES for finding in self.findings)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Findings of each kind together."""
        return faults_of(self.findings, sum(self.sets[0].boxes.values()))

    def counts(self) -> dict[str, int]:
        """Findings of each kind that there are, in the order of ``FindingKind``."""
        return {fault.kind: fault.count for fault in self.faults}

    def as_json(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return {
            "passed": self.passed,
            "sets": [
                {
                    "name": s.name,
                    "images": s.images,
                    "images_without_boxes": s.without_boxes,
                    "boxes": dict(s.boxes),
                    "ignored": s.ignored,
                }
                for s in self.sets
            ],
            "counts": self.counts(),
            "fatal": [fault.kind for fault in self.faults if fault.fatal],
            "findings": list(map(vars, self.findings)),
        }

    def set_rows(self) -> list[tuple[object, ...]]:
        """Set, images, images without boxes, boxes by class, ignored ones: a row a set."""
        return [
            (s.name, s.images, s.without_boxes, ", ".join(f"{label} {n}" for label, n in s.boxes.items()), s.ignored)
            for s in self.sets
        ]

    def finding_rows(self) -> list[tuple[object, ...]]:
        """Kind, location, detail: a row a finding, kind by kind, of each the first ``SHOWN``."""
        rows: list[tuple[object, ...]] = []
        for fault in self.faults:
            name = f"{fault.kind} (fatal)" if fault.fatal else fault.kind
            of_kind = [finding for finding in self.findings if finding.kind == fault.kind]
            rows.extend((name, finding.where, finding.detail) for finding in of_kind[:SHOWN])
            if fault.count > SHOWN:
                rows.append((name, "…", f"and {fault.count - SHOWN} more"))
        return rows
