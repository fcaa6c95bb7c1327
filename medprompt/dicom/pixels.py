"""A frame of a DICOM file as uint8 RGB, and a record of how it became that.

Grey levels: stored value → modality LUT or rescale → VOI LUT or first window → 0 … 255 → inverted for MONOCHROME1.
All of that depends on the stored value alone, so it is computed once for each value that 8 or 16 bits can hold, and
the frame is looked up in the table.

Pixels are never resampled: boxes are in stored-frame pixels, also where those are not square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.tag import Tag

from medprompt.core.picture import Picture
from medprompt.dicom.clip import Clip
from medprompt.dicom.decode import array_of_frame
from medprompt.dicom.grey import grey_table, stored_range
from medprompt.dicom.header import GREY, PALETTE, Header, pydicom_at_work, rejected
from medprompt.dicom.lut import Lut, depth, first_value, read_lut, remarks
from medprompt.dicom.numbers import floats_of, repair_numbers

_ANSWERED = ("'Photometric Interpretation'", "matches the expected number for uncompressed data")
"""In remarks of pydicom on what ``decode`` looks at itself: colour spaces, and whether the data is compressed."""

_LOSSY = (uid.JPEG2000, uid.HTJ2K, uid.JPEGLSNearLossless)

CONTRADICTIONS = (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE"))
"""Photometric interpretation and presentation LUT shape that must not go together (PS3.3, C.7.6.1).

