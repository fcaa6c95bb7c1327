"""A frame's bytes as stored values: what a compressed frame says of itself is held against the file's header first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options

from medprompt.dicom import strict
from medprompt.dicom.codestream import END, Codestream, codestream_of
from medprompt.dicom.header import Header, rejected


def array_of_frame(header: Header, frame: int, **options: Any) -> tuple[NDArray[Any], list[str]]:
    """Decode a frame (from 1) by pydicom, whose ``options`` may be given.

    Returns:
        Integers ``[Rows, Columns]`` or ``[Rows, Columns, 3]``, as wide as BitsAllocated, YBR as RGB; warnings.

    Raises:
        ImageError: The frame is not there, breaks off, or is another than the header says.
    """
    pixels = header.pixel_data
    if why := pixels.missing(frame):
        raise rejected(header.path, "damaged", why, fix="fetch the file again")
    options = {**as_pixel_options(header.dataset, number_of_frames=pixels.frames), **options}
    options |= {"pixel_keyword": "PixelData", "pixel_vr": pixels.element.vr or "OW"}
    if not header.decoder:
        pixels.element.stream.seek(pixels.element.start)
        decoder, stream = get_decoder(header.transfer_syntax), pixels.element.stream
        within_a_byte = header.dataset.BitsAllocated == 1 and header.size_hw[0] * header.size_hw[1] % 8
        if within_a_byte and pixels.frames > 1:
            return decoder.as_array(stream, **options)[0][frame - 1], []  # frames that begin within a byte
        return decoder.as_array(stream, index=frame - 1, **options)[0], []
    if header.transfer_syntax not in (uid.RLELossless, *uid.JPEGLSTransferSyntaxes):
        options["planar_configuration"] = 0  # the codecs put colours beside each other, whatever the file says
    content, notes = pixels.content(frame), list[str]()
    if header.transfer_syntax != uid.RLELossless:
        says = _checked(header, content)
        notes.extend(_contradictions(header, says))
        if says.colours and says.colours != header.photometric[:3]:
            options["photometric_interpretation"] = "RGB" if says.colours == "RGB" else "YBR_FULL_422"
    strict.register()
    plugin = strict.PLUGIN if header.transfer_syntax in strict.DECODER_DEPENDENCIES else header.decoder
    options |= {"number_of_frames": 1, "decoding_plugin": plugin}
    source = encapsulate([content], has_bot=False)
    return get_decoder(header.transfer_syntax).as_array(source, index=0, **options)[0], notes


def _checked(header: Header, content: bytes) -> Codestream:
    """What the frame says of itself; refused where it is another picture than the file's, or a part of one."""
    says, wanted = codestream_of(content), _wanted(header)
    if says.unread:
        raise rejected(header.path, "unsupported_encoding", says.unread, fix="save it uncompressed")
    got = f"compressed data of {says.size_hw[1]} x {says.size_hw[0]} pixels, {says.samples} samples of {says.bits} bits"
    if (says.size_hw, says.samples) != wanted[:2] or says.bits not in wanted[2]:
        size, samples, bits = wanted
        expected = f"{size[1]} x {size[0]}, {samples} of {' or '.join(map(str, bits))}, as the file states"
        raise rejected(header.path, "damaged", got, expected)
    if END not in content:
        raise rejected(header.path, "damaged", "compressed data that breaks off", fix="fetch the file again")
    return says


def _wanted(header: Header) -> tuple[tuple[int, int], int, list[int]]:
    """Size, samples and bits that fit the header.

    Grey and palette values mean the same in fewer bits. All allocated ones may be coded, the unused among them (PS3.5,
    8.1.1), and the JPEG of up to 12 bits always has 12.
    """
    stored, allocated = header.bits_stored, int(header.dataset.BitsAllocated)
    samples = int(header.dataset.get("SamplesPerPixel") or 1)
    bits = {stored, allocated, *(range(1, stored) if samples == 1 else ())}
    if header.transfer_syntax == uid.JPEGExtended12Bit and stored <= 12 <= allocated:
        bits.add(12)
    if header.high_bit != stored - 1:
        bits = {allocated}  # else the samples do not lie where the file says
    return header.size_hw, samples, sorted(bits)


def _contradictions(header: Header, says: Codestream) -> Iterator[str]:
    if says.bits < header.bits_stored:
        yield f"the compressed data has {says.bits} bits a sample, the file states {header.bits_stored}"
    if says.colours and says.colours != header.photometric[:3]:
        yield "the compressed data names another colour space than the file; the data's was used"
    if says.signed is not None and says.signed != bool(int(header.dataset.PixelRepresentation)):
        yield "of the compressed data and the file one states signed values, one unsigned: grey levels may be wrong"
    named = header.photometric in ("YBR_RCT", "YBR_ICT")
    if says.samples == 3 and (says.transformed is False if named else says.transformed and header.photometric != "RGB"):
        yield "the compressed data transforms its colours otherwise than the file states: they may be wrong"
