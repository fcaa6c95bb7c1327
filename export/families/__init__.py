"""The model families, by the ``model_type`` of their Hugging Face config. A new family is one file and one line."""

from __future__ import annotations

from pkgutil import resolve_name

from medprompt.export.families.base import Family

FAMILIES: dict[str, str] = {
    "owlvit": "medprompt.export.families.owlvit:OwlViT",
    "owlv2": "medprompt.export.families.owlv2:Owlv2",
    "grounding-dino": "medprompt.export.families.grounding_dino:GroundingDino",
    "mm-grounding-dino": "medprompt.export.families.mm_grounding_dino:MMGroundingDino",
    "omdet-turbo": "medprompt.export.families.omdet_turbo:OmDetTurbo",
    "glip": "medprompt.export.families.glip.family:Glip",
    "sam3": "medprompt.export.families.sam3.family:Sam3",
    "sam3_lite_text": "medprompt.export.families.sam3.family:Sam3LiteText",
}


HOLDERS = {"sam3_video": "sam3"}
"""Models that hold one of a family beside other parts, as ``facebook/sam3`` is published with a tracker."""


def family_class(model_type: str) -> type[Family]:
    """Import the family that serves a ``model_type`` of the registry."""
    found: type[Family] = resolve_name(FAMILIES[model_type])
    return found
