"""The answers of all cells, compared with those that transformers chooses."""

from __future__ import annotations

import torch

from medprompt.export.families.base import RawOutputs


def all_found(chosen: RawOutputs, cells: RawOutputs, most: float = 2e-4) -> bool:
    """Whether every chosen answer is that of some cell, logits and box."""
    mine, theirs = (torch.cat([one.logits, one.boxes_cxcywh], dim=2)[0] for one in (cells, chosen))
    distance = (theirs[:, None] - mine[None]).abs().amax(dim=2)
    return bool(len(mine) > len(theirs) and distance.amin(dim=1).max() < most)
