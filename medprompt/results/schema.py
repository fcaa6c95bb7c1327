"""The form of the results file: what a reader may rely on, and ``docs/results.schema.json`` is generated from.

Run ``python -m medprompt.results.schema > docs/results.schema.json`` after a change; a test compares the two.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from medprompt.core.errors import RejectCode
from medprompt.core.masks import Masks
from medprompt.core.models import FrozenModel
from medprompt.core.tiling import Tiling

RESULTS_VERSION = 2
"""Version of the results file; raised when a field changes its meaning. Since 2 a status may be OK_WITH_WARNINGS
or REJECTED."""

Status = Literal["OK", "OK_WITH_WARNINGS", "REJECTED", "ERROR"]
Photometric = Literal[
    "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR"
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]


class SegmentationRecord(FrozenModel):
    """The pixels of an object as COCO's run lengths: height and width of the image, and the packed counts."""

    size: tuple[Count, Count]
    counts: str


class DetectionRecord(FrozenModel):
    """A box: left, top, right, bottom in source pixels; with a mask, where the model makes masks."""

    label: str
    score: Share
    box_xyxy: tuple[float, float, float, float]
    phrase: str
    segmentation: SegmentationRecord | None = None


class PromptSetRecord(FrozenModel):
    """The part of the bank that an image was prompted with."""

    hash: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    phrases: tuple[str, ...]


class WindowRecord(FrozenModel):
    """How grey levels became brightness; which fields there are depends on ``source``."""

    source: Literal["voi_lut", "file", "full_range", "percentile"]
    centre: float | None = None
    width: float | None = None
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] | None = None
    available: int | None = None
    low: float | None = None
    high: float | None = None


class DicomRecord(FrozenModel):
    """How a DICOM frame became pixels."""

    sop_instance_uid: Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")] | None
    frame: Count
    frames: Count
    transfer_syntax_uid: str
    decoder: Literal["pillow", "imagecodecs", "pyjpegls", "pylibjpeg", "pyav"] | None
    photometric_interpretation: Photometric
    window: WindowRecord | None
    inverted: bool


class ItemRecord(FrozenModel):
    """An image, or a frame of a file of many; ``detections`` is null where nothing is known about it."""

    file: str
    frame: Count | None
    sha256: Sha256 | None
    status: Status
    code: RejectCode | None
    warnings: tuple[str, ...]
    size_hw: tuple[int, int] | None
    detections: tuple[DetectionRecord, ...] | None
    error: str | None
    overlay: str | None
    prompt_set: PromptSetRecord | None
    dicom: DicomRecord | None
    time_s: float | None

    @cached_property
    def masks(self) -> Masks | None:
        """The masks of its detections; None where not each has one."""
        masks = [one.segmentation.model_dump() for one in self.detections or () if one.segmentation]
        if not masks or self.size_hw is None or len(masks) != len(self.detections or ()):
            return None
        return Masks.of_rle(masks, self.size_hw)

    @model_validator(mode="after")
    def _masks_are_of_the_image(self) -> Self:
        if self.masks is None and any(one.segmentation for one in self.detections or ()):
            raise ValueError("segmentation: expected one of each detection, or of none")
        return self


class VideoRecord(FrozenModel):
    """What a video is, how many frames a live one lost, and how long a frame waited for its detections."""

    source: Literal["file", "live"]
    format: str
    codec: str
    size_hw: tuple[int, int]
    frames_stated: int | None
    rate_stated: float | None
    dropped: Annotated[int, Field(ge=0)]
    seconds: Amount
    frames_per_second: Amount | None
    latency_ms: dict[Literal["p50", "p90", "p99", "max"], Amount] | None


class PassedOverRecord(FrozenModel):
    """Files of folders that were not taken for images: how many of a kind, and the first of them."""

    kind: str
    count: Count
    files: tuple[str, ...]


class ClassRecord(FrozenModel):
    """A class that was looked for."""

    label: str
    threshold: Share


class SegmenterRecord(FrozenModel):
    """What made masks of the boxes, where the bundle's own model does not."""

    bundle_sha256: Sha256
    engine: str


class RejectedEngine(FrozenModel):
    """An engine that was passed over."""

    device: str
    reason: str


class Head(FrozenModel):
    """With what the images were analysed: everything that a detection depends on but the image."""

    schema_version: Literal[2]
    bundle_sha256: Sha256
    bank_sha256: Sha256
    prompting: Annotated[str, Field(pattern="^(bank|map|top:[0-9]+)$")]
    tiling: Tiling | None = None
    segmenter: SegmenterRecord | None = None
    engine: str
    versions: dict[str, str]
    classes: tuple[ClassRecord, ...]


class Results(Head):
    """A results file of ``medprompt infer``: ``Results.model_validate_json(path.read_bytes())`` reads one."""

    engine_reason: str
    engine_rejected: tuple[RejectedEngine, ...]
    intended_use: str
    complete: bool
    video: VideoRecord | None
    passed_over: tuple[PassedOverRecord, ...] = ()
    items: tuple[ItemRecord, ...]


def results_schema() -> dict[str, Any]:
    """The JSON schema of the results file."""
    schema = Results.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(results_schema(), indent=2))
