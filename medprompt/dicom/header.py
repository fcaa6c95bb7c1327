"""What a DICOM file says about its pixels, read and judged before any pixel is decoded.

Only the elements named here are read: whatever else a file holds, such as names and dates, is never in memory as a
value, so no message can carry it. For the same reason pydicom's own texts are not passed on: they quote values.
"""

from __future__ import annotations

import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.decoders.base import get_decoder

from medprompt.core import picture
from medprompt.core.errors import ImageError, RejectCode

DECODERS = {
    uid.JPEGBaseline8Bit: "pillow",
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), "pylibjpeg"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless), "pylibjpeg"),
    **dict.fromkeys((uid.HTJ2KLosslessRPCL, uid.HTJ2K, uid.RLELossless), "pylibjpeg"),
}
"""The one decoder of each compressed transfer syntax: JPEG's decoders differ by up to 3 levels, so the same file would
give other pixels where another package is installed. Pillow is a dependency anyway; pylibjpeg's JPEG decoder is under
the GPL and only used where no other decodes (12 bits, lossless)."""

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
PALETTE = "PALETTE COLOR"

NO_PICTURES = {
    uid.RTDoseStorage: "an RT dose",
    uid.SegmentationStorage: "a segmentation",
    uid.UID("1.2.840.10008.5.1.4.1.1.66.7"): "a label map segmentation",
    uid.ParametricMapStorage: "a parametric map",
}
"""SOP classes whose pixels are measurements or masks, not a picture of a patient."""

MAX_FRAMES = 1_000_000
"""A file that claims more is refused: each frame is an item of the results."""

MAX_INFLATED = 2 * 1024**3
"""Bytes that a deflated file may inflate to."""

