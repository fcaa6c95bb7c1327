"""Where labels are read from: one address for each format."""

from __future__ import annotations

from pathlib import Path

from medprompt.core.errors import DataError
from medprompt.data.annotations import Annotations, detection_set_from_annotations
from medprompt.data.coco import annotations_from_coco
from medprompt.data.dataset import DetectionSet
from medprompt.data.voc import annotations_from_voc
from medprompt.data.yolo import annotations_from_yolo

FORMS = (
    "a COCO file (FOLDER/train.json), a VOC folder and split (FOLDER:train), "
    "or a YOLO file and split (FOLDER/data.yaml:train)"
)


def annotations_from_source(source: str) -> Annotations:
    """Read labels as they stand; see ``read_detection_set`` for the address.

    Raises:
        DataError: Unknown form, or missing or damaged label files. An image that is missing is no error here.
    """
    if source.endswith(".json"):
        return annotations_from_coco(Path(source))
    path, _, split = source.rpartition(":") if not source.endswith((".yaml", ".yml")) else (source, "", "")
    if path.endswith((".yaml", ".yml")):
        return annotations_from_yolo(Path(path), split)
    if not path or not split:
        raise DataError("The data set is named in an unknown form.", got=source, expected=FORMS)
    return annotations_from_voc(Path(path), split)


def path_of_source(source: str) -> Path:
    """The file or folder that an address names, whether it is there or not."""
    return Path(source if Path(source).exists() else source.rpartition(":")[0] or source)


def read_detection_set(source: str) -> DetectionSet:
    """Read a data set from ``FILE.json`` (COCO), ``FOLDER:SPLIT`` (VOC) or ``FILE.yaml:SPLIT`` (YOLO).

    Raises:
        DataError: Unknown form, missing or damaged files, or an empty split.
    """
    found = detection_set_from_annotations(annotations_from_source(source))
    if not found.images:
        raise DataError("The data set has no image.", where=source)
    return found
