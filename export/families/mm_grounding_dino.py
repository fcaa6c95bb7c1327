"""MM-Grounding DINO: Grounding DINO whose class head scales by the width and adds a learned bias."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from medprompt.export.families.grounding_core import GroundingDinoCore
from medprompt.export.families.grounding_dino import GroundingDino


class MMGroundingDinoCore(GroundingDinoCore):
    """Image side, fusion and decoder of MM-Grounding DINO."""

    def token_logits(self, head: Any, hidden: Tensor, text: Tensor) -> Tensor:
        """See ``GroundingDinoCore.token_logits``."""
        scaled: Tensor = super().token_logits(head, hidden, text) / math.sqrt(hidden.shape[-1])
        return scaled + head.bias


class MMGroundingDino(GroundingDino):
    """``MMGroundingDinoForObjectDetection``."""

    architecture = "MMGroundingDinoForObjectDetection"
    core_class = MMGroundingDinoCore
