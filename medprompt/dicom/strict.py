"""pydicom's way to decode JPEG with libjpeg-turbo, for whole JPEGs only: a plug-in for its decoders.

Pillow decodes the baseline process, imagecodecs 12 bits and the lossless process, both with libjpeg-turbo. What a
plug-in has to have is said in pydicom's guide to decoder plug-ins.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

import simplejpeg
from pydicom import uid
from pydicom.pixels.decoders import pillow
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

from medprompt.core.integrity import decode_jpeg
from medprompt.dicom.codestream import Codestream, codestream_of

PLUGIN = "libjpeg-turbo, whole files only"
BY_IMAGECODECS = (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
DECODER_DEPENDENCIES = {
    uid.JPEGBaseline8Bit: pillow.DECODER_DEPENDENCIES[uid.JPEGBaseline8Bit],
    **dict.fromkeys(BY_IMAGECODECS, ("imagecodecs",)),
}


def is_available(transfer_syntax: str) -> bool:
    """Whether this syntax is decoded here."""
    if transfer_syntax in BY_IMAGECODECS:
        return find_spec("imagecodecs") is not None
    return pillow.is_available(transfer_syntax)


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode a frame.

    Raises:
        ValueError: It is damaged.
    """
    says = codestream_of(source)
    if runner.transfer_syntax in BY_IMAGECODECS:
        return _by_imagecodecs(source, says, runner.bits_allocated)
    pixels = decode_jpeg(source)  # refuses what is damaged
    if runner.samples_per_pixel == 3 and pixels is not None and says.settled:
        # Pillow makes RGB of these too, or fails; pydicom would take them for what the file says, and convert again.
        runner.set_option("photometric_interpretation", "RGB")
        return pixels.tobytes()
    return pillow._decode_frame(source, runner)


def _by_imagecodecs(source: bytes, says: Codestream, bits_allocated: int) -> bytes:
    """The samples as they are coded, as wide as the file's: named alike on both sides, no colours are converted."""
    import imagecodecs

    _check_coded_data(source, says)
    coded = "GRAYSCALE" if says.samples == 1 else "YCBCR"
    samples = imagecodecs.jpeg8_decode(source, colorspace=coded, outcolorspace=coded)
    return bytes(samples.astype(f"<u{bits_allocated // 8}").tobytes())


def _check_coded_data(source: bytes, says: Codestream) -> None:
    """Refuse a JPEG of any precision, lossless too, of which libjpeg-turbo warns; imagecodecs shows what it can.

    Raises:
        ValueError: It is damaged.
    """
    simplejpeg.decode_jpeg(_as_8_bits(source, says), "GRAY" if says.samples == 1 else "RGB", strict=True)


def _as_8_bits(source: bytes, says: Codestream) -> bytes:
    """The same coded data under a header that simplejpeg takes.

    How many bits it takes up depends neither on the precision nor on a lossless JPEG's point transform, the last byte
    of a scan's header. Lossless colours that are named cannot be converted: their segments become comments.
    """
    plain = bytearray(source)
    plain[says.frame_at + 4] = 8
    for at in says.marks_at:
        plain[at + 1] = 0xFE
    if source[says.frame_at + 1] == 0xC3:
        for scan in re.finditer(rb"\xff\xda\0(.)", source[says.frame_at :], re.DOTALL):
            plain[says.frame_at + scan.start() + 1 + scan[1][0]] = 0
    return bytes(plain)


def register() -> None:
    """Make the plug-in known to pydicom, once."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins and is_available(syntax):
            decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))
