"""Of the file's elements, the shared groups and the frame's own, the last that give a step give all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid

from medprompt.images.read import load_picture
from tests.medprompt.dicom.made import lut, sequence_item, write_dicom

STORED = np.array([[0, 50, 100, 200]], dtype=np.uint16)

NARROW: dict[str, Any] = {"WindowCenter": 50.5, "WindowWidth": 101}
WIDE: dict[str, Any] = {"WindowCenter": 100.5, "WindowWidth": 201}
TABLE: dict[str, Any] = {"VOILUTSequence": [lut(0, 8, [200, *[100] * 199, 0])]}
BENT: dict[str, Any] = {"VOILUTFunction": "SIGMOID"}
HALVED: dict[str, Any] = {"RescaleSlope": 0.5, "RescaleIntercept": 0}
SAME: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": 0}
BLACK: dict[str, Any] = {"ModalityLUTSequence": [lut(0, 8, [0, 0])]}

BY_NARROW, BY_WIDE = [0, 128, 255, 255], [0, 64, 128, 255]
TABLE_LEVELS = [200, 100, 100, 0]

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[int]]] = {
    # file, shared, frame
    "a frame's window": (WIDE, {}, NARROW, BY_NARROW),
    "a shared window": (WIDE, NARROW, {}, BY_NARROW),
    "a frame's window over a shared one": ({}, WIDE, NARROW, BY_NARROW),
    "a frame's window over the file's VOI LUT": (TABLE, {}, NARROW, BY_NARROW),
    "a frame's window over a shared VOI LUT": ({}, TABLE, NARROW, BY_NARROW),
    "a frame's VOI LUT": ({}, {}, TABLE, TABLE_LEVELS),
    "a frame's VOI LUT over the file's window": (NARROW | BENT, {}, TABLE, TABLE_LEVELS),
    "a shared VOI LUT beside a window": (WIDE, TABLE | NARROW, {}, TABLE_LEVELS),
    "a frame's VOI LUT over a shared window": ({}, NARROW, TABLE, TABLE_LEVELS),
    "a frame's window without the file's function": (BENT | WIDE, {}, NARROW, BY_NARROW),
    "a frame's window without the shared function": ({}, BENT | WIDE, NARROW, BY_NARROW),
    "a frame's function": (NARROW, {}, NARROW | {"VOILUTFunction": "LINEAR_EXACT"}, [0, 126, 252, 255]),
    "a frame without groups of its own": (NARROW, {}, {}, BY_NARROW),
    "a frame's rescale over the file's modality LUT": (BLACK | NARROW, {}, HALVED, BY_WIDE),
    "a shared rescale over the file's modality LUT": (BLACK | NARROW, HALVED, {}, BY_WIDE),
    "a frame's rescale over the file's": (SAME | NARROW, {}, HALVED, BY_WIDE),
    "a frame's rescale leaves the file's VOI LUT": (TABLE, {}, SAME, TABLE_LEVELS),
    "a frame's window leaves the file's rescale": (HALVED | WIDE, {}, NARROW, BY_WIDE),
}


def groups(elements: dict[str, Any]) -> Any:
    """An item of the functional groups: each element in its macro."""
    rescale = {name: value for name, value in elements.items() if name.startswith("Rescale")}
    voi = {name: value for name, value in elements.items() if name not in rescale}
    macros = {"PixelValueTransformationSequence": rescale, "FrameVOILUTSequence": voi}
    return sequence_item(**{name: [sequence_item(**given)] for name, given in macros.items() if given})


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize("case", CASES)
def test_the_last_that_give_a_step_give_all_of_it(tmp_path: Path, case: str, syntax: uid.UID) -> None:
    of_file, shared, of_frame, expected = CASES[case]
    sequences = {
        "SharedFunctionalGroupsSequence": [groups(shared)],
        "PerFrameFunctionalGroupsSequence": [groups(of_frame)],
    }
    picture = load_picture(write_dicom(tmp_path / "x.dcm", STORED, syntax, **of_file, **sequences))
    assert picture.pixels[..., 0].reshape(-1).tolist() == expected
    assert picture.warnings == ()
