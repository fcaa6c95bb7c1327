"""A run that goes on where an earlier one ended: what was answered with the same means is not asked again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.images.sources import Source
from medprompt.results.run import Item, PromptSubset, Run
from medprompt.results.schema import RESULTS_VERSION, ItemRecord, Results


@dataclass
class Previous:
    """An earlier results file.

    Attributes:
        path: The file.
        content: What it says; None where it is of another version.
        differs: After ``fits``: what the earlier run did with other means.
    """

    path: Path
    content: Results | None
    differs: tuple[str, ...] = ()
    _run: Run | None = None
    _items: dict[tuple[str, int | None], ItemRecord] = field(default_factory=dict)

    def fits(self, run: Run) -> bool:
        """Whether the earlier run used the same bundle, bank, thresholds, engine and versions; see ``Run.head_json``.

        A run with a prompt map never does: what an image was prompted with then depends on its name as well.
        """
        head = run.head_json()
        earlier = self.content.model_dump(mode="json", include=set(head)) if self.content else {}
        names = head if self.content else ["schema_version"]
        self.differs = tuple(name for name in names if earlier.get(name) != head[name])
        if run.prompting == "map":
            self.differs = (*self.differs, "prompting (a map is not resumed)")
        self._run = run
        answered = () if self.differs or self.content is None else self.content.items
        self._items = {(row.sha256, row.frame): row for row in answered if row.detections is not None and row.sha256}
        return not self.differs

    def item(self, source: Source, sha256: str, overlay: Path | None) -> Item | None:
        """What the earlier run answered for the same content (with the same overlay), or None: it must be asked."""
        row = self._items.get((sha256, source.number))
        if row is None or self._run is None:
            return None
        if (str(overlay) if overlay else None) != row.overlay or (overlay and not overlay.is_file()):
            return None
        return Item(
            source.path,
            _detections(row, self._run.labels),
            overlay=overlay,
            prompt_set=PromptSubset(**row.prompt_set.model_dump()) if row.prompt_set else None,
            frame=source.number,
            warnings=row.warnings,
            sha256=sha256,
            dicom=row.dicom.model_dump(mode="json", exclude_unset=True) if row.dicom else None,
        )


def previous_from_file(path: Path) -> Previous | None:
    """Read an earlier results file; None where there is none.

    Raises:
        InputError: It is not a results file.
    """
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text)["schema_version"]
        return Previous(path, Results.model_validate_json(text) if version == RESULTS_VERSION else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "The results to resume cannot be read.",
            where=str(path),
            expected="a results file of medprompt infer",
            got=str(error),
            fix="run without resume=True, or with another out=",
        ) from error


def _detections(row: ItemRecord, labels: tuple[str, ...]) -> Detections:
    """The rows as arrays again; the file's rounding makes the same rows of them once more."""
    found, size_hw = row.detections or (), row.size_hw or (0, 0)
    phrases = tuple(dict.fromkeys(one.phrase for one in found))
    return Detections(
        np.array([one.box_xyxy for one in found], dtype=np.float32).reshape(len(found), 4),
        np.array([one.score for one in found], dtype=np.float32),
        np.array([labels.index(one.label) for one in found], dtype=np.int64),
        np.array([phrases.index(one.phrase) for one in found], dtype=np.int64),
        labels,
        phrases,
        size_hw,
        masks=row.masks,
    )
