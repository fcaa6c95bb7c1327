"""The concepts of a report, each once: the writer and the reader must mean the same."""

from __future__ import annotations

import hashlib

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

from medprompt.prompts.schema import Code

PRIVATE_SCHEME = "99MEDPROMPT"
"""Designator of codes for classes whose prompts file names none (PS3.16, 8.2: private ones begin with 99)."""


PRIVATE_SCHEME_ITEM = CodingSchemeIdentificationItem(PRIVATE_SCHEME, name="Class labels of medprompt prompts files")

CERTAINTY = CodedConcept("111012", "DCM", "Certainty of Finding")
"""How certain the device is of a finding: the score. Not a probability of disease, which the score is not."""

PERCENT = CodedConcept("%", "UCUM", "Percent")
"""The unit that reports of computer-aided detection give the certainty in."""

SUMMARY = CodedConcept("111017", "DCM", "CAD Processing and Findings Summary")
WITH_FINDINGS = CodedConcept("111242", "DCM", "All algorithms succeeded; with findings")
WITHOUT_FINDINGS = CodedConcept("111241", "DCM", "All algorithms succeeded; without findings")
"""Of CID 6047: the search ran to its end and no score reached its class's threshold. No statement about health."""

NOT_ANALYSED = CodedConcept("111245", "DCM", "No algorithms succeeded; without findings")
"""Of CID 6047: of this frame nothing is known."""

COMMENT = CodedConcept("121106", "DCM", "Comment")
PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")

SEGMENTATION = CodedConcept("113076", "DCM", "Segmentation")
SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")
REGION = CodedConcept("309825002", "SCT", "Spatial and Relational Concept")
"""Of CID 7150, what a segment is of: a region. That it is of a tissue or a lesion no prompts file says."""

WHOLE_FRAME = "whole frame"
"""Tracking identifier of the group that speaks of the frame rather than of a finding."""

WARNING = "Warning: "
"""How the comment begins that holds a warning of the item."""


def finding_code(label: str, code: Code | None) -> CodedConcept:
    """The coded concept of a class: its own code, or else a private one that claims no terminology."""
    if code is not None:
        return CodedConcept(code.value, code.scheme, long_string(code.meaning or label))
    return CodedConcept(hashlib.sha256(label.encode()).hexdigest()[:16], PRIVATE_SCHEME, long_string(label))


def long_string(text: str) -> str:
    """A text as a value of VR LO may have it (PS3.5, 6.2): 64 characters, no line breaks, no backslash."""
    return " ".join(text.split()).replace("\\", "/")[:64]
