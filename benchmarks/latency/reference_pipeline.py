"""The contender: a checkpoint in PyTorch as transformers' documentation shows it, from an RGB array to boxes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medprompt.bundles.load import Bundle
from medprompt.core.boxes import nms
from medprompt.core.errors import InputError
from medprompt.export.checkpoint import ImageProcessor, family_from_checkpoint
from medprompt.export.checkpoint_files import checkpoint_sha256
from medprompt.export.families.base import Family

PROCESSORS: dict[str, ImageProcessor] = {"pillow": "pil", "torchvision": "torchvision"}
"""By the manifest's name of the backend."""
NO_NMS = 1.0
"""An IoU that no two boxes exceed: suppression off, as in the bundle."""


class ReferencePipeline:
    """Processor, model, post-processing, in PyTorch's eager mode and float32 where nothing else is requested.

    Nothing is kept between calls but what transformers keeps itself (OmDet-Turbo's cache of language
    features): every call encodes its text again, as the documentation does.

    Args:
        family: The loaded checkpoint. Its image size is what the processor makes.
        texts: Phrases to look for.
        threshold: Minimum score.
        nms_iou: Suppression, for processors that do it (OmDet-Turbo's); None: off.
        autocast: Let PyTorch compute in bfloat16 where it thinks that safe.
        forward: What stands in the model's place: from the processor's tensors by name to the model's output.
        device: Where the model computes, as torch names it. The processor works on the CPU, as in the documentation.
    """

    def __init__(
        self,
        family: Family,
        texts: Sequence[str],
        threshold: float = 0.2,
        nms_iou: float | None = None,
        autocast: bool = False,
        forward: Callable[..., Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self._forward = family.model if forward is None else forward  # a compiled module has no truth value
        self.processor = family.processor
        self.texts = list(texts)
        self.autocast = autocast
        self._size = _asked_size(family)
        self._post = self.processor.post_process_grounded_object_detection
        self._takes = frozenset(inspect.signature(self._post).parameters)
        self._settings = {"threshold": threshold}
        if "nms_threshold" in self._takes:
            self._settings["nms_threshold"] = nms_iou or NO_NMS
            _provide_nms(self.processor)

    def __call__(self, image_rgb: NDArray[np.uint8]) -> dict[str, Any]:
        """Detect in one image: ``prepare``, ``forward``, ``finish``.

        Args:
            image_rgb: uint8 ``[H, W, 3]``.

        Returns:
            transformers' own answer: ``scores``, ``boxes`` (source pixels), ``labels``, ``text_labels``.
        """
        inputs = self.prepare(image_rgb)
        answer: dict[str, Any] = self.finish(self.forward(inputs), inputs, image_rgb.shape[:2])
        return answer

    def prepare(self, image_rgb: NDArray[np.uint8]) -> Any:
        """The processor's tensors for an image and the texts, on the model's device."""
        picture = Image.fromarray(image_rgb)
        tensors = self.processor(images=picture, text=[self.texts], return_tensors="pt", **self._size)
        return tensors if self.device.type == "cpu" else tensors.to(self.device)

    @torch.no_grad()
    def forward(self, inputs: Any) -> Any:
        """The model's output."""
        with torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext():
            return self._forward(**inputs)

    @torch.no_grad()
    def finish(self, outputs: Any, inputs: Any, size_hw: tuple[int, ...]) -> dict[str, Any]:
        """Transformers' own answer to an output, see ``__call__``; ``size_hw`` is the source's, in pixels."""
        known = {"input_ids": inputs.get("input_ids"), "text_labels": [self.texts]}
        given = {name: value for name, value in known.items() if name in self._takes}
        found: dict[str, Any] = self._post(outputs, target_sizes=[size_hw], **given, **self._settings)[0]
        # To the host, where the bundle's answer lies too; this waits for a GPU.
        return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def has_pipeline(family: Family) -> bool:
    """Whether transformers has this model, and so a documented way from an image to boxes."""
    home: str = family.model_class().__module__
    return home.startswith("transformers.") and hasattr(family.processor, "post_process_grounded_object_detection")


def reference_family(bundle: Bundle, checkpoint: Path) -> Family:
    """Load the checkpoint that a bundle was made from: its image size or sizes, its image processor.

    Raises:
        CheckpointError: It cannot be used.
        InputError: It is another checkpoint, or that image processor is not there.
    """
    made_from, given = bundle.manifest.checkpoint_sha256, checkpoint_sha256(Path(checkpoint))
    spec = bundle.manifest.preprocess
    family = family_from_checkpoint(Path(checkpoint), image_processor=PROCESSORS[spec.backend])
    if made_from not in (given, checkpoint_sha256(Path(checkpoint), with_notes=True)):
        raise InputError(
            "The bundle was not made from this checkpoint; comparing them would prove nothing.",
            where=str(checkpoint),
            expected=f"{bundle.manifest.checkpoint}, sha256 {made_from}",
            got=f"sha256 {given}",
            fix="name the folder that was exported, or export this one",
        )
    if spec.sizes == "one":
        family.image_size = family.choose_size(spec.size_hw)
    if spec.pad_value:
        family.pad_with(spec.pad_value * spec.rescale_factor)
    return family


def _asked_size(family: Family) -> dict[str, Any]:
    """Arguments that make the processor produce the family's image size; nothing where it does so anyway."""
    if family.image_size.follows:
        return {}
    height, width = family.image_size.size_hw
    size = {"height": height, "width": width}
    own = dict(family.processor.image_processor.size)
    return {} if {name: own.get(name) for name in size} == size else {"size": size}


def _provide_nms(processor: Any) -> None:
    """Give a processor medprompt's NMS where torchvision's is absent: it cannot post-process without."""
    module = inspect.getmodule(type(processor))
    if not hasattr(module, "batched_nms"):
        setattr(module, "batched_nms", _batched_nms)  # noqa: B010 - a name the module lacks


def _batched_nms(boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, iou: float) -> torch.Tensor:
    """Torchvision's ``batched_nms`` by medprompt's own."""
    if iou >= NO_NMS:
        return torch.argsort(scores, descending=True)
    arrays = (boxes.float().cpu().numpy(), scores.float().cpu().numpy())
    return torch.from_numpy(nms(*arrays, iou, classes.cpu().numpy())).to(boxes.device)
