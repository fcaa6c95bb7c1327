"""Pictures for people: the image with its detections drawn in, legible on small images too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from medprompt.core.detections import Detections
from medprompt.core.files import atomic_write
from medprompt.core.output_kinds import file_kind

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""By class id, again from the first; pictures and plots use the same. Okabe and Ito's colours, told apart with any
colour vision (jfly.uni-koeln.de/color)."""

MIN_SIDE = 640
"""Images whose longer side is below this are enlarged by a whole factor, so that text fits their boxes."""

FONT_SHARE = 1 / 55
"""Text height as a share of the picture's longer side."""

MIN_FONT = 12

MASK_SHARE = 0.3
"""How much of a mask's colour covers what is under it; its outline covers all."""

SOFTWARE = {"Software": "medprompt"}
"""What a picture of ours says of its origin (a keyword of PNG), so that it is known from another's."""

PICTURE = file_kind("a picture", r"\x89PNG.{0,200}tEXtSoftware\x00medprompt")


def draw_overlay(image_rgb: NDArray[np.uint8], detections: Detections) -> Image.Image:
    """Draw boxes in the colour of their class, with label and score, the best on top, into uint8 ``[H, W, 3]``.

    Masks are under all boxes: filled with the colour so that the image shows through, and outlined.

    Returns:
        An RGB picture, larger than the image by a whole factor where that is small.
    """
    height, width = image_rgb.shape[:2]
    factor = max(1, -(-MIN_SIDE // max(height, width)))
    picture = Image.fromarray(image_rgb).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    text_height = max(MIN_FONT, round(max(picture.size) * FONT_SHARE))
    font = ImageFont.load_default(text_height)
    ranked = range(len(detections) - 1, -1, -1)
    if detections.masks is not None:
        for row in ranked:
            (top, left), pixels = detections.masks.part(row)
            if pixels.size:
                part = Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
                corner = (left * factor - 1, top * factor - 1)
                picture.paste(_colour(detections, row), corner, mask_layer(part, text_height // 16))
    for row in ranked:
        box = np.clip(detections.boxes_xyxy[row] * factor, 0, [*picture.size, *picture.size])
        colour = _colour(detections, row)
        left, top, right, bottom = np.minimum(box.astype(int), np.tile(picture.size, 2) - 1).tolist()
        ends = (left, top, max(left, right), max(top, bottom))
        pen.rectangle(ends, outline=colour, width=max(2, text_height // 8))
        label = detections.labels[detections.class_ids[row]]
        _draw_tag(pen, box, f"{label} {detections.scores[row]:.2f}", colour, font)
    return picture


def _colour(detections: Detections, row: int) -> str:
    return COLOURS[int(detections.class_ids[row]) % len(COLOURS)]


def mask_layer(part: Image.Image, line: int) -> Image.Image:
    """How much of its colour covers each pixel of a part of a mask, black and white, and of one pixel around it.

    ``line``: width of the outline in pixels.
    """
    whole = ImageOps.expand(part.convert("L"), 1)
    inner = whole
    for _ in range(max(1, line)):
        inner = inner.filter(ImageFilter.MinFilter(3))
    return ImageChops.lighter(ImageChops.subtract(whole, inner), whole.point(lambda level: round(level * MASK_SHARE)))


def save_overlay(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG that says it is of ours, whole or not at all.

    Raises:
        InputError: The path cannot be written to.
    """
    with atomic_write(Path(path)) as aside:
        about = PngInfo()
        about.add_text("Software", SOFTWARE["Software"])
        picture.save(aside, format="PNG", pnginfo=about)


def _draw_tag(
    pen: ImageDraw.ImageDraw,
    box: NDArray[np.floating],
    text: str,
    colour: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Write on a filled strip above the box, or inside its upper edge where the picture ends."""
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, tall = right + 4, bottom + 3
    left = max(0, min(int(box[0]), pen.im.size[0] - int(wide)))
    top = int(box[1] - tall) if box[1] >= tall else int(box[1])
    pen.rectangle((left, top, left + wide, top + tall), fill=colour)
    pen.text((left + 2, top + 1), text, fill=readable_on(colour), font=font)


def readable_on(colour: str) -> str:
    """Black or white, whichever stands out (luma of ITU-R BT.601)."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
