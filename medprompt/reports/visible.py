"""What a viewer shows of a study's findings: presentation states over the images, and pictures with boxes burned in.

Elements are those of PS3.3: A.33 (presentation states) and A.8 (secondary capture).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset

from medprompt.core.overlay import draw_overlay
from medprompt.images.read import load_picture
from medprompt.reports.objects import Place, new_dataset, new_object, reference_to
from medprompt.reports.source import ReportSource
from medprompt.reports.study import StudyResult, not_analysed
from medprompt.reports.write import rectangle
from medprompt.results.run import Item, Run

KEY_IMAGES = 16
"""Pictures of a study at most: the frames whose best score is the highest."""

NOTICE = "RESEARCH USE ONLY"
LAYER = "MEDPROMPT"
BLANK_HW = (512, 512)


def key_images(study: StudyResult, when: datetime) -> list[FileDataset]:
    """Secondary captures of the frames with findings; without any, one picture that says what came of the search."""
    found = [(item, source) for item, source in study.frames if item.detections]
    best = sorted(found, key=lambda pair: -_best(pair[0]))[:KEY_IMAGES]
    shown = best or [next(_unread_first(study))]
    return [_key_image(study, item, source, number, when) for number, (item, source) in enumerate(shown, start=1)]


def presentation_states(study: StudyResult, when: datetime) -> list[FileDataset]:
    """Boxes and labels over the images: a state for all frames that become grey levels in the same way, none without.

    Grey ones are Grayscale, others Color Softcopy Presentation States.
    """
    groups: dict[str, list[tuple[Item, ReportSource]]] = defaultdict(list)
    for item, source in study.frames:
        if item.detections:
            groups[_way(item, source)].append((item, source))
    several = enumerate(groups.values(), start=1)
    return [_presentation_state(study, frames, number, when) for number, frames in several]


def _best(item: Item) -> float:
    return float(item.detections.scores.max()) if item.detections else 0.0


def _unread_first(study: StudyResult) -> Iterator[tuple[Item, ReportSource]]:
    yield from (pair for pair in study.frames if pair[0].detections is None)
    yield from study.frames


def _key_image(study: StudyResult, item: Item, source: ReportSource, number: int, when: datetime) -> FileDataset:
    picture = _picture(item, study.run)
    capture = _object(uid.SecondaryCaptureImageStorage, "key image", "OT", 9002, study, number, when)
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "YES"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DerivationDescription = f"{NOTICE}: boxes of medprompt drawn into the image"
    capture.PatientOrientation = None
    capture.SourceImageSequence = [reference_to(source, item.frame)]
    capture.SamplesPerPixel, capture.PhotometricInterpretation, capture.PlanarConfiguration = 3, "RGB", 0
    capture.Columns, capture.Rows = picture.size
    capture.BitsAllocated, capture.BitsStored, capture.HighBit, capture.PixelRepresentation = 8, 8, 7, 0
    content = picture.tobytes()
    capture.PixelData = content + b"\0" * (len(content) % 2)
    return capture


def _picture(item: Item, run: Run) -> Image.Image:
    """The frame with its boxes, and below it a strip of text; black where it was not read."""
    if item.detections is None:
        picture, said = Image.new("RGB", BLANK_HW[::-1]), not_analysed(item)
    else:
        pixels = load_picture(item.path, item.frame or 1).pixels
        picture = draw_overlay(pixels, item.detections)
        said = f"medprompt: {item.counts()}" if item.detections else "medprompt: no score reached its threshold"
    return _with_strip(picture, [NOTICE, said, f"bundle {run.bundle_sha256[:12]}"])


def _with_strip(picture: Image.Image, lines: list[str]) -> Image.Image:
    """The text lies below the image, so that none of its pixels is hidden or moved."""
    height = max(12, picture.width // 40)
    font = ImageFont.load_default(height)
    whole = Image.new("RGB", (picture.width, picture.height + 2 * len(lines) * height))
    whole.paste(picture)
    pen = ImageDraw.Draw(whole)
    for index, line in enumerate(lines):
        pen.text((height // 2, picture.height + height // 4 + 2 * index * height), line, fill="yellow", font=font)
    return whole


def _way(item: Item, source: ReportSource) -> str:
    """Frames of one state share it: how stored values become shown ones."""
    record = item.dicom or {}
    grey = str(record.get("photometric_interpretation", "")).startswith("MONOCHROME")
    return str((_modality(item.path), record["inverted"])) if grey else "colour"


def _modality(path: Path) -> tuple[Any, ...]:
    header = _header(path)
    if "ModalityLUTSequence" in header:
        return ("lut", str(path))
    return (header.get("RescaleIntercept"), header.get("RescaleSlope"), header.get("RescaleType"))


def _header(path: Path) -> Dataset:
    from pydicom import dcmread

    names = ["ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType", "VOILUTSequence"]
    return dcmread(path, specific_tags=list(names), stop_before_pixels=True)


def _presentation_state(
    study: StudyResult, frames: list[tuple[Item, ReportSource]], number: int, when: datetime
) -> FileDataset:
    record = frames[0][0].dicom or {}
    grey = str(record.get("photometric_interpretation", "")).startswith("MONOCHROME")
    kind = uid.GrayscaleSoftcopyPresentationStateStorage if grey else uid.ColorSoftcopyPresentationStateStorage
    state = _object(kind, "presentation state", "PR", 9003, study, number, when)
    state.ContentLabel, state.ContentDescription = LAYER, NOTICE
    state.ContentCreatorName = None
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    del state.ContentDate, state.ContentTime
    state.ReferencedSeriesSequence = list(_by_series(frames))
    state.DisplayedAreaSelectionSequence = [_displayed_area(item, source) for item, source in frames]
    state.GraphicAnnotationSequence = [_annotation(item, source) for item, source in frames]
    state.GraphicLayerSequence = [new_dataset(GraphicLayer=LAYER, GraphicLayerOrder=1)]
    if grey:
        _set_grey(state, frames, inverted=bool(record.get("inverted")))
    else:
        state.ICCProfile = _srgb()
    return state


def _set_grey(state: Dataset, frames: list[tuple[Item, ReportSource]], *, inverted: bool) -> None:
    """Modality and VOI step as the pixels were made that the detector saw."""
    header = _header(frames[0][0].path)
    for name in ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType"):
        if name in header:
            setattr(state, name, header[name].value)
    if "RescaleSlope" in state and "RescaleType" not in state:
        state.RescaleType = "US"
    state.SoftcopyVOILUTSequence = [_voi(item, source) for item, source in frames]
    state.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"


def _voi(item: Item, source: ReportSource) -> Dataset:
    voi = new_dataset(ReferencedImageSequence=[reference_to(source, item.frame)])
    window: Mapping[str, Any] = (item.dicom or {}).get("window") or {}
    if window.get("source") == "voi_lut":
        voi.VOILUTSequence = _header(item.path).VOILUTSequence
    elif "centre" in window:
        voi.WindowCenter, voi.WindowWidth = f"{window['centre']:.10g}", f"{window['width']:.10g}"
        voi.VOILUTFunction = window["function"]
    else:
        low, high = window.get("low", 0), window.get("high", 255)
        voi.WindowCenter, voi.WindowWidth = f"{(low + high) / 2:.10g}", f"{max(high - low, 1):.10g}"
        voi.VOILUTFunction = "LINEAR_EXACT"
    return voi


def _by_series(frames: list[tuple[Item, ReportSource]]) -> Iterator[Dataset]:
    series: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for _, source in frames:
        image = source.reference
        whole = new_dataset(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
        series[image.SeriesInstanceUID][image.SOPInstanceUID] = whole
    for series_uid, images in series.items():
        yield new_dataset(SeriesInstanceUID=series_uid, ReferencedImageSequence=list(images.values()))


def _displayed_area(item: Item, source: ReportSource) -> Dataset:
    height, width = _size_hw(item)
    return new_dataset(
        ReferencedImageSequence=[reference_to(source, item.frame)],
        DisplayedAreaTopLeftHandCorner=[1, 1],
        DisplayedAreaBottomRightHandCorner=[width, height],
        PresentationSizeMode="SCALE TO FIT",
        PresentationPixelAspectRatio=[1, 1],
    )


def _annotation(item: Item, source: ReportSource) -> Dataset:
    rows = list(item.detections.rows()) if item.detections else []
    size_hw = _size_hw(item)
    corners = [rectangle(row["box_xyxy"], size_hw) for row in rows]
    texts = [f"{row['label']} {row['score']:.2f}" for row in rows]
    return new_dataset(
        ReferencedImageSequence=[reference_to(source, item.frame)],
        GraphicLayer=LAYER,
        GraphicObjectSequence=[_outline(points) for points in corners],
        TextObjectSequence=[
            *(_text(points, text, size_hw) for points, text in zip(corners, texts, strict=True)),
            _text(np.array([[0, 0], [0, 0], [size_hw[1], size_hw[0]]]), NOTICE, size_hw),
        ],
    )


def _outline(points: Any) -> Dataset:
    return new_dataset(
        GraphicAnnotationUnits="PIXEL",
        GraphicDimensions=2,
        NumberOfGraphicPoints=len(points),
        GraphicData=points.ravel().tolist(),  # from the corner of the first pixel, as boxes are (PS3.3, C.10.5)
        GraphicType="POLYLINE",
        GraphicFilled="N",
    )


def _text(points: Any, text: str, size_hw: tuple[int, int]) -> Dataset:
    """Text from the upper left corner on."""
    height, width = size_hw
    left, top = (max(1, int(one) + 1) for one in points[0])
    return new_dataset(
        BoundingBoxAnnotationUnits="PIXEL",
        UnformattedTextValue=text,
        BoundingBoxTopLeftHandCorner=[min(left, width), min(top, height)],
        BoundingBoxBottomRightHandCorner=[width, min(height, top + max(1, height // 12))],
        BoundingBoxTextHorizontalJustification="LEFT",
    )


def _size_hw(item: Item) -> tuple[int, int]:
    if item.detections is None:
        raise ValueError("expected an analysed frame")
    return item.detections.size_hw


def _object(
    sop_class: str, kind: str, modality: str, series_number: int, study: StudyResult, number: int, when: datetime
) -> FileDataset:
    """An object in the study of its images."""
    uids = study.uid(kind, str(number)), study.uid(f"{kind} series")
    place = Place(*uids, series_number, number, f"medprompt: {kind}, {NOTICE.lower()}")
    made: FileDataset = new_object(sop_class, modality, place, study.sources[0], study.run, when)
    return made


def _srgb() -> bytes:
    """An ICC profile, with a fixed time of its making (ICC.1, 7.2.10) so that it is always the same bytes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    dated = profile[:24] + b"".join(one.to_bytes(2) for one in (2000, 1, 1, 0, 0, 0)) + profile[36:]
    return dated + b"\0" * (len(dated) % 2)
