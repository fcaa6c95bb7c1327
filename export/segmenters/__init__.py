"""Models that make a mask of a box, by the ``model_type`` of their config. A new one is one file and one line."""

from __future__ import annotations

from pkgutil import resolve_name

from medprompt.export.segmenters.base import BoxSegmenter

SEGMENTERS: dict[str, str] = {
    "sam3_tracker": "medprompt.export.families.sam3.tracker:Sam3Tracker",
    "sam3_video": "medprompt.export.families.sam3.tracker:Sam3Tracker",
}


def segmenter_class(model_type: str) -> type[BoxSegmenter]:
    """Import what serves a ``model_type`` of the registry."""
    found: type[BoxSegmenter] = resolve_name(SEGMENTERS[model_type])
    return found
