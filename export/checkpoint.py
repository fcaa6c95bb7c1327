"""A Hugging Face folder in, a family with loaded weights out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from medprompt.core.errors import CheckpointError, InputError
from medprompt.export.checkpoint_files import (
    PROCESSOR_FILES,
    check_processor_files,
    config_of,
    json_table,
    model_type_of,
    refuse_unusable,
)
from medprompt.export.families import family_class
from medprompt.export.families.base import Family
from medprompt.export.families.image_processors import BACKENDS, check_settings
from medprompt.export.importers.tokenizer import refuse_missing_tokenizer
from medprompt.export.segmenters import SEGMENTERS, segmenter_class
from medprompt.export.segmenters.base import BoxSegmenter

ImageProcessor = Literal["pil", "torchvision"]
NAMED_BACKBONE = ("backbone", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone")
"""How config.json named a backbone up to transformers 4; transformers 5 asks the Hub about such a name."""


def family_from_checkpoint(
    folder: Path,
    size_hw: tuple[int, int] | None = None,
    *,
    image_processor: ImageProcessor | None = None,
    random_weights: bool = False,
) -> Family:
    """Load a checkpoint in float32, ready to encode, export and compare.

    Args:
        folder: A folder made by ``save_pretrained`` (model and processor).
        size_hw: Image height and width, for families whose size is free.
        image_processor: Which of transformers' image processors it is run with; None: the one that transformers
            chooses here, torchvision's where torchvision is installed.
        random_weights: Build the model from its config alone, to be trained.

    Raises:
        CheckpointError: See ``model_type_of`` and ``medprompt.export.weights.check_weights``; also weights that are
            damaged or quantised, no processor, or a tokenizer that does not fit the model.
        InputError: The image processor that was asked for is not there.
    """
    folder = Path(folder)
    model_type = model_type_of(folder)
    refuse_unusable(folder, random_weights)
    refuse_missing_tokenizer(folder)
    check_processor_files(folder)
    kind = family_class(model_type)
    with _quiet():
        # The model first: of a backbone that is named alone, transformers asks the Hub while it loads the processor.
        model = _load_model(folder, kind, random_weights)
        family = kind(model, _load_processor(folder, kind, image_processor), size_hw)
    family.check_tokenizer()
    return family


def segmenter_from_checkpoint(folder: Path) -> BoxSegmenter:
    """Load a checkpoint that makes masks of boxes in float32, ready to export and compare.

    Raises:
        CheckpointError: See ``family_from_checkpoint``.
    """
    kind = segmenter_class(model_type_of(folder, SEGMENTERS))
    refuse_unusable(folder, random_weights=False)
    with _quiet():
        return kind(_load_model(folder, kind, random_weights=False), kind.load_processor(folder))


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers would log about a loading, and its progress bars, are checked and said by us."""
    import transformers

    log = transformers.utils.logging
    level = log.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)


def _load_model(folder: Path, family: type[Family] | type[BoxSegmenter], random_weights: bool) -> Any:
    import torch

    from medprompt.export.weights import check_weights, weight_files

    model_class = family.model_class()
    if issubclass(family, Family):
        family.check_config(config_of(folder))
    config = _config_without_network(folder, model_class.config_class)
    if random_weights:
        return model_class(config or model_class.config_class.from_pretrained(folder))
    weight_files(folder)
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The weights cannot be loaded.",
            where=str(folder),
            got=f"{type(error).__name__}: {error}",
            fix=f"install the package that it names{': pip install timm' if 'timm' in str(error) else ''}"
            if isinstance(error, ImportError)
            else "copy the checkpoint again, or save it again with save_pretrained",
        ) from error
    beside = family.beside_prefixes if issubclass(family, Family) else ()
    check_weights(folder, model, report, beside)
    return model.eval()


def _config_without_network(folder: Path, config_class: Any) -> Any:
    """The config where it names a backbone of timm as transformers 4 wrote it; None where it is to be read as it is.

    transformers 5 would ask the Hub what the name means, whether or not it may go there.
    """
    stated = config_of(folder)
    name = stated.get("backbone")
    if not name or stated.get("backbone_config"):
        return None
    if not stated.get("use_timm_backbone", True):
        raise CheckpointError(
            "config.json names a backbone that lies elsewhere.",
            where=f"{folder / 'config.json'}: backbone",
            expected="backbone_config, with the backbone's own settings",
            got=str(name),
            fix="where the Hub can be reached: load the model with transformers 5 and save_pretrained(NEW_FOLDER)",
        )
    backbone = {"model_type": "timm_backbone", "backbone": name, **(stated.get("backbone_kwargs") or {})}
    rest = {key: value for key, value in stated.items() if key not in NAMED_BACKBONE}
    return config_class.from_dict({**rest, "backbone_config": backbone})


def _processor_fix(folder: Path) -> str:
    """What to do about a processor that transformers cannot load."""
    for name in PROCESSOR_FILES:
        table = json_table(folder / name) if (folder / name).is_file() else {}
        for stated in (table, table.get("image_processor") or {}):
            kind = stated.get("image_processor_type") if isinstance(stated, dict) else None
            if isinstance(kind, str) and kind.endswith("FeatureExtractor"):
                new = kind.replace("FeatureExtractor", "ImageProcessor")
                return f'transformers 5 has no {kind}: put "image_processor_type": "{new}" into {name}'
    return "save the processor beside the model with save_pretrained"


def _load_processor(folder: Path, family: type[Family], backend: ImageProcessor | None) -> Any:
    try:
        processor = family.load_processor(folder, **({} if backend is None else {"backend": backend}))
    except Exception as error:  # transformers raises many types for damaged folders
        raise CheckpointError(
            "The checkpoint's processor cannot be loaded.",
            where=str(folder),
            expected="processor_config.json or preprocessor_config.json, and the tokenizer's files",
            got=f"{type(error).__name__}: {error}".splitlines()[0][:300],
            fix=_processor_fix(folder),
        ) from error
    # Where it lacks one, transformers takes the other and says so in its log alone.
    got = processor.image_processor.backend
    if got != (backend or got) or got not in BACKENDS:
        raise InputError(
            "transformers has not this image processor here.",
            where="image_processor",
            expected=backend or " or ".join(BACKENDS),
            got=got,
            fix="install the torchvision that fits the installed torch"
            if backend == "torchvision"
            else "save the processor of transformers itself beside the model",
        )
    if family.processors and type(processor).__name__ not in family.processors:
        raise CheckpointError(
            "The processor is of another model.",
            where="processor_config.json or preprocessor_config.json: processor_class",
            expected=" or ".join(family.processors),
            got=type(processor).__name__,
            fix=f'put "processor_class": "{family.processors[0]}" there, or save the model\'s own processor beside it',
        )
    check_settings(processor.image_processor)
    return processor
