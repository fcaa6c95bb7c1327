"""What an engine answered, checked: NaN and unknown ids are no findings, and no absence of findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.prompts.bank import PromptBank

OUTPUTS = ("boxes_xyxy", "scores", "class_ids", "phrase_ids")
MASKS = "masks"
"""One more output, of bundles whose model makes masks (``Postprocess.mask_threshold``)."""


def check_outputs(
    outputs: Mapping[str, NDArray[Any]], count: int, bank: PromptBank, device: str, *, masks: bool = False
) -> None:
    """Refuse what no detector answers; NaN is under every threshold, so it would pass as "nothing found".

    Boxes are ``[B, K, 4]``, ``masks`` ``[B, K, h, w]`` where there must be some, the others ``[B, K]``, of ``count``
    images B; ``device`` is for messages.

    Raises:
        EngineError: An output is missing or of another shape, not finite, a mask's pixel is no probability, or an id
            that the bank does not have.
    """
    names = (*OUTPUTS, MASKS) if masks else OUTPUTS
    shapes = {name: tuple(outputs[name].shape) for name in names if name in outputs}
    top_k, mask_hw = shapes.get("scores", (0, 0))[-1], shapes.get(MASKS, ())[2:]
    rests = {"boxes_xyxy": (4,), MASKS: mask_hw if len(mask_hw) == 2 and all(mask_hw) else ("h", "w")}
    wanted = {name: (count, top_k, *rests.get(name, ())) for name in names}
    if shapes != wanted:
        raise EngineError(
            "The engine's outputs are not those of a detector.",
            where=device,
            expected=str(wanted),
            got=str(shapes),
            fix="export the bundle again",
        )
    broken = [name for name in ("boxes_xyxy", "scores") if not np.isfinite(outputs[name]).all()]
    if broken:
        raise EngineError(
            "The engine returned NaN or Inf, which says nothing about findings.",
            where=f"{device}: {', '.join(broken)}",
            fix="medprompt verify BUNDLE shows whether this device can serve it; try another device",
        )
    if masks and not _are_probabilities(outputs[MASKS]):
        raise EngineError(
            "The engine returned masks whose pixels are no probabilities.",
            where=f"{device}: {MASKS}",
            expected="0 … 1",
            got=f"{outputs[MASKS].min()} … {outputs[MASKS].max()}",
            fix="medprompt verify BUNDLE shows whether this device can serve it; try another device",
        )
    for name, known in (("class_ids", len(bank.labels)), ("phrase_ids", len(bank.texts))):
        ids = outputs[name]
        if ids.size and (ids.min() < 0 or ids.max() >= known):
            raise EngineError(
                "The engine returned a class or phrase that the bank does not have.",
                where=f"{device}: {name}",
                expected=f"0 … {known - 1}",
                got=f"{ids.min()} … {ids.max()}",
                fix="medprompt verify BUNDLE shows whether this device can serve it; try another device",
            )


def _are_probabilities(values: NDArray[Any]) -> bool:
    """NaN is in no range, and both ends of an array that has one are NaN."""
    return not values.size or bool(values.min() >= 0 and values.max() <= 1)
