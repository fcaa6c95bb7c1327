"""What a bundle of one image size costs against the checkpoint's own processor, which would choose another."""

from __future__ import annotations

from collections.abc import Iterator

from medprompt.core.detections import Detections
from medprompt.core.manifest import ParityRecord, Postprocess
from medprompt.export.parity.check import ParityCheck
from medprompt.export.parity.reference import reference_detections
from medprompt.images.resize import own_size_hw
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.schema import Prompts

LEAST_SIDE = 32
"""Pixels each way that an image has under the own processor, or transformers itself may not run it."""


def cost_of_one_size(check: ParityCheck, prompts: Prompts, postprocess: Postprocess) -> ParityRecord | None:
    """Compare PyTorch at the family's one size (the references) with PyTorch behind the checkpoint's own processor.

    None where the two see every image alike.
    """
    chosen = check.family.image_size
    if chosen.own is None or chosen.follows:
        return None
    check.progress.step("PyTorch with the checkpoint's own processor", len(check.images))
    pairs = list(_pairs(check, prompts, postprocess))
    if not pairs:
        return None
    source = f"{check.images.source}, PyTorch at {chosen.size_hw[0]}x{chosen.size_hw[1]} against its own processor"
    return check_decisions(pairs, check.threshold, check.family.tolerances["fp32"], source, postprocess.top_k)


def stretch_warning(cost: ParityRecord | None) -> tuple[str, ...]:
    """The cost as a reader of the manifest is told it; nothing where there is none."""
    if cost is None:
        return ()
    return (
        f"At this one image size PyTorch keeps {cost.kept:.1%} of the {cost.decisions} decisions that it makes with "
        f"the checkpoint's own processor, on {cost.images} images of another size there.",
    )


def _pairs(check: ParityCheck, prompts: Prompts, postprocess: Postprocess) -> Iterator[tuple[Detections, Detections]]:
    """The own processor's detections and those of the one size, of images to which the two differ."""
    family, chosen = check.family, check.family.image_size
    family.follow_own_size()
    try:
        for image, found in zip(check.images, check.references, strict=True):
            own = own_size_hw(found.size_hw, chosen.own) if chosen.own else chosen.size_hw
            if own != chosen.size_hw and min(own) >= LEAST_SIDE:
                yield reference_detections(family, image, prompts, postprocess), found
            check.progress.advance()
    finally:
        family.image_size = chosen
