"""pydicom's way to decode JPEG with Pillow, for whole JPEGs only: a plug-in for its decoder.

What a plug-in has to have is said in pydicom's guide to decoder plug-ins.
"""

from __future__ import annotations

import re

import simplejpeg
from pydicom import uid
from pydicom.pixels.decoders import pillow
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

from medprompt.core.integrity import decode_jpeg
from medprompt.dicom.codestream import Codestream, codestream_of

PLUGIN = "pillow, whole files only"
DECODER_DEPENDENCIES = {uid.JPEGBaseline8Bit: pillow.DECODER_DEPENDENCIES[uid.JPEGBaseline8Bit]}


def is_available(transfer_syntax: str) -> bool:
    """Whether Pillow decodes this syntax here."""
    return pillow.is_available(transfer_syntax)


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode a frame.

    Raises:
        ValueError: It is damaged.
    """
    pixels = decode_jpeg(source)  # refuses what is damaged
    if runner.samples_per_pixel == 3 and pixels is not None and codestream_of(source).settled:
        # Pillow makes RGB of these too, or fails; pydicom would take them for what the file says, and convert again.
        runner.set_option("photometric_interpretation", "RGB")
        return pixels.tobytes()
    return pillow._decode_frame(source, runner)


def check_coded_data(source: bytes, says: Codestream) -> None:
    """Refuse a JPEG of any precision, lossless too, if libjpeg-turbo warns of its coded data; others say nothing.

    How many bits it takes up does not depend on the precision, so that of 8 bits, which it decodes here, is written in.

    Raises:
        ValueError: It is damaged.
    """
    try:
        plain = source[: says.bits_at] + b"\x08" + source[says.bits_at + 1 :]
        simplejpeg.decode_jpeg(plain, "GRAY" if says.samples == 1 else "RGB", strict=True)
    except ValueError as error:
        if re.match("Corrupt JPEG data|Premature end", str(error)):  # else it is what libjpeg-turbo does not know
            raise


def register() -> None:
    """Make the plug-in known to pydicom, once."""
    decoder = get_decoder(uid.JPEGBaseline8Bit)
    if PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))
