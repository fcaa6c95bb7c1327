"""A decoded frame as RGB, turned and mirrored as the video states."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import ImageError

UNSPECIFIED = 2
"""Of the colour matrices of ITU-T H.273: none is stated."""

MATRICES = frozenset({1, UNSPECIFIED, 4, 5, 6, 7, 9})
"""Those that FFmpeg turns into RGB: BT.709, FCC, two of BT.601, SMPTE 240M, BT.2020 (H.273, table 4)."""

HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics whose white is far above that of a display (H.273, table 3)."""

MAX_SD_LINES = 576
"""Pictures of more lines are high definition, whose matrix is BT.709 where none is stated."""


def upright_rgb(frame: Any) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Pixels of a decoded frame as they are meant to be seen, and what had to be assumed.

    Args:
        frame: An ``av.VideoFrame``.

    Returns:
        RGB uint8 ``[H, W, 3]``, and warnings.

    Raises:
        ImageError: Its colours are coded in a way that is not read.
    """
    from av.video.reformatter import Colorspace

    form = frame.format
    plain = form.is_rgb or form.has_palette or len(form.components) < 3
    if not plain and frame.colorspace not in MATRICES:
        raise ImageError(
            "The frame's colours cannot be read.",
            code="unsupported_pixels",
            expected="a colour matrix of BT.601, BT.709, BT.2020, FCC or SMPTE 240M",
            got=f"colour matrix {int(frame.colorspace)} (ITU-T H.273, table 4)",
        )
    warnings = []
    if transfer := HDR.get(frame.color_trc):
        warnings.append(
            f"the video has a high dynamic range ({transfer}): shown without tone mapping, paler than meant"
        )
    if not form.has_palette and any(component.is_alpha for component in form.components):
        warnings.append("the video has an opacity, which was not applied")
    chosen = {}
    if frame.colorspace == UNSPECIFIED and frame.height > MAX_SD_LINES and "yuv" in form.name:
        chosen["src_colorspace"] = Colorspace.ITU709
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", **chosen)
    if (matrix := _display_matrix(frame)) is not None:
        if (upright := _turned(pixels, matrix)) is None:
            warnings.append(f"the video asks to be turned by {frame.rotation} degrees, and was not")
        else:
            pixels = upright
    if frame.interlaced_frame:
        warnings.append("the frame is interlaced: it shows two moments, line by line")
    return pixels, tuple(warnings)


def _display_matrix(frame: Any) -> NDArray[np.int32] | None:
    """What the container or the stream says of how it is to be shown ``[2, 2]``, 16.16; None where nothing."""
    from av.sidedata.sidedata import Type

    stated = frame.side_data.get(Type.DISPLAYMATRIX)
    return None if stated is None else np.frombuffer(bytes(stated), dtype=np.int32).reshape(3, 3)[:2, :2]


def _turned(pixels: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8] | None:
    """Pixels ``[H, W, 3]`` turned and mirrored by quarters; None where the matrix asks for another angle.

    The place ``(x, y) @ matrix`` shows the pixel at x, y (ISO/IEC 14496-12, 6.2.2).
    """
    (right, across), (down_across, down) = matrix.tolist()
    if right and down and not across and not down_across:
        shown, mirror_xy = pixels, (right < 0, down < 0)
    elif across and down_across and not right and not down:
        shown, mirror_xy = pixels.swapaxes(0, 1), (down_across < 0, across < 0)
    else:
        return None
    return np.ascontiguousarray(shown[:: -1 if mirror_xy[1] else 1, :: -1 if mirror_xy[0] else 1])
