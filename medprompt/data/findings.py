"""What a check of labelled data found, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

FindingKind = Literal[
    "missing_image",
    "unreadable_image",
    "other_size",
    "zero_area",
    "outside",
    "duplicate",
    "undeclared",
    "empty_split",
    "repeated_image",
    "shared_image",
    "class_without_phrase",
]
"""the page ``datasets`` says what each means. A closed list: JSON carries it."""

SHOWN = 20
"""Findings of a kind that a table shows; JSON has all."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with the image or set, and in words."""

    kind: FindingKind
    where: str
    detail: str


@dataclass(frozen=True)
class SetSummary:
    """What a set holds: how many images, boxes by class as written, images that have none (no fault: background)."""

    name: str
    images: int
    boxes: Mapping[str, int]
    without_boxes: int


@dataclass(frozen=True)
class DataCheck:
    """The set that was checked, then those it was compared with; what is wrong, in the order it was met."""

    sets: tuple[SetSummary, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def counts(self) -> dict[str, int]:
        """Findings of each kind that there are, in the order of ``FindingKind``."""
        found = [finding.kind for finding in self.findings]
        return {kind: found.count(kind) for kind in get_args(FindingKind) if kind in found}

    def as_json(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return {
            "passed": self.passed,
            "sets": [
                {"name": s.name, "images": s.images, "images_without_boxes": s.without_boxes, "boxes": dict(s.boxes)}
                for s in self.sets
            ],
            "counts": self.counts(),
            "findings": list(map(vars, self.findings)),
        }

    def set_rows(self) -> list[tuple[object, ...]]:
        """Set, images, images without boxes, boxes by class: a row a set."""
        return [
            (each.name, each.images, each.without_boxes, ", ".join(f"{label} {n}" for label, n in each.boxes.items()))
            for each in self.sets
        ]

    def finding_rows(self) -> list[tuple[object, ...]]:
        """Kind, location, detail: a row a finding, kind by kind, of each the first ``SHOWN``."""
        rows: list[tuple[object, ...]] = []
        for kind, count in self.counts().items():
            of_kind = [finding for finding in self.findings if finding.kind == kind]
            rows.extend((kind, finding.where, finding.detail) for finding in of_kind[:SHOWN])
            if count > SHOWN:
                rows.append((kind, "…", f"and {count - SHOWN} more"))
        return rows
