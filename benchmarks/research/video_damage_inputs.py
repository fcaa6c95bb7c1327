"""Short clips of many kinds, made here, and what is done to their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES, GROUP, RATE = 48, 12, 25
SIZE_HW = (144, 176)
TS_PACKET = 188
SECTOR = 512
SMEAR = "BloodImage_00000.jpg"

X264 = {"sc_threshold": "0", "threads": "1", "crf": "23"}
X265 = {"x265-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:log-level=none:pools=none:frame-threads=1"}


@dataclass(frozen=True)
class Kind:
    """How a clip is made.

    Attributes:
        suffix: Of the file; it names the container.
        codec: FFmpeg's name of the encoder.
        b_frames: How many in a row.
        options: Further ones of the encoder.
        bits: Bits a second; 0 leaves it to the encoder.
        group: Frames from one key frame to the next.
        format: The container where the suffix does not name it.
        pixels: FFmpeg's name of the pixel format.
    """

    suffix: str
    codec: str
    b_frames: int = 0
    options: dict[str, str] = field(default_factory=dict)
    bits: int = 0
    group: int = GROUP
    format: str | None = None
    pixels: str = "yuv420p"


KINDS = {
    "h264-cabac.mp4": Kind(".mp4", "libx264", 0, X264),
    "h264-cabac-b.mp4": Kind(".mp4", "libx264", 3, X264),
    "h264-cavlc.mp4": Kind(".mp4", "libx264", 0, {**X264, "coder": "0"}),
    "h264-cavlc-b.mp4": Kind(".mp4", "libx264", 3, {**X264, "coder": "0"}),
    "h264-slices.mkv": Kind(".mkv", "libx264", 2, {**X264, "slices": "4"}),
    "h264-cabac-b.ts": Kind(".ts", "libx264", 3, X264),
    "h264-cavlc.ts": Kind(".ts", "libx264", 0, {**X264, "coder": "0"}),
    "hevc.mp4": Kind(".mp4", "libx265", 0, X265),
    "hevc-b.mp4": Kind(".mp4", "libx265", 3, X265),
    "hevc-b.ts": Kind(".ts", "libx265", 3, X265),
    "mpeg2.mpg": Kind(".mpg", "mpeg2video", 2, bits=900_000, format="vob"),
    "mpeg2.ts": Kind(".ts", "mpeg2video", 2, bits=900_000),
    "mpeg2.mp4": Kind(".mp4", "mpeg2video", 2, bits=900_000),
    "mpeg4.avi": Kind(".avi", "mpeg4", 2, bits=900_000),
    "mjpeg.avi": Kind(".avi", "mjpeg", 0, bits=2_000_000, group=1, pixels="yuvj420p"),
}
"""By name, which is that of the file as well."""


def make_clip(path: Path, kind: Kind) -> None:
    """Write a clip of ``FRAMES`` frames of a blood smear that moves under the lens."""
    import av

    with av.open(str(path), "w", format=kind.format) as container:
        options = {**kind.options, "g": str(kind.group), "bf": str(kind.b_frames)}
        stream: Any = container.add_stream(kind.codec, rate=RATE, options=options)
        stream.height, stream.width = SIZE_HW
        stream.pix_fmt = kind.pixels
        if kind.bits:
            stream.bit_rate = kind.bits
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _picture(number: int) -> NDArray[np.uint8]:
    """A window uint8 ``[H, W, 3]`` into an image of the demo, with the noise of a camera."""
    height, width = SIZE_HW
    with Image.open(str(files("medprompt") / f"demo/images/bccd/{SMEAR}")) as image:
        whole = np.asarray(image.convert("RGB"))
    left, top = 40 + 3 * number, 60 + round(20 * np.sin(number / 5))
    noise = np.random.default_rng(number).normal(0, 2, (height, width, 1))
    window: NDArray[np.uint8] = np.clip(whole[top : top + height, left : left + width] + noise, 0, 255).astype(np.uint8)
    return window


Damage = Callable[[bytearray, int, np.random.Generator], None]
"""Changes a file's content at a byte."""


def _inverted(content: bytearray, at: int, _: np.random.Generator) -> None:
    content[at : at + 3] = bytes(byte ^ 0xFF for byte in content[at : at + 3])


def _burst(content: bytearray, at: int, rng: np.random.Generator) -> None:
    content[at : at + 100] = rng.bytes(len(content[at : at + 100]))


def _sector(content: bytearray, at: int, _: np.random.Generator) -> None:
    start = at // SECTOR * SECTOR
    content[start : start + SECTOR] = bytes(len(content[start : start + SECTOR]))


def _scatter(content: bytearray, at: int, rng: np.random.Generator) -> None:
    for place in rng.integers(at // 8, len(content), 10):
        content[place] ^= int(rng.integers(1, 256))


def _bit(content: bytearray, at: int, rng: np.random.Generator) -> None:
    content[at] ^= 1 << int(rng.integers(8))


def _lost(count: int) -> Damage:
    def lose(content: bytearray, at: int, _: np.random.Generator) -> None:
        start = at // TS_PACKET * TS_PACKET
        del content[start : start + count * TS_PACKET]

    return lose


DAMAGES: dict[str, Damage] = {
    "one bit": _bit,
    "3 bytes inverted": _inverted,
    "100 random bytes": _burst,
    "10 bytes scattered": _scatter,
    "a sector of zeros": _sector,
}
LOSSES: dict[str, Damage] = {"a TS packet lost": _lost(1), "7 TS packets lost": _lost(7)}
"""Of transport streams, on their borders; one datagram holds 7."""


def damages_of(kind: Kind) -> dict[str, Damage]:
    """What is done to clips of a kind."""
    return {**DAMAGES, **(LOSSES if kind.suffix == ".ts" else {})}


def damaged(content: bytes, damage: Damage, first: int, rng: np.random.Generator) -> bytes:
    """A clip after its damage, somewhere from byte ``first`` on."""
    changed = bytearray(content)
    damage(changed, int(rng.integers(first, len(changed) - TS_PACKET)), rng)
    return bytes(changed)
