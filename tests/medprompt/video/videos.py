"""Small videos made in code: grey frames that get brighter, so that each can be told from the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

LEVELS = tuple(range(20, 220, 10))
"""Grey level of each frame."""

SIZE_HW = (48, 64)


def make_video(
    path: Path,
    codec: str = "mpeg4",
    size_hw: tuple[int, int] = SIZE_HW,
    fps: int = 10,
    group: int = 5,
    kind: str = "",
    b_frames: int = 0,
    step: int = 1,
    options: dict[str, str] | None = None,
) -> Path:
    """A frame for each of ``LEVELS``, a key frame every ``group``; ``kind`` is the container, or it is the suffix's.

    Frames lie ``step / fps`` seconds apart. ``options`` are further ones of the encoder.
    """
    with av.open(str(path), "w", format=kind or None) as container:
        stream = container.add_stream(
            codec, rate=fps, options={"g": str(group), "bf": str(b_frames), "sc_threshold": "0", **(options or {})}
        )
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for number, level in enumerate(LEVELS):
            frame = _grey(level, size_hw)
            frame.pts = number * step
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _grey(level: int, size_hw: tuple[int, int]) -> Any:
    noise = np.random.default_rng(level).integers(-3, 4, (*size_hw, 1))
    pixels = np.clip(level + np.repeat(noise, 3, axis=2), 0, 255).astype(np.uint8)
    return av.VideoFrame.from_ndarray(pixels, format="rgb24")


def packet_spans(path: Path) -> list[tuple[int, int, bool]]:
    """Offset, size and key flag of each packet of a file that stores them in one piece."""
    with av.open(str(path)) as container:
        return [
            (packet.pos, packet.size, packet.is_keyframe)
            for packet in container.demux(container.streams.video[0])
            if packet.size
        ]
