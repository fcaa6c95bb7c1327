"""Many pictures on one sheet, each with a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from medprompt.core.kinds import FORMATS

CELL = (520, 400)
"""Width and height of a picture on the sheet in pixels."""

STRIP = 28
"""Height of the text under it."""

COLUMNS = 3
MARGIN = 8


def contact_sheet(pictures: Sequence[Path], captions: Sequence[str]) -> Image.Image:
    """Lay pictures out in rows, each fitted into a cell with its caption below.

    Args:
        pictures: Image files.
        captions: One line each.

    Returns:
        An RGB picture; of one empty cell where there are no pictures.

    Raises:
        ValueError: Not one caption a picture.
    """
    columns = min(COLUMNS, max(1, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    wide, tall = CELL[0] + MARGIN, CELL[1] + STRIP + MARGIN
    sheet = Image.new("RGB", (columns * wide + MARGIN, rows * tall + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = MARGIN + index % columns * wide, MARGIN + index // columns * tall
        with Image.open(picture, formats=FORMATS) as image:
            fitted = ImageOps.contain(image.convert("RGB"), CELL, Image.Resampling.LANCZOS)
        sheet.paste(fitted, (left + (CELL[0] - fitted.width) // 2, top + (CELL[1] - fitted.height) // 2))
        pen.text((left, top + CELL[1] + 4), caption, fill="black", font=font)
    return sheet
