"""OWLv2: OWL-ViT on padded squares, resized as scikit-image does.

Its objectness head is left out of the graph: transformers' post-processing does not read it.
"""

from __future__ import annotations

from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import Postprocess, Preprocess
from medprompt.export.families.owlvit import OwlViT


class Owlv2(OwlViT):
    """``Owlv2ForObjectDetection``."""

    architecture = "Owlv2ForObjectDetection"
    text_prefixes = ("owlv2.text_model.", "owlv2.text_projection.")

    @property
    def backbone(self) -> Any:
        """The dual encoder inside the detector."""
        return self.model.owlv2

    def warnings(self, post: Postprocess) -> tuple[str, ...]:
        """See ``Family.warnings``; transformers 5 pads with black what 4 padded with grey, and no file says which."""
        version = str(getattr(self.model.config, "transformers_version", None) or "an unknown version")
        if version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) >= 5:
            return super().warnings(post)
        return (
            *super().warnings(post),
            f"The checkpoint was saved by transformers {version}, which padded images that are not square with grey; "
            "transformers 5, and so this bundle, pads with black. If it was trained on such images, compare on "
            "labelled ones (medprompt bench accuracy), or train on with transformers 5.",
        )

    def resize_differs(self) -> tuple[str, str]:
        """See ``Family.resize_differs``."""
        if self.resizes_with_torchvision:
            return super().resize_differs()
        return (
            "the resized image is rounded to 8 bits on the host, which OWLv2's processor does not do",
            "resize=graph, which does not round",
        )

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