The former is followed. dcmtk follows the latter, which CR and DX files are known to have wrong
(https://github.com/dcm4che/dcm4chee-arc-light/issues/3155)."""

SQUARE = 0.01
"""Pixels whose sides differ by a smaller share count as square."""


def picture_of_frame(header: Header, frame: int = 1) -> Picture:
    """Decode a frame (from 1) and turn it into what a display would show.

    Grey: see ``medprompt.dicom.grey``. Colour: YBR becomes RGB, palettes are looked up, samples of more than 8 bits are
    scaled from 0 … 2^BitsStored - 1; ICC profiles, overlay planes and shutters are not applied.

    Returns:
        The pixels, uint8 ``[Rows, Columns, 3]``, with warnings and record.

    Raises:
        ImageError: The file may not be analysed (``code`` says why), or cannot be read.
    """
    if not 1 <= frame <= header.frames:
        raise rejected(header.path, "no_pixels", f"frame {frame}", f"1 … {header.frames}")
    if header.clip:
        return _picture_of_clip(header, header.clip, frame)
    stored, remarks = _stored(header, frame)
    notes = [*header.notes, *remarks]
    with pydicom_at_work(header.path, "converting the pixels"):
        view = dataset_of_frame(header.dataset, frame)
        notes.extend(_warnings(view))
        window: dict[str, Any] | None = None
        if header.photometric in GREY:
            table, window, about = grey_table(view, stored, header.photometric == "MONOCHROME1")
            notes.extend(about)
            pixels = np.repeat(table[unsigned(stored)][..., None], 3, axis=2)
        else:
            pixels, about = _colour(header, view, stored)
            notes.extend(about)
    return Picture(np.ascontiguousarray(pixels), tuple(notes), _record(header, frame, window))


def _picture_of_clip(header: Header, clip: Clip, frame: int) -> Picture:
    shown = clip.frame(frame)
    if shown is None or shown.pixels is None:
        why = shown.error if shown else f"the video inside ends before frame {frame}"
        raise rejected(header.path, shown.code if shown else "damaged", why, fix="fetch the file again")
    if shown.pixels.shape[:2] != header.size_hw:
        height, width = shown.pixels.shape[:2]
        expected = f"{header.size_hw[1]} x {header.size_hw[0]}, as the file states"
        raise rejected(header.path, "damaged", f"a video of {width} x {height} pixels", expected)
    notes = (*header.notes, *shown.warnings, *_warnings(dataset_of_frame(header.dataset, frame)))
    return Picture(shown.pixels, notes, _record(header, frame, None))


def unsigned(stored: NDArray[Any]) -> NDArray[Any]:
    """The same bits as unsigned numbers: the indices in a table of all values."""
    return stored.view(f"u{stored.dtype.itemsize}")


def _stored(header: Header, frame: int) -> tuple[NDArray[Any], list[str]]:
    """The frame as stored, unused bits masked, YBR as RGB: integers ``[H, W]`` or ``[H, W, 3]``; pydicom's remarks."""
    with pydicom_at_work(header.path, "decoding the pixels") as remarks:
        stored, notes = array_of_frame(header, frame, correct_unused_bits=False)
        samples = 1 if header.photometric in (*GREY, PALETTE) else 3
        expected = (*header.size_hw, *([3] if samples == 3 else []))
        if stored.shape != expected or stored.dtype.itemsize > 2:
            raise rejected(
                header.path, "damaged", f"{stored.dtype} {list(stored.shape)}", f"8 or 16 bits {list(expected)}"
            )
        # pydicom's own texts quote values.
        others = [one for one in remarks if not any(known in str(one.message) for known in _ANSWERED)]
        return _samples(stored, header), [*notes, *(["the decoder warned of the data"] if others else [])]


def _samples(stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """The bits from HighBit down, BitsStored of them, with their sign, whatever the unused ones hold (PS3.5, 8.1.1).

    pydicom takes HighBit for granted, and masks nothing in JPEG-LS and JPEG 2000. Lossy codes of all allocated bits can
    pass the range a little: there the value is the nearest, for masked it would be the farthest.
    """
    least, greatest = stored_range(header.dataset)
    slack = (greatest - least + 1) // 8
    overshoot = header.transfer_syntax in _LOSSY and header.high_bit == header.bits_stored - 1
    if overshoot and least - slack <= stored.min() and stored.max() <= greatest + slack:
        return stored.clip(least, greatest)
    size = 8 * stored.dtype.itemsize
    np.left_shift(stored, size - 1 - header.high_bit, out=stored)
    np.right_shift(stored, size - header.bits_stored, out=stored)
    return stored


def _warnings(view: Dataset) -> Iterator[str]:
    """What a reader should know of the header; its numbers are floats from here on."""
    yield from repair_numbers(view)
    if view.get("BurnedInAnnotation") == "YES":
        yield "burned-in annotation: the pixels may show a person's name or other text"
    if view.get("PresentationIntentType") == "FOR PROCESSING":
        yield "the image is meant for processing, not for display"
    if view.get("PixelPresentation") in ("COLOR", "MIXED"):
        yield "supplemental colours are not shown"
    if (view.get("PhotometricInterpretation"), view.get("PresentationLUTShape")) in CONTRADICTIONS:
        yield "the presentation LUT shape contradicts the photometric interpretation: some viewers show the negative"
    ratio = _row_to_column(view)
    if abs(ratio - 1) > SQUARE:
        yield f"pixels are not square: {ratio:.3g} times as high as wide; boxes are in stored pixels"


def _row_to_column(view: Dataset) -> float:
    """Height of a pixel over its width (PS3.3, C.7.6.3.1.7); 1 where the file does not say."""
    for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        pair = floats_of(view, name)
        if len(pair) == 2 and pair[0] > 0 and pair[1] > 0:  # not true of NaN
            return pair[0] / pair[1]
    return 1.0


def _colour(header: Header, view: Dataset, stored: NDArray[Any]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if header.photometric != PALETTE:
        return _bytes(stored, header.bits_stored), ()
    luts = _palette(header, view)
    values = np.arange(1 << 8 * stored.dtype.itemsize, dtype=f"u{stored.dtype.itemsize}").view(stored.dtype)
    table = np.stack([_bytes(lut(values).astype(np.uint16), depth(luts)) for lut in luts], axis=-1)
    return table[unsigned(stored)], tuple(remarks("palette", luts))


def _palette(header: Header, view: Dataset) -> list[Lut]:
    """The tables of red, green and blue; segmented ones as pydicom expands them."""
    little, inputs = header.transfer_syntax.is_little_endian, stored_range(view)
    if "RedPaletteColorLookupTableData" in view:
        names = [(f"{colour}PaletteColorLookupTableDescriptor", colour) for colour in ("Red", "Green", "Blue")]
        return [read_lut(view, name, f"{colour}PaletteColorLookupTableData", little, inputs) for name, colour in names]
    count, first, bits = map(int, view.RedPaletteColorLookupTableDescriptor)
    count = count or 1 << 16
    if bits == 8 and count > 256:  # pydicom counts the entries in numbers of their bits
        raise rejected(header.path, "unsupported_pixels", f"a segmented palette of {count} bytes", "up to 256")
    entries = apply_color_lut(np.arange(first, first + count), view)
    first = first_value(first, len(entries), inputs)
    return [Lut(entries[:, place].astype(np.int64), first, bits) for place in range(3)]


def _bytes(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """0 … 2^bits - 1 as 0 … 255, rounded."""
    if bits == 8:
        return samples.astype(np.uint8)
    largest = (1 << bits) - 1
    table = (np.arange(1 << 16) * 255 + largest // 2) // largest
    levels: NDArray[np.uint8] = np.minimum(table, 255).astype(np.uint8)[unsigned(samples)]
    return levels


def _record(header: Header, frame: int, window: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "sop_instance_uid": header.sop_instance_uid or None,
        "frame": frame,
        "frames": header.frames,
        "transfer_syntax_uid": str(header.transfer_syntax),
        "decoder": header.decoder or None,
        "photometric_interpretation": header.photometric,
        "window": window,
        "inverted": header.photometric == "MONOCHROME1",
    }


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
