"""DICOM variants by the hundred, each within one grey level of dcmtk's picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medprompt.images.read import load_picture
from tests.medprompt.dicom.variants import TOOLS, dcmtk_picture, have_tools, variants, write_variant


@pytest.mark.slow
@pytest.mark.skipif(not have_tools(), reason=f"needs dcmtk's {', '.join(TOOLS)}")
@pytest.mark.filterwarnings("ignore")  # pydicom's, when such files are written
def test_variants(tmp_path: Path) -> None:
    """None is refused, none differs; without a window or with one of no width the warnings are looked at too."""
    wrong = []
    made = variants(500)
    for variant in made:
        coded, shown = write_variant(variant, tmp_path)
        picture = load_picture(coded)
        assert picture.dicom is not None
        expected = dcmtk_picture(shown, picture.dicom["window"])
        worst = int(np.abs(picture.pixels.astype(np.int64) - expected).max())
        windowless = (variant.window == "none" and variant.bits[1] > 8) or variant.window == "width < 1"
        excused = variant.colour or variant.table.startswith("VOI")
        if worst > 1 or bool(picture.warnings) != (windowless and not excused):
            wrong.append((variant, worst, picture.warnings))
    assert wrong == []
    assert len(made) >= 500
