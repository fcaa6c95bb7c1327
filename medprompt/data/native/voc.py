"""Pascal VOC folders, as BCCD has them."""

from __future__ import annotations

from pathlib import Path

from medprompt.data.native.boxes import jobs_from_annotations
from medprompt.data.native.sample import Job
from medprompt.data.registry import KnownSet, Part
from medprompt.data.voc import annotations_from_voc


def jobs_from_voc(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split, which is the name of ``part.labels``.

    Raises:
        DataError: A label file is missing or damaged, or has a class that the set is not known to have.
    """
    return jobs_from_annotations(known, annotations_from_voc(source, Path(part.labels).stem))
