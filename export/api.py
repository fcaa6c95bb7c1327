"""What ``medprompt`` itself offers of this room: files in, bundle or bank out, every option by its name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

from medprompt.core.progress import Progress
from medprompt.export.bundle import ExportOptions, ExportReport, bundle_from_checkpoint
from medprompt.export.checkpoint import ImageProcessor, family_from_checkpoint
from medprompt.export.compile.options import CompileOptions
from medprompt.export.embed import bank_from_prompts
from medprompt.export.precision.apply import Precision
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import Prompts, prompts_from_yaml


def export_bundle(
    checkpoint: Path | str,
    prompts: Prompts | Path | str,
    out: Path | str,
    *,
    images: Path | str | None = None,
    image_size: tuple[int, int] | None = None,
    image_processor: ImageProcessor | None = None,
    padding: Literal["black", "grey"] | None = None,
    resize: Literal["host", "graph"] | None = None,
    nms_iou: float | None = None,
    top_k: int = 300,
    threshold: float = 0.2,
    opset: int = 20,
    precision: Precision = "fp32",
    calibration: Path | str | None = None,
    engine: CompileOptions | None = None,
    tf32: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint and prove that the bundle decides as PyTorch does.

    Args:
        checkpoint: A folder made by ``save_pretrained``.
        prompts: A prompts file (YAML), or its content.
        out: The bundle to make.
        images: Images to compare on, best those that the model will see; drawn ones where None.
        image_size: Height and width of the model's image, for families whose size is free.
        image_processor: Which of transformers' image processors the bundle reproduces and is compared with: ``pil`` or
            ``torchvision``. None: the one that transformers chooses here, torchvision's where torchvision is installed.
        padding: What OWLv2's processor pads with: ``black`` as in transformers 5 (the default), or ``grey`` as in 4.
        resize: ``host`` or None; no graph resizes any more, and ``graph`` is refused.
        nms_iou: Non-maximum suppression of the runtime; None: off.
        top_k: Most detections an image.
        threshold: Default threshold of classes that have none, and of the parity check.
        opset: ONNX operator set.
        precision: Make a typed model beside the fp32 one.
        calibration: Images that ``int8`` and ``fp8`` are calibrated on.
        engine: Compile an engine as well, from the model of ``precision``.
        tf32: Prove the decisions with TF32 products too, and choose precisions under them; engines may then have them.
        force: Replace ``out`` if it exists.
        progress: Told about each step.

    Raises:
        InputError: A checkpoint, prompts file, image or option that cannot be used; nothing is written.
        ParityError: The exported model decides otherwise than PyTorch; nothing is written.
    """
    given = locals() | {
        "images": None if images is None else Path(images),
        "calibration": None if calibration is None else Path(calibration),
    }
    options = ExportOptions(**{field.name: given[field.name] for field in fields(ExportOptions)})
    return bundle_from_checkpoint(
        Path(checkpoint), _prompts(prompts), Path(out), options, force=force, progress=progress
    )


def embed_prompts(checkpoint: Path | str, prompts: Prompts | Path | str) -> PromptBank:
    """Compute each phrase's tensors once: a bank for any bundle of the same checkpoint, see ``PromptBank.save``.

    Args:
        checkpoint: A folder made by ``save_pretrained``.
        prompts: A prompts file (YAML), or its content.

    Raises:
        CheckpointError: Not a checkpoint of a known family.
        PromptError: A prompts file that cannot be used, or a phrase longer than the text encoder reads.
    """
    read = _prompts(prompts)
    return bank_from_prompts(family_from_checkpoint(Path(checkpoint)), read)


def _prompts(prompts: Prompts | Path | str) -> Prompts:
    return prompts if isinstance(prompts, Prompts) else prompts_from_yaml(Path(prompts))
