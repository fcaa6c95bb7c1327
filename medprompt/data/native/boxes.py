"""From labels that are boxes already: VOC folders, as BCCD has them, and COCO files, as TBX11K has them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.annotations import AnnotatedImage, Annotations
from medprompt.data.coco import annotations_from_coco
from medprompt.data.findings import MEANINGS, NEVER_ALLOWED
from medprompt.data.native.sample import Job, Sample, class_of
from medprompt.data.registry import KnownSet, Part
from medprompt.data.voc import annotations_from_voc


def jobs_from_voc(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split, which is the name of ``part.labels``."""
    return jobs_from_annotations(known, annotations_from_voc(source, Path(part.labels).stem))


def jobs_from_coco(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the images of a split."""
    return jobs_from_annotations(known, annotations_from_coco(source / part.labels, source / part.folders[0]))


def jobs_from_annotations(known: KnownSet, found: Annotations) -> list[Job]:
    """A job for each image, with its boxes as they are written."""
    lost = [finding for finding in found.findings if finding.kind in NEVER_ALLOWED]
    if lost:
        raise DataError(MEANINGS[lost[0].kind], where=found.name, got=lost[0].detail)
    table = np.array([class_of(known, label, found.name) for label in found.labels], dtype=np.int64)
    return [Job(f"{found.name}: {image.name}", partial(_samples, image, table)) for image in found.images]


def _samples(image: AnnotatedImage, table: NDArray[np.int64]) -> list[Sample]:
    if image.path is None or image.size_hw is None:
        raise DataError("An image that the labels list is missing, or cannot be read.", got=image.name)
    name = str(Path(image.name).with_suffix(image.path.suffix)).replace("/", "-")
    return [
        Sample(
            name,
            image.path,
            image.size_hw,
            image.boxes_xyxy,
            table[image.class_ids],
            segmentations=[one and _plain(one.segmentation) for one in image.outlines],
            crowds=frozenset(np.flatnonzero(image.ignored)),
        )
    ]


def _plain(segmentation: Any) -> Any:
    """Polygons or run lengths whose numbers are kept packed, as JSON has them."""
    if isinstance(segmentation, Mapping):
        return {name: value if isinstance(value, str) else list(value) for name, value in segmentation.items()}
    return [list(polygon) for polygon in segmentation]
