"""Compressed DICOM files made in code: streams of each codec, and the fragments that they are laid in."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import generate_frames

from tests.medprompt.dicom.made import write_dicom

SIZE_HW = (32, 48)
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
ITEM = b"\xfe\xff\x00\xe0"
CODECS = {"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless}
"""The codecs for which there is an encoder beside Pillow's for JPEG."""


def grey_frames(count: int) -> NDArray[np.uint8]:
    """``[count, H, W]`` of up to 4 frames, no two alike and none flat, that JPEG keeps to within 2 levels."""
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.stack([x + 2 * y + 40 * number for number in range(count)]).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    """Pixels as a JPEG of even length without an application marker, which would name its colours."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return without_marks(file.getvalue())


def without_marks(content: bytes) -> bytes:
    """A JPEG without application markers, of even length."""
    at = 2
    out = bytearray(content[:2])
    while content[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        out += b"" if 0xE0 <= content[at + 1] <= 0xEF else content[at:end]
        at = end
    out += content[at:]
    return bytes(out) + b"\0" * (len(out) % 2)


def streams_of(folder: Path, frames: NDArray[Any], codec: str) -> tuple[list[bytes], uid.UID]:
    """Each frame compressed, and the transfer syntax."""
    if codec == "JPEG":
        return [jpeg(frame) for frame in frames], uid.JPEGBaseline8Bit
    path = write_dicom(folder / "plain.dcm", frames, NumberOfFrames=len(frames))
    dataset = dcmread(path)
    dataset.compress(CODECS[codec], generate_instance_uid=False)
    return list(generate_frames(dataset.PixelData, number_of_frames=len(frames))), CODECS[codec]


def items(fragments: Sequence[bytes], table: Sequence[int] = (), end: bytes = DELIMITER) -> bytes:
    """The value of Pixel Data: an offset table and the fragments, each an item."""
    offsets = b"".join(offset.to_bytes(4, "little") for offset in table)
    return b"".join(ITEM + len(one).to_bytes(4, "little") + one for one in [offsets, *fragments]) + end


def write_compressed(path: Path, syntax: uid.UID, value: bytes, **elements: Any) -> Path:
    """An image object whose Pixel Data has this value, of whatever kind; grey of 8 bits unless ``elements`` differ."""
    stated = {
        **dict(zip(("Rows", "Columns"), SIZE_HW, strict=True)),
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0},
        **{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
    }
    write_dicom(path, b"", syntax, **stated | elements)
    head = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
    path.write_bytes(path.read_bytes() + head + value)
    return path
