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
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_dataset, read_partial, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag

from medprompt.core import picture
from medprompt.core.errors import ImageError, InputError, RejectCode
from medprompt.core.packages import install_command
from medprompt.core.remarks import recorded_warnings
from medprompt.dicom.clip import Clip
from medprompt.dicom.pixel_data import Element, PixelData, clip_inside, encapsulated_frames, native_frames
from medprompt.dicom.strict import BY_IMAGECODECS

VIDEO = "pyav"
"""The decoder of MPEG-2, H.264 and HEVC."""

DECODERS = {
    uid.JPEGBaseline8Bit: "pillow",
    **dict.fromkeys(BY_IMAGECODECS, "imagecodecs"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless), "pylibjpeg"),
    **dict.fromkeys((uid.HTJ2KLosslessRPCL, uid.HTJ2K, uid.RLELossless), "pylibjpeg"),
    **dict.fromkeys(uid.MPEGTransferSyntaxes, VIDEO),
}
"""The one decoder of each compressed transfer syntax: JPEG's decoders differ by up to 3 levels, so the same file would
give other pixels where another package is installed."""

NOT_PYDICOMS = {VIDEO: ("av", "video"), "imagecodecs": ("imagecodecs", "dicom")}
"""Decoders that pydicom does not know: the module and the extra of each."""

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
PALETTE = "PALETTE COLOR"
PARTIAL = ("YBR_PARTIAL_420", "YBR_PARTIAL_422")
"""Colours of video, which its own decoder turns into RGB."""

NEWER = {
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
"""Transfer syntaxes of the standard that pydicom has no name for (PS3.6, table A-1)."""

ELSEWHERE = {
    **dict.fromkeys(("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95"), "JPIP"),
    **dict.fromkeys(("1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205"), "JPIP"),
    **dict.fromkeys((f"1.2.840.10008.1.2.7.{number}" for number in (1, 2, 3)), "SMPTE ST 2110"),
}
"""Transfer syntaxes whose pixels are fetched from a server (PS3.5, A.6 … A.9), by its protocol."""

NO_PICTURES = {
    uid.RTDoseStorage: "an RT dose",
    uid.SegmentationStorage: "a segmentation",
    uid.UID("1.2.840.10008.5.1.4.1.1.66.7"): "a label map segmentation",
    uid.ParametricMapStorage: "a parametric map",
}
"""SOP classes whose pixels are measurements or masks, not a picture of a patient."""

MAX_FRAMES = 1_000_000
"""A file that claims more is refused: each frame is an item of the results."""

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
    "ExtendedOffsetTable",
)
_WANTED = tuple(map(Tag, _IMAGE_TAGS))

_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation")
"""Without these no pixel can be decoded (PS3.3, C.7.6.3: type 1)."""

_MISENCODED = "VR for reading"
"""Part of pydicom's remark on elements that are encoded otherwise than the transfer syntax says."""

_PIECE = 1 << 20
"""Bytes that are inflated at a time."""

_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


