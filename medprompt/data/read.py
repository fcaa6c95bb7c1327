"""Where labels are read from: one address for each format, and one judgement of what is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.boxes import area, clipped_boxes
from medprompt.core.errors import DataError
from medprompt.data.annotations import AnnotatedImage, Annotations, with_merged_classes
from medprompt.data.coco import annotations_from_coco
from medprompt.data.dataset import DetectionSet, LabelledImage
from medprompt.data.faults import findings_of_labels, sound_boxes
from medprompt.data.findings import MEANINGS, NEVER_ALLOWED, Fault, check_allowed, faults_of
from medprompt.data.foreign import format_of_address
from medprompt.data.outlines import Outline
from medprompt.data.voc import annotations_from_voc
from medprompt.data.yolo import annotations_from_yolo

FORMS = (
    "a COCO file (FOLDER/train.json), a VOC folder and split (FOLDER:train), "
    "or a YOLO file and split (FOLDER/data.yaml:train)"
)


def annotations_from_source(source: str, images: Path | None = None) -> Annotations:
    """Read labels as they stand; see ``read_detection_set`` for the address.

    Raises:
        DataError: Unknown form, or missing or damaged label files. An image that is missing is no error here.
    """
    return with_merged_classes(_annotations(source, images))


def path_of_source(source: str) -> Path:
    """The file or folder that an address names, whether it is there or not."""
    return Path(source if Path(source).exists() else source.rpartition(":")[0] or source)


def _annotations(source: str, images: Path | None) -> Annotations:
    ends = source.lower()
    if ends.endswith(".json"):
        return annotations_from_coco(Path(source), images)
    path, _, split = source.rpartition(":") if not ends.endswith((".yaml", ".yml")) else (source, "", "")
    if path.lower().endswith(".json"):
        problem = "A COCO file is one split."
        raise DataError(problem, where=source, expected="its path alone", got=f":{split}", fix=f"write {path}")
    if path.lower().endswith((".yaml", ".yml")):
        return annotations_from_yolo(Path(path), split, images)
    foreign, fix = format_of_address(Path(path or source), split if path else "")
    if foreign or not path or not split:
        problem = f"This is {foreign}." if foreign else "The data set is named in an unknown form."
        fix = fix or "name a label file, or export one of these formats: `medprompt docs datasets`"
        raise DataError(problem, where="" if not foreign else source, got=source, expected=FORMS, fix=fix)
    return annotations_from_voc(Path(path), split, images)


def read_detection_set(source: str, images: Path | None = None, allow: Sequence[str] = ()) -> DetectionSet:
    """Read a data set from ``FILE.json`` (COCO), ``FOLDER:SPLIT`` (VOC) or ``FILE.yaml:SPLIT`` (YOLO).

    What is wrong with it and no reason to refuse it is said in ``warnings``.

    Args:
        source: The address.
        images: Folder of the images, where they are not where the format has them.
        allow: Kinds of findings that would make figures meaningless, and that shall not end this (see
            ``medprompt.data.findings``). Without an image that is missing; of several the nearest; images that state
            another size have the one that they really have.

    Raises:
        DataError: Unknown form, missing or damaged files, or a finding that makes figures meaningless.
        InputError: A kind that cannot be allowed.
    """
    check_allowed(allow)
    found = annotations_from_source(source, images)
    boxes = sum(int((~image.ignored).sum()) for image in found.images)
    faults = faults_of(list(findings_of_labels(found)), boxes)
    fatal = [fault for fault in faults if fault.fatal and fault.kind not in allow]
    if fatal:
        raise _refused(source, fatal)
    return _detection_set(found, boxes, faults)


def _refused(source: str, fatal: Sequence[Fault]) -> DataError:
    names = " ".join(f"allow={fault.kind}" for fault in fatal)
    mend = f"mend the labels: `medprompt data check {source}` lists all that is wrong"
    final = any(fault.kind in NEVER_ALLOWED for fault in fatal)
    return DataError(
        MEANINGS[fatal[0].kind],
        where=source,
        expected="labels that figures can be computed from",
        got="; ".join(map(str, fatal)),
        fix=mend if final else f"{mend}; or go on all the same with {names}",
    )


def _detection_set(found: Annotations, boxes: int, faults: Sequence[Fault]) -> DetectionSet:
    """Clip the boxes to their images and leave out those that nothing is left of, which ``dropped`` lists."""
    images = [image for image in found.images if image.path is not None]
    dropped = [line for image in images for line in _dropped(image, found.labels)]
    ignored = sum(int(image.ignored.sum()) for image in images)
    warnings = [f"{MEANINGS[fault.kind]} {fault}" for fault in faults]
    if dropped:
        warnings.append(f"{len(dropped)} of {boxes} boxes are left out, such as {dropped[0]}")
    if ignored:
        warnings.append(f"{ignored} crowds or difficult objects are ignored: neither to be found nor a mistake to find")
    lines = tuple(f"{found.name}: {line}" for line in warnings)
    return DetectionSet(found.name, found.labels, tuple(map(_labelled, images)), tuple(dropped), lines)


def _dropped(image: AnnotatedImage, labels: Sequence[str]) -> list[str]:
    lost = ~sound_boxes(image) & ~image.ignored
    pairs = zip(image.boxes_xyxy[lost], image.class_ids[lost], strict=True)
    return [f"{image.name}: {labels[class_id]} {box.tolist()}" for box, class_id in pairs]


def _labelled(image: AnnotatedImage) -> LabelledImage:
    assert image.path is not None  # what is missing was left out
    size_hw = image.size_hw or (0, 0)  # of what cannot be read, as whoever opens it will find
    boxes = clipped_boxes(image.boxes_xyxy, size_hw)
    kept = sound_boxes(image) & bool(image.size_hw)
    regions = image.ignored & np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    stated = image.areas[kept]
    ignored = boxes[regions].astype(np.float32)
    return LabelledImage(
        path=image.path,
        size_hw=size_hw,
        boxes_xyxy=boxes[kept].astype(np.float32),
        class_ids=image.class_ids[kept],
        held_out_xyxy=ignored,
        ignored_xyxy=ignored,
        ignored_ids=image.class_ids[regions],
        areas=np.where(stated > 0, stated, area(boxes[kept])) if (stated > 0).any() else None,
        outlines=_chosen(image, kept),
        ignored_outlines=_chosen(image, regions),
    )


def _chosen(image: AnnotatedImage, rows: NDArray[np.bool_]) -> tuple[Outline | None, ...]:
    return tuple(image.outlines[row] for row in np.flatnonzero(rows))
