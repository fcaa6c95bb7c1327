"""What a model that makes a mask of a box must say about itself; all that it does differently ends in its own file.

Two graphs: the encoder makes features of an image, once; the decoder makes of these a mask of each box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medprompt.core.manifest import Preprocess, TensorSpec, Tolerance
from medprompt.core.masks import Masks


class BoxSegmenter(ABC):
    """One Hugging Face model and its processor.

    Attributes:
        architecture: Name of the transformers class.
        own_licence, beside_prefixes: See ``Family``.
        mask_threshold: Logits over it are the object's, as the processor has it.
        tolerance: Parity demanded.
    """

    architecture: ClassVar[str]
    own_licence: ClassVar[bool] = False
    beside_prefixes: ClassVar[tuple[str, ...]] = ()
    mask_threshold: ClassVar[float] = 0.0
    tolerance: ClassVar[Tolerance] = Tolerance()

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    @abstractmethod
    def model_class(cls) -> Any:
        """The class that loads the weights."""

    @classmethod
    @abstractmethod
    def load_processor(cls, folder: Path) -> Any:
        """Load a checkpoint's own processor."""

    @abstractmethod
    def preprocess(self) -> Preprocess:
        """Read the preprocessing from the checkpoint's own image processor."""

    @abstractmethod
    def encoder(self, normalise: nn.Module) -> nn.Module:
        """``forward(image) -> features``: of ``image`` ``[1, h, w, 3]``, of which ``normalise`` makes the model's."""

    @abstractmethod
    def decoder(self) -> nn.Module:
        """``forward(boxes, *features) -> masks``: boxes ``[N, 4]`` in 0 … 1, mask logits ``[N, h_m, w_m]``."""

    @abstractmethod
    def feature_specs(self) -> tuple[TensorSpec, ...]:
        """Between encoder and decoder, in order."""

    @property
    @abstractmethod
    def mask_hw(self) -> tuple[int, int]:
        """Height and width of the decoder's masks."""

    @abstractmethod
    def reference(self, image_rgb: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Masks:
        """Masks of boxes ``[N, 4]`` in source pixels, by transformers' own processor and forward."""
