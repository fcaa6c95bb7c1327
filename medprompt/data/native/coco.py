"""COCO files whose images lie in a folder of their own, as TBX11K has them."""

from __future__ import annotations

from pathlib import Path

from medprompt.data.coco import annotations_from_coco
from medprompt.data.native.boxes import jobs_from_annotations
from medprompt.data.native.sample import Job
from medprompt.data.registry import KnownSet, Part


def jobs_from_coco(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split.

    Raises:
        DataError: The file is missing or damaged, or has a class that the set is not known to have.
    """
    return jobs_from_annotations(known, annotations_from_coco(source / part.labels, source / part.folders[0]))
