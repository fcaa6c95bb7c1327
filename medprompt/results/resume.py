"""A run that goes on where an earlier one ended: what was answered with the same means is not asked again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.images.sources import Source
from medprompt.results.run import RESULTS_VERSION, Item, PromptSubset, Run

_ROW = ("sha256", "frame", "status", "overlay", "detections", "size_hw", "warnings", "prompt_set", "dicom")
"""What is read of an item."""


@dataclass
class Previous:
    """An earlier results file.

    Attributes:
        path: The file.
        content: What it says.
        differs: After ``fits``: what the earlier run did with other means.
    """

    path: Path
    content: dict[str, Any]
    differs: tuple[str, ...] = ()
    _run: Run | None = None
    _items: dict[tuple[str, int | None], dict[str, Any]] = field(default_factory=dict)

    def fits(self, run: Run) -> bool:
        """Whether the earlier run used the same bundle, bank, thresholds, engine and versions; see ``Run.head_json``.

        A run with a prompt map never does: what an image was asked with then depends on its name as well.

        Args:
            run: The present run; its items do not matter.
        """
        head = run.head_json()
        self.differs = tuple(name for name, value in head.items() if self.content.get(name) != value)
        if run.prompting == "map":
            self.differs = (*self.differs, "prompting (a map is not resumed)")
        self._run = run
        answered = [] if self.differs else self.content["items"]
        self._items = {
            (row["sha256"], row["frame"]): row
            for row in answered
            if row["status"] in ("OK", "OK_WITH_WARNINGS") and row["sha256"]
        }
        return not self.differs

    def item(self, source: Source, sha256: str, overlay: Path | None) -> Item | None:
        """What the earlier run answered for the same content, or None where it must be asked again.

        Args:
            source: The image.
            sha256: Hash of its file.
            overlay: The picture that is wanted of it; it must be there from the earlier run.
        """
        row = self._items.get((sha256, source.number))
        if row is None or self._run is None:
            return None
        if (str(overlay) if overlay else None) != row["overlay"] or (overlay and not overlay.is_file()):
            return None
        return Item(
            source.path,
            _detections(row, self._run.labels),
            overlay=overlay,
            asked=_prompt_subset(row["prompt_set"]),
            frame=source.number,
            warnings=tuple(row["warnings"]),
            sha256=sha256,
            dicom=row["dicom"],
        )


def previous_from_file(path: Path) -> Previous | None:
    """Read an earlier results file; None where there is none.

    Raises:
        InputError: It is not a results file.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] == RESULTS_VERSION:
            _check_rows(content["items"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "The results to resume cannot be read.",
            where=str(path),
            expected="a results file of medprompt infer",
            got=str(error),
            fix="run without --resume, or with another --out",
        ) from error
    return Previous(path, content)


def _check_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for name in _ROW:
            row[name]


def _prompt_subset(row: dict[str, Any] | None) -> PromptSubset | None:
    return PromptSubset(row["hash"], tuple(row["phrases"])) if row else None


def _detections(row: dict[str, Any], labels: tuple[str, ...]) -> Detections:
    """The rows as arrays again; the file's rounding makes the same rows of them once more."""
    found = row["detections"]
    phrases = tuple(dict.fromkeys(one["phrase"] for one in found))
    height, width = row["size_hw"]
    return Detections(
        np.array([one["box_xyxy"] for one in found], dtype=np.float32).reshape(len(found), 4),
        np.array([one["score"] for one in found], dtype=np.float32),
        np.array([labels.index(one["label"]) for one in found], dtype=np.int64),
        np.array([phrases.index(one["phrase"]) for one in found], dtype=np.int64),
        labels,
        phrases,
        (height, width),
    )
