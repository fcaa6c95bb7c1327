"""DICOM files made in code, as small as they can be and right but for what a test changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

SOP_UID = "1.2.826.0.1.3680043.8.498.7"


def write_dicom(
    path: Path,
    stored: NDArray[Any] | bytes = b"",
    syntax: UID = ExplicitVRLittleEndian,
    **elements: Any,
) -> Path:
    """Write an image object: grey for ``[H, W]`` or, with ``NumberOfFrames``, ``[F, H, W]``; RGB with 3 at the end.

    ``elements`` are set last; None takes one away.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, UID(SOP_UID)
    if isinstance(stored, np.ndarray):
        _add_pixels(dataset, stored, elements)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", SOP_UID)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _add_pixels(dataset: Dataset, stored: NDArray[Any], elements: dict[str, Any]) -> None:
    frames = "NumberOfFrames" in elements
    colour = stored.ndim == 3 + frames
    bits = 8 * stored.dtype.itemsize
    dataset.Rows, dataset.Columns = stored.shape[frames : frames + 2]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    content = stored.tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", content + b"\0" * (len(content) % 2))


def sequence_item(**elements: Any) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def lut(first: int, bits: int, entries: list[int], signed: bool = False) -> Dataset:
    """An item of a LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item
