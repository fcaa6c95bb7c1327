"""pydicom's way to decode JPEG with Pillow, for whole JPEGs only: a plug-in for its decoder.

What a plug-in has to have is said in pydicom's guide to decoder plug-ins.
"""

from __future__ import annotations

from pydicom import uid
from pydicom.pixels.decoders import pillow
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

from medprompt.core.integrity import decode_jpeg
from medprompt.dicom.codestream import codestream_of

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


def register() -> None:
    """Make the plug-in known to pydicom, once."""
    decoder = get_decoder(uid.JPEGBaseline8Bit)
    if PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))
