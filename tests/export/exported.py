"""Tiny checkpoints as exported graphs, and inputs for them: shared by the tests of every step after the export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.checkpoint_files import model_type_of
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families import FAMILIES, family_class
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import DetectionGraph, input_specs, output_specs
from medprompt.export.graph.onnx_export import OnnxFacts, onnx_from_graph
from medprompt.export.parity.images import drawn_image
from medprompt.images.resize import resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.schema import Prompts
from tests.export.traces import Export

TOP_K = 8
FREE_SIZE = ("GroundingDinoForObjectDetection", "MMGroundingDinoForObjectDetection", "GlipForObjectDetection")
PHRASES = ("red blood cell", "white blood cell", "small purple platelet", "round disc", "nucleus", "polyp")


SLOW = ("glip", "mm-grounding-dino", "sam3", "sam3_lite_text")
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in sorted(FAMILIES)]
"""The families, for fixtures that export each. The graphs of GLIP and SAM 3 take a minute to trace; MM-Grounding DINO's
is that of Grounding DINO but for its heads."""


@dataclass(frozen=True)
class Exported:
    family: Family
    graph: DetectionGraph
    path: Path
    facts: OnnxFacts


def prompts(phrases: int, classes: int) -> Prompts:
    """The first phrases, dealt out to classes in turn."""
    rows: list[dict[str, Any]] = [{"label": f"class {i}", "phrases": []} for i in range(classes)]
    for index, text in enumerate(PHRASES[:phrases]):
        rows[index % classes]["phrases"].append(text)
    return Prompts.model_validate({"classes": rows})


def loaded(folder: Path) -> Family:
    """A tiny family; where the size is free, one that its coarsest map can be normed at."""
    free = family_class(model_type_of(folder)).architecture in FREE_SIZE
    return family_from_checkpoint(folder, (96, 128) if free else None)


def exported(folder: Path, path: Path, opset: int = 20, export: Export = onnx_from_graph) -> Exported:
    family = loaded(folder)
    specs = input_specs(family)
    graph = DetectionGraph(family.core(), specs, family.preprocess(), Postprocess(top_k=TOP_K)).eval()
    return Exported(family, graph, path, export(graph, specs, output_specs(TOP_K), path, opset))


def feeds_of(family: Family, phrases: int, classes: int, batch: int) -> dict[str, NDArray[Any]]:
    bank = bank_from_prompts(family, prompts(phrases, classes))
    images = [resize_on_host(drawn_image((90, 120), seed), family.preprocess()) for seed in range(batch)]
    return {"image": np.stack(images), **prompt_inputs(bank, input_specs(family))}
