"""Checkpoints as other projects save them, turned into the folder of one of our families.

A new format is one file with an ``Importer`` and one line here; see ``medprompt.export.importers.base``.
"""

from __future__ import annotations

from pkgutil import resolve_name

from medprompt.export.importers.base import Importer

IMPORTERS = (
    "medprompt.export.importers.idea:OpenGroundingDino",
    "medprompt.export.importers.idea:IdeaGroundingDino",
    "medprompt.export.importers.mmdet:MMDetMMGroundingDino",
    "medprompt.export.importers.mmdet:MMDetGroundingDino",
    "medprompt.export.importers.omdet:OmDetTurboOriginal",
    "medprompt.export.importers.glip:MicrosoftGlip",
    "medprompt.export.importers.glip:MMDetGlip",
    "medprompt.export.importers.sam3:MetaSam3",
)
"""The first that recognises a file's names reads it."""


def importers() -> list[Importer]:
    """One importer of each format, in the order in which they are asked."""
    return [resolve_name(place)() for place in IMPORTERS]
