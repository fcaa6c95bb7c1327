"""Bundles of random weights that nobody proves: what engines of their size cost is measured, not what they decide."""

from __future__ import annotations

from pathlib import Path

import onnx

from medprompt.bundles.load import load_bundle, write_manifest
from medprompt.export import bundle as exporting
from medprompt.export.compile.engine import model_name, model_of_precision
from medprompt.export.families import family_class
from medprompt.export.families.base import Family
from medprompt.export.graph.onnx_export import OnnxFacts
from medprompt.export.graph.parts_export import write_typed
from medprompt.export.precision.blocks import blocks_of_model
from medprompt.export.precision.cast import typed_model
from medprompt.prompts.bank import PromptBank

HALF = "fp16"


def write_unproven(
    family: Family, bank: PromptBank, queries: int, checkpoint: Path, folder: Path, options: exporting.ExportOptions
) -> OnnxFacts:
    """The graph, its bank and a manifest: what an export does before it proves anything.

    Args:
        family: Of the checkpoint.
        bank: The bundle's own.
        queries: Of an image and a phrase, at most.
        checkpoint: Its folder.
        folder: Of the bundle; made.
        options: What is exported; its precision and engine are left out.
    """
    folder.mkdir(exist_ok=True)
    manifest, facts = exporting._write_model(family, bank, queries, checkpoint, folder, options)
    write_manifest(folder, manifest)
    return facts


def write_half(folder: Path) -> Path:
    """Add the typed model with each free block in fp16: what ``--precision fp16`` makes.

    Returns:
        Its ONNX file.
    """
    manifest = load_bundle(folder).manifest
    model = onnx.load(str(model_of_precision(folder, "fp32")))
    blocks = blocks_of_model(model, family_class(manifest.family).blocks)
    path = folder / model_name(HALF)
    write_typed(typed_model(model, blocks, dict.fromkeys(blocks.free, HALF)), path)
    write_manifest(folder, manifest)
    return path