@dataclass(frozen=True)
class Header:
    """What a DICOM file says about its pixels; only files whose pixels may be decoded have one.

    Attributes:
        dataset: The elements of the image, without its pixels.
        pixel_data: Where these are.
        decoder: pydicom's name of the plug-in that decodes it; empty for uncompressed pixels.
        photometric: Photometric interpretation.
        size_hw: Rows and columns of a frame.
        bits_stored: How many bits of a sample count.
        high_bit: The uppermost of them, from 0.
        frames: How many the file has, or states where it breaks off.
        sop_instance_uid: Empty where the file has none that is a UID.
        notes: What a reader of the results should know of every frame.
        clip: The video that its frames are, where they are one.
    """

    path: Path
    dataset: Dataset
    pixel_data: PixelData
    transfer_syntax: uid.UID
    decoder: str
    photometric: str
    size_hw: tuple[int, int]
    frames: int
    bits_stored: int
    high_bit: int
    sop_instance_uid: str
    notes: tuple[str, ...]
    clip: Clip | None = None

    def close(self) -> None:
        """Free what decoding holds; the stream stays open."""
        if self.clip:
            self.clip.close()


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
        with recorded_warnings() as remarks, _silent_log():
            yield remarks
    except (InputError, MemoryError):
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
        dataset, element = _read(path, stream)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        found = _check_object(path, dataset, element)
        decoder = _decoder(path, syntax)
        size_hw = int(dataset.Rows or 0), int(dataset.Columns or 0)
        _check_size(path, size_hw)
        photometric = _photometric(path, dataset, decoder)
        # A file without the element, or with an empty one, has one frame.
        pixel_data = _pixel_data(path, found, dataset, int(dataset.get("NumberOfFrames") or 1), uid.UID(syntax))
        clip, pixel_data = _clip(path, pixel_data) if decoder == VIDEO else (None, pixel_data)
        notes = [*pixel_data.notes, *(clip.notes if clip else ())]
        if any(_MISENCODED in str(remark.message) for remark in remarks):
            notes.append("the file is encoded otherwise than its header says")
        return Header(
            path=path,
            dataset=dataset,
            pixel_data=pixel_data,
            transfer_syntax=uid.UID(syntax),
            decoder=decoder,
            photometric=photometric,
            size_hw=size_hw,
            frames=clip.frames if clip else pixel_data.frames,
            bits_stored=int(dataset.BitsStored),
            high_bit=_high_bit(path, dataset),
            sop_instance_uid=_plain_uid(dataset.get("SOPInstanceUID")),
            notes=tuple(notes),
            clip=clip,
        )


def _read(path: Path, stream: BinaryIO) -> tuple[Dataset, Element | None]:
    """The elements that are needed, and where the pixels are; None where reading ended before any."""
    stream.seek(0)
    read_preamble(stream, force=False)
    meta = _read_file_meta_info(stream)  # its public form takes no stream
    if server := ELSEWHERE.get(meta.get("TransferSyntaxUID", "")):
        got = f"pixels that are not in the file, but on a server ({server})"
        raise rejected(path, "unsupported_encoding", got, fix="fetch the image with its pixels")
    end = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    if stream.seek(0, SEEK_END) < end:
        raise rejected(path, "damaged", "a file that ends in its first elements", fix="fetch the file again")
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        stop = _Stop(stream)
        return read_partial(stream, stop, specific_tags=list(_WANTED)), stop.element
    stop = _Stop(_inflated(path, stream, end))
    dataset = read_dataset(stop.stream, False, True, stop_when=stop, specific_tags=list(_WANTED))
    dataset.file_meta = meta
    return dataset, stop.element


