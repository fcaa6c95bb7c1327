"""OWLv2: OWL-ViT on padded squares, resized as scikit-image does.

Its objectness head is left out of the graph: transformers' post-processing does not read it.
"""

from __future__ import annotations

from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import Preprocess
from medprompt.export.families.owlvit import OwlViT


class Owlv2(OwlViT):
    """``Owlv2ForObjectDetection``."""

    architecture = "Owlv2ForObjectDetection"
    text_prefixes = ("owlv2.text_model.", "owlv2.text_projection.")

    @property
    def backbone(self) -> Any:
        """The dual encoder inside the detector."""
        return self.model.owlv2

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``.

        Raises:
            CheckpointError: The processor leaves out a step of OWLv2's own preprocessing.
        """
        processor = self.processor.image_processor
        # transformers passes ``resample`` where its ``resize`` reads ``anti_aliasing``: 0 turns the blur off.
        steps = ("do_pad", "do_resize", "do_rescale", "do_normalize", "resample")
        off = [name for name in steps if not getattr(processor, name)]
        if off:
            raise CheckpointError(
                "The image processor leaves out a step.",
                where="preprocessor_config.json",
                expected=f"{', '.join(steps)} all on",
                got=", ".join(f"{name}: {getattr(processor, name)}" for name in off),
                fix="save the processor that the model was trained with",
            )
        return super().preprocess().model_copy(update={"resample": "zoom", "pad": "square"})