_IMAGE_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "BurnedInAnnotation", "PresentationIntentType", "PixelPresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleIntercept", "RescaleSlope"),
    *("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape"),
    *(f"{c}PaletteColorLookupTableDescriptor" for c in ("Red", "Green", "Blue")),
    *(f"{s}{c}PaletteColorLookupTableData" for s in ("", "Segmented") for c in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation")
"""Without these no pixel can be decoded (PS3.3, C.7.6.3: type 1)."""

_MISENCODED = "VR for reading"
"""Part of pydicom's remark on elements that are encoded otherwise than the transfer syntax says."""

_DEFERRED = 1 << 20
"""Longer values, which is to say pixels, stay in the file."""


@dataclass(frozen=True)
class Header:
    """What a DICOM file says about its pixels; only files whose pixels may be decoded have one.

    Attributes:
        stream: Its bytes; pixels are read from there.
        dataset: The elements of the image, pixels left in the file.
        decoder: pydicom's name of the plug-in that decodes it; empty for uncompressed pixels.
        photometric: Photometric interpretation.
        size_hw: Rows and columns of a frame.
        bits_stored: How many bits of a sample count.
        high_bit: The uppermost of them, from 0.
        sop_instance_uid: Empty where the file has none that is a UID.
        misencoded: Whether the elements are encoded otherwise than the transfer syntax says.
    """

    path: Path
    stream: BinaryIO
    dataset: Dataset
    transfer_syntax: uid.UID
    decoder: str
    photometric: str
    size_hw: tuple[int, int]
    frames: int
    bits_stored: int
    high_bit: int
    sop_instance_uid: str
    misencoded: bool

    @property
    def read_whole(self) -> bool:
        """Whether pydicom cannot find a single frame in the file, and reads it into memory."""
        return bool(self.transfer_syntax.is_deflated or self.misencoded)


def rejected(path: Path, code: RejectCode, got: str, expected: str = "", fix: str = "") -> ImageError:
    """A DICOM file that may not be analysed."""
    return ImageError(
        "The DICOM file is not analysed.", code=code, where=str(path), got=got, expected=expected, fix=fix
    )


@contextmanager
def pydicom_at_work(path: Path, doing: str) -> Iterator[list[warnings.WarningMessage]]:
    """Turn whatever pydicom and its decoders raise on a damaged file into one error; collect their warnings.

    Raises:
        ImageError: They raised; ``got`` names the kind of error, not its text, which can quote values of the file.
    """
    try:
        with _silent_log(), warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            yield remarks
    except (ImageError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise ImageError("The file cannot be read.", where=str(path), got=error.strerror or "") from None
        raise _damaged(path, doing, error) from None
    except Exception as error:  # there is no list of what a parser raises on bytes that nobody foresaw
        raise _damaged(path, doing, error) from None
    except BaseException as error:
        # pylibjpeg-rle is written in Rust, whose panics are no Exception: one file would end a night's run.
        if type(error).__name__ != "PanicException":
            raise
        raise _damaged(path, doing, error) from None


@contextmanager
def _silent_log() -> Iterator[None]:
    """Pydicom logs what it warns of and what it catches; a host application that keeps logs would keep values."""
    log = logging.getLogger("pydicom")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _damaged(path: Path, doing: str, error: BaseException) -> ImageError:
    return rejected(path, "damaged", f"{doing} failed ({type(error).__name__})", fix="fetch the file again")


def header_from_stream(path: Path, stream: BinaryIO) -> Header:
    """Read and judge a DICOM file, known by its marker; ``path`` is what errors call it.

    Raises:
        ImageError: The file may not be analysed; ``code`` says why.
    """
    with pydicom_at_work(path, "reading the header") as remarks:
        dataset = _read(path, stream)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        _check_object(path, dataset)
        decoder = _decoder(path, syntax)
        size_hw = int(dataset.Rows or 0), int(dataset.Columns or 0)
        # A file without the element, or with an empty one, has one frame.
        frames = int(dataset.get("NumberOfFrames") or 1)
        _check_size(path, size_hw, frames)
        return Header(
            path=path,
            stream=stream,
            dataset=dataset,
            transfer_syntax=uid.UID(syntax),
            decoder=decoder,
            photometric=_photometric(path, dataset),
            size_hw=size_hw,
            frames=frames,
            bits_stored=int(dataset.BitsStored),
            high_bit=_high_bit(path, dataset),
            sop_instance_uid=_plain_uid(dataset.get("SOPInstanceUID")),
            misencoded=any(_MISENCODED in str(remark.message) for remark in remarks),
        )


def _read(path: Path, stream: BinaryIO) -> Dataset:
    """The elements that are needed; of a deflated file all of the pixels too, for nothing in it can be left out."""
    stream.seek(0)
    read_preamble(stream, force=False)
    meta = _read_file_meta_info(stream)  # its public form takes no stream
    stream.seek(0)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return dcmread(stream, specific_tags=list(_IMAGE_TAGS), defer_size=_DEFERRED)
    _check_inflated(path, stream, 144 + int(meta.FileMetaInformationGroupLength))
    stream.seek(0)
    return dcmread(stream, specific_tags=list(_IMAGE_TAGS))


def _check_inflated(path: Path, stream: BinaryIO, start: int) -> None:
    """Inflate piece by piece and count, since pydicom inflates a file whole."""
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    stream.seek(start)
    while piece := stream.read(_DEFERRED):
        while piece and total <= MAX_INFLATED:
            total += len(inflater.decompress(piece, 1 << 24))
            piece = inflater.unconsumed_tail
    if total > MAX_INFLATED:
        raise rejected(path, "too_large", "a deflated file", f"at most {MAX_INFLATED:,} bytes when inflated")


def _check_object(path: Path, dataset: Dataset) -> None:
    kind = NO_PICTURES.get(dataset.get("SOPClassUID", ""))
    if kind:
        raise rejected(path, "not_a_picture", kind, "a picture of a patient")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise rejected(path, "unsupported_pixels", "floating-point pixels", "1 … 16 bits a sample")
    missing = [name for name in _NEEDED if name not in dataset]
    if "PixelData" not in dataset:
        raise rejected(path, "no_pixels", "a DICOM object without pixel data", "an image")
    if missing:
        raise rejected(path, "damaged", f"pixel data without {', '.join(missing)}", "an image")


def _decoder(path: Path, syntax: Any) -> str:
    if not syntax:
        raise rejected(path, "unsupported_encoding", "no transfer syntax is named")
    if syntax in uid.UncompressedTransferSyntaxes:
        return ""
    name = DECODERS.get(syntax)
    known = uid.UID(syntax).name if uid.UID(syntax) in uid.AllTransferSyntaxes else "a transfer syntax of its own"
    if name is None:
        raise rejected(path, "unsupported_encoding", known, "an image compressed as JPEG, JPEG-LS, JPEG 2000 or RLE")
    if name not in get_decoder(syntax).available_plugins:
        missing = ", ".join(get_decoder(syntax).missing_dependencies)
        raise rejected(
            path, "unsupported_encoding", f"{known}, whose decoder is not installed", fix=f"install {missing}"
        )
    return name


def _check_size(path: Path, size_hw: tuple[int, int], frames: int) -> None:
    rows, columns = size_hw
    if not 0 < rows * columns:
        raise rejected(path, "no_pixels", f"{columns} x {rows} pixels")
    if rows * columns > picture.MAX_PIXELS:
        raise rejected(path, "too_large", f"{columns} x {rows}", f"at most {picture.MAX_PIXELS:,} pixels a frame")
    if not 0 < frames <= MAX_FRAMES:
        code: RejectCode = "too_large" if frames > 0 else "damaged"
        raise rejected(path, code, f"{frames} frames", f"1 … {MAX_FRAMES:,} frames")


def _photometric(path: Path, dataset: Dataset) -> str:
    photometric, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsAllocated)
    known = (*GREY, *COLOUR, PALETTE)
    if photometric not in known:
        raise rejected(path, "unsupported_pixels", "another photometric interpretation", ", ".join(known))
    if bits > 16:
        raise rejected(path, "unsupported_pixels", f"{bits} bits a sample", "1 … 16 bits a sample")
    if photometric.startswith("YBR_FULL") and {bits, int(dataset.BitsStored)} != {8}:
        raise rejected(path, "unsupported_pixels", f"{photometric} not of 8 bits", "8 bits a sample")
    return photometric


def _high_bit(path: Path, dataset: Dataset) -> int:
    """The uppermost bit of a sample (PS3.5, 8.1.1); where the file does not say it, samples lie at the lower end."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = dataset.get("HighBit")
    high = stored - 1 if high is None else int(high)
    if not 0 < stored <= high + 1 <= allocated:
        got = f"{allocated} bits allocated, {stored} stored, the highest {high}"
        raise rejected(path, "damaged", got, "stored bits within the allocated ones")
    return high


def _plain_uid(value: Any) -> str:
    """The value where it is a UID, which holds nothing but numbers."""
    text = str(value or "")
    return text if re.fullmatch(r"[0-9.]{1,64}", text, re.ASCII) else ""
