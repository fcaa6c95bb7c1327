"""What to compile: one object for the command, the library and the builders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medprompt.core.errors import InputError

MAX_SIZE = 65536


@dataclass(frozen=True)
class CompileOptions:
    """What to compile. A limit that is None is the manifest's, or else the default of ``axes``.

    Attributes:
        engine: ``trt`` (TensorRT) or ``trt-rtx`` (TensorRT for RTX).
        precision: Which of the bundle's models: ``fp32``, or one that it was exported with. None: ``auto`` where it
            was, else ``fp32``.
        gpu: Compute capabilities such as ``sm86``; empty for the GPU of this machine.
        max_batch: Largest batch of images; 1 by default. More make a second profile, of its own memory.
        max_phrases: Largest number of phrases, and with them of classes and text tokens.
        max_tokens: Largest number of text tokens of all phrases together, for families that read tokens.
        max_source: Largest height and width of the source image in pixels, for older bundles whose graph resizes;
            without effect on others, whose engines take sources of every size.
        workspace: Most scratch memory of one layer in MiB; None: all there is.
        timing_cache: File of measured kernels, read and written, so that the next build is quicker. Only ``trt``
            measures.
        tf32: Whether products in fp32 may round their operands to TF32. Only for bundles that were exported with it.

    Raises:
        InputError: A limit out of range.
    """

    engine: str
    precision: str | None = None
    gpu: Sequence[str] = ()
    max_batch: int | None = None
    max_phrases: int | None = None
    max_tokens: int | None = None
    max_source: tuple[int, int] | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    tf32: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.gpu, str):  # a text is a sequence too, of its letters
            object.__setattr__(self, "gpu", (self.gpu,))
        limits = {name: getattr(self, name) for name in ("max_batch", "max_phrases", "max_tokens", "workspace")}
        limits["max_source"] = min(self.max_source) if self.max_source else None
        for name, value in limits.items():
            if value is not None and not 1 <= value <= MAX_SIZE:
                raise InputError("A value is out of range.", where=name, expected=f"1 … {MAX_SIZE}", got=str(value))
