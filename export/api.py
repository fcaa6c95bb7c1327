"""What ``medprompt`` itself offers of this room: files in, bundle or bank out, every option by its name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

from medprompt.core.manifest import ImportRecord
from medprompt.core.outputs import folder_written_aside
from medprompt.core.progress import Progress
from medprompt.export.bundle import ExportOptions, ExportReport, bundle_from_checkpoint
from medprompt.export.checkpoint import ImageProcessor, family_from_checkpoint
from medprompt.export.compile.options import CompileOptions
from medprompt.export.embed import bank_from_prompts
from medprompt.export.imported import write_checkpoint
from medprompt.export.importers.run import ImportOptions
from medprompt.export.precision.apply import Precision
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import prompts_from_yaml
from medprompt.prompts.schema import Prompts


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
    top_k: int | None = None,
    threshold: float = 0.2,
    opset: int = 20,
    precision: Precision = "fp32",
    calibration: Path | str | None = None,
    engine: CompileOptions | None = None,
    tokenizer: Path | str | None = None,
    config: Path | str | None = None,
    weights: str | None = None,
    base: Path | str | None = None,
    tf32: bool = False,
    intended_use: str | None = None,
    about: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint and prove that the bundle decides as PyTorch does.

    Args:
        checkpoint: A folder made by ``save_pretrained``, or what ``import_checkpoint`` takes.
        prompts: A prompts file (YAML), or its content.
        out: The bundle to make.
        images: Images to compare on, best those that the model will see; drawn ones where None.
        image_size: Height and width of the model's image, for families whose size is free.
        image_processor: Which of transformers' image processors the bundle reproduces and is compared with: ``pil`` or
            ``torchvision``. None: the one that transformers chooses here, torchvision's where torchvision is installed.
        padding: What OWLv2's processor pads with: ``black`` as in transformers 5 (the default), or ``grey`` as in 4.
        resize: ``host`` or None; no graph resizes any more, and ``graph`` is refused.
        nms_iou: Non-maximum suppression of the runtime; None: off, or as the project of an imported checkpoint has it.
        top_k: Most detections an image; None: 300, or 32 of a family that makes masks.
        threshold: Default threshold of classes that have none, and of the parity check.
        opset: ONNX operator set.
        precision: Make a typed model beside the fp32 one.
        calibration: Images that ``int8`` and ``fp8`` are calibrated on.
        engine: Compile an engine as well, from the model of ``precision``.
        tokenizer: See ``import_checkpoint``, as for the next three.
        config: See there.
        weights: See there.
        base: See there.
        tf32: Prove the decisions with TF32 products too, and choose precisions under them; engines may then have them.
        intended_use: What the bundle is for, and what not; None: research only.
        about: What people state of the weights (JSON, ``medprompt.core.manifest.About``); None: the checkpoint's own
            ``about.json``, where it has one.
        force: Replace ``out`` if it exists.
        progress: Told about each step.

    Raises:
        InputError: A checkpoint, prompts file, image or option that cannot be used; nothing is written.
        ParityError: The exported model decides otherwise than PyTorch; nothing is written.
    """
    given = locals() | {
        "images": None if images is None else Path(images),
        "calibration": None if calibration is None else Path(calibration),
        "about": None if about is None else Path(about),
        "imported": _import_options(tokenizer, config, weights, base),
    }
    options = ExportOptions(**{field.name: given[field.name] for field in fields(ExportOptions)})
    return bundle_from_checkpoint(
        Path(checkpoint), _prompts(prompts), Path(out), options, force=force, progress=progress
    )


def import_checkpoint(
    checkpoint: Path | str,
    out: Path | str,
    *,
    tokenizer: Path | str | None = None,
    config: Path | str | None = None,
    weights: str | None = None,
    base: Path | str | None = None,
    force: bool = False,
) -> ImportRecord:
    """Turn a checkpoint that another project wrote into a folder of transformers; no file is run to read it.

    Args:
        checkpoint: A checkpoint file of another project, a folder with a PEFT adapter, or ``OWNER/NAME@COMMIT`` on the
            Hub.
        out: The folder to make.
        tokenizer: A folder with the tokenizer of the text model. A file needs it.
        config: The project's config, where the file does not hold it.
        weights: Which set of weights in a file, by its name there; None: the one that the project itself evaluates.
        base: The folder of the model that an adapter belongs to, where its config names none that is here.
        force: Replace ``out`` if it exists.

    Raises:
        CheckpointError: A file of no known format, one that its format does not explain to the last weight, or a
            config or tokenizer of another model; nothing is written.
    """
    options = _import_options(tokenizer, config, weights, base)
    inputs = [Path(checkpoint), *options.paths]
    with folder_written_aside(Path(out), "a checkpoint that medprompt imported", inputs=inputs, force=force) as folder:
        return write_checkpoint(Path(checkpoint), folder, options)


def _import_options(
    tokenizer: Path | str | None, config: Path | str | None, weights: str | None, base: Path | str | None
) -> ImportOptions:
    return ImportOptions(
        tokenizer=None if tokenizer is None else Path(tokenizer),
        config=None if config is None else Path(config),
        weights=weights,
        base=None if base is None else Path(base),
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
