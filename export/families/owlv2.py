"""OWLv2: OWL-ViT on padded squares, resized as scikit-image does, in floating point.

Its objectness head is left out of the graph: transformers' post-processing does not read it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import Postprocess, Preprocess
from medprompt.export.families.owlvit import OwlViT

IMAGE_PROCESSOR = "Owlv2ImageProcessor"


class Owlv2(OwlViT):
    """``Owlv2ForObjectDetection``."""

    architecture = "Owlv2ForObjectDetection"
    text_prefixes = ("owlv2.text_model.", "owlv2.text_projection.")
    border = 0.0
    """Share of white of the padding."""

    @property
    def backbone(self) -> Any:
        """The dual encoder inside the detector."""
        return self.model.owlv2

    def warnings(self, post: Postprocess) -> tuple[str, ...]:
        """See ``Family.warnings``; transformers 5 pads with black what 4 padded with grey, and no file says which."""
        version = str(getattr(self.model.config, "transformers_version", None) or "an unknown version")
        new = version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) >= 5
        if new or self.border:
            return super().warnings(post)
        return (
            *super().warnings(post),
            f"The checkpoint was saved by transformers {version}, which padded images that are not square with grey; "
            "transformers 5, and so this bundle, pads with black. If it was trained or is run with grey, export it "
            "with grey padding; labelled images tell which is right (medprompt bench accuracy).",
        )

    def pad_with(self, share: float) -> None:
        """See ``Family.pad_with``: transformers 4 padded with 0.5, transformers 5 pads with 0."""
        self.border = share
        images = self.processor.image_processor
        if images.backend == "pil":
            images.pad = partial(type(images).pad, images, constant_value=share)
        else:
            images._pad_images = lambda pixels, constant_value: type(images)._pad_images(images, pixels, share)

    def preprocess(self) -> Preprocess:
        """See ``Family.preprocess``.

        Raises:
            CheckpointError: The processor is of another model, or leaves out a step: it is another pipeline then.
        """
        processor = self.processor.image_processor
        if not type(processor).__name__.startswith(IMAGE_PROCESSOR):
            raise CheckpointError(
                "The image processor is of another model: OWLv2's own pads to a square before it resizes.",
                where="processor_config.json or preprocessor_config.json: image_processor_type",
                expected=IMAGE_PROCESSOR,
                got=type(processor).__name__,
                fix="save the processor that the model was trained with",
            )
        # Unpadded, transformers still scales boxes by the long side; unscaled, scipy blurs in whole numbers. And the
        # processor on Pillow passes ``resample`` where its ``resize`` reads ``anti_aliasing``: 0 turns the blur off.
        steps = ("do_pad", "do_resize", "do_rescale", *(["resample"] if processor.backend == "pil" else []))
        off = [name for name in steps if not getattr(processor, name)]
        if off:
            raise CheckpointError(
                "The image processor leaves out a step.",
                where="preprocessor_config.json",
                expected=f"{', '.join(steps)} all on",
                got=", ".join(f"{name}: {getattr(processor, name)}" for name in off),
                fix="save the processor that the model was trained with",
            )
        own = {"resample": "zoom", "rounds": False, "pad": "square"}
        border = self.border / processor.rescale_factor
        return super().preprocess().model_copy(update={**own, "pad_value": border})