class _Stop:
    """Ends pydicom's reading before the pixels, which stay where they are.

    An element that comes twice means that reading lost its way, by a length that is wrong, and took those of an icon
    for the image's.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.element: Element | None = None
        self._seen: dict[int, int] = {}

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        at = self.stream.tell()
        if tag in self._seen and self._seen[tag] < at - 8:  # pydicom peeks at the first one
            raise ValueError("an element comes twice")
        self._seen[tag] = at
        if tag in _PIXELS:
            self.element = Element(self.stream, at, length, vr or "", _PIXELS[tag])
        return tag in _PIXELS


def _inflated(path: Path, stream: BinaryIO, start: int) -> BytesIO:
    """Inflate piece by piece and count, since pydicom inflates a file whole.

    Raises:
        ImageError: It inflates to over ``picture.MAX_INFLATED`` bytes.
    """
    inflater, whole = zlib.decompressobj(-zlib.MAX_WBITS), BytesIO()
    stream.seek(start)
    while not inflater.eof and (piece := stream.read(_PIECE)):
        while piece:
            whole.write(inflater.decompress(piece, 1 << 24))
            if whole.tell() > (most := picture.MAX_INFLATED):
                raise rejected(path, "too_large", "a deflated file", f"at most {most:,} bytes when inflated")
            piece = inflater.unconsumed_tail
    rest = inflater.unused_data + stream.read()
    if not inflater.eof or len(rest.strip(b"\0")) > 8:  # a checksum and a length, as gzip has them, are no rest
        got = "a deflated file that ends before or behind its data"
        raise rejected(path, "damaged", got, fix="fetch the file again")
    whole.seek(0)
    return whole


def _check_object(path: Path, dataset: Dataset, element: Element | None) -> Element:
    """The pixel data of a picture."""
    named = dataset.get("SOPClassUID"), dataset.file_meta.get("MediaStorageSOPClassUID")
    classes = [uid.UID(one or "") for one in named]
    if kind := NO_PICTURES.get(classes[0]):
        raise rejected(path, "not_a_picture", kind, "a picture of a patient")
    if element is None:
        # A report has no pixels; an image that has none was cut off before them.
        images = [one for one in classes if "Image Storage" in one.name]
        if images or "Rows" in dataset or not (any(classes) or dataset):
            raise rejected(path, "damaged", "an image that ends before its pixels", fix="fetch the file again")
        raise rejected(path, "no_pixels", "a DICOM object without pixel data", "an image")
    if element.name != "PixelData":
        raise rejected(path, "unsupported_pixels", "floating-point pixels", "1 … 16 bits a sample")
    missing = [name for name in _NEEDED if name not in dataset]
    if missing:
        raise rejected(path, "damaged", f"pixel data without {', '.join(missing)}", "an image")
    return element


def _pixel_data(path: Path, element: Element, dataset: Dataset, stated: int, syntax: uid.UID) -> PixelData:
    _check_frames(path, stated)
    if syntax in uid.MPEGTransferSyntaxes:
        found = clip_inside(element, stated)
    elif syntax.is_encapsulated:
        found = encapsulated_frames(element, dataset, stated, syntax)
    else:
        found = native_frames(element, dataset, stated, syntax)
    _check_frames(path, found.frames)
    return found


def _clip(path: Path, pixel_data: PixelData) -> tuple[Clip | None, PixelData]:
    """The video; where it cannot be read, that is said of each frame."""
    try:
        return (None if pixel_data.contradiction else Clip(pixel_data)), pixel_data
    except ImageError as error:
        if error.code == "unsupported_encoding":
            raise rejected(path, error.code, f"a video inside: {error.got}") from None
        return None, replace(pixel_data, contradiction=f"a video inside: {error.got}")


def _decoder(path: Path, syntax: Any) -> str:
    if not syntax:
        raise rejected(path, "unsupported_encoding", "no transfer syntax is named")
    if syntax in uid.UncompressedTransferSyntaxes:
        return ""
    name = DECODERS.get(syntax)
    known = NEWER.get(syntax) or (uid.UID(syntax).name if uid.UID(syntax).is_transfer_syntax else "a private encoding")
    if name is None:
        expected = "no compression, JPEG, JPEG-LS, JPEG 2000, RLE or MPEG"
        raise rejected(path, "unsupported_encoding", known, expected, "convert it, such as with dcmtk's dcmdjpeg")
    module, extra = NOT_PYDICOMS.get(name, ("", "dicom"))
    if not (find_spec(module) if module else name in get_decoder(syntax).available_plugins):
        got = f"{known}, whose decoder is not installed"
        raise rejected(path, "unsupported_encoding", got, fix=install_command(extra))
    return name


def _check_size(path: Path, size_hw: tuple[int, int]) -> None:
    rows, columns = size_hw
    if not 0 < rows * columns:
        raise rejected(path, "no_pixels", f"{columns} x {rows} pixels")
    if rows * columns > picture.MAX_PIXELS:
        raise rejected(path, "too_large", f"{columns} x {rows}", f"at most {picture.MAX_PIXELS:,} pixels a frame")


def _check_frames(path: Path, frames: int) -> None:
    if not 0 < frames <= MAX_FRAMES:
        code: RejectCode = "too_large" if frames > 0 else "damaged"
        raise rejected(path, code, f"{frames} frames", f"1 … {MAX_FRAMES:,} frames")


def _photometric(path: Path, dataset: Dataset, decoder: str) -> str:
    photometric, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsAllocated)
    known = (*GREY, *COLOUR, PALETTE, *(PARTIAL if decoder == VIDEO else ()))
    if photometric not in known:
        raise rejected(path, "unsupported_pixels", "another photometric interpretation", ", ".join(known))
    if bits > 16:
        raise rejected(path, "unsupported_pixels", f"{bits} bits a sample", "1 … 16 bits a sample")
    if photometric in COLOUR and int(dataset.PixelRepresentation):
        raise rejected(path, "unsupported_pixels", "signed colours", "unsigned ones")
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
