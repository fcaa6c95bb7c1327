"""The elements that hold for one frame: those of the file, of all its frames, and of the frame (PS3.3, C.7.6.16)."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.tag import Tag

_MACROS = {
    "FrameVOILUTSequence": (
        ("WindowCenter", "WindowWidth", "VOILUTSequence"),
        ("VOILUTFunction", "WindowCenterWidthExplanation"),
    ),
    "PixelValueTransformationSequence": (("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"), ("RescaleType",)),
    "PixelMeasuresSequence": (("PixelSpacing",), ()),
}
"""Functional groups that say how pixels look; what of them is used: the step itself, and what describes it."""

_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def dataset_of_frame(dataset: Dataset, frame: int) -> Dataset:
    """A flat copy of a file's elements with those of one frame (from 1) laid over them."""
    flat = Dataset()
    flat.file_meta = dataset.file_meta
    tags = filter(lambda tag: tag.group != 0x7FE0, dataset.keys())  # a dataset's own iterator reads all values
    flat.update({tag: dataset.get_item(tag) for tag in tags})
    for name, index in zip(_GROUPS, (0, frame - 1), strict=True):
        groups = dataset.get(name)
        if groups and index < len(groups):
            _lay_over(flat, groups[index])
    return flat


def _lay_over(flat: Dataset, group: Dataset) -> None:
    """A step that the group gives replaces the whole step: no mixture is meant of a window and a table."""
    for macro, (step, details) in _MACROS.items():
        for item in (group.get(macro) or [])[:1]:
            if any(name in item for name in step):
                for name in (*step, *details):
                    flat.pop(name, None)
            flat.update({Tag(name): item.get_item(name) for name in (*step, *details) if name in item})
