"""Labelled images: COCO, VOC and YOLO behind one dataclass; checks, and a registry of medical data sets."""

from __future__ import annotations

from medprompt.data.dataset import DetectionSet, LabelledImage, check_apart
from medprompt.data.read import read_detection_set

__all__ = ["DetectionSet", "LabelledImage", "check_apart", "read_detection_set"]
