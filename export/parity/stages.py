"""Where did the bundle part from PyTorch? The way from image to detections, compared stage by stage.

::

    processor ──► transformers' forward ──► decisions     the reference
    processor ──► core ──► decisions                      "core": the family's lean forward
    resize    ──► core ──► decisions                      "preprocess": medprompt's own resize
    resize    ──► graph, in torch                         "graph": top-K and pooling in the graph
    resize    ──► engine                                  the device's name: ONNX and the engine

Each line differs from the one above in one thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medprompt.core.detections import Detections
from medprompt.core.manifest import ParityRecord, Postprocess, Preprocess, Tolerance
from medprompt.export.families.base import Family, RawOutputs
from medprompt.export.graph.detection_graph import MASKS, OUTPUT_NAMES, DetectionGraph, input_specs
from medprompt.export.parity.reference import decide
from medprompt.images.resize import box_scale, resize_on_host
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.masks import source_masks


@dataclass(frozen=True)
class OutputError:
    """Index-wise absolute difference of one output, in its own unit.

    Rank swaps of near-equal proposals make it large without harm.
    """

    output: str
    maximum: float
    mean: float
    p99: float


@dataclass(frozen=True)
class Stages:
    """One image on the way through PyTorch, and the graph's raw outputs by name, ``B`` = 1."""

    reference: Detections
    core: Detections
    preprocess: Detections
    graph: Detections
    graph_outputs: dict[str, NDArray[Any]]


def stages_of_image(family: Family, bank: PromptBank, postprocess: Postprocess, image_rgb: NDArray[np.uint8]) -> Stages:
    """Run one image through every stage that lives in PyTorch, all K detections kept and none suppressed."""
    post = postprocess.model_copy(update={"nms_iou": None, "max_detections": None, "min_side": None, "end_pixels": 0.0})
    spec, size_hw = family.preprocess(), (image_rgb.shape[0], image_rgb.shape[1])
    feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, input_specs(family)).items()}
    graph = DetectionGraph(family.core(), input_specs(family), spec, post).eval()
    prompts = {name: tensor for name, tensor in feeds.items() if name != "phrase_to_class"}
    resized = torch.from_numpy(resize_on_host(image_rgb, spec))[None]

    def decided(raw: RawOutputs) -> Detections:
        return decide(raw, bank.prompts, post, spec, size_hw)

    with torch.no_grad():
        pixels, reference = _processor_pixels(family, image_rgb, bank)
        outputs = graph(resized, *(feeds[s.name] for s in input_specs(family)[1:]))
        named = {name: tensor.numpy() for name, tensor in zip((*OUTPUT_NAMES, MASKS), outputs, strict=False)}
        return Stages(
            reference=decided(reference),
            core=decided(graph.core(pixels, prompts)),
            preprocess=decided(graph.core(graph.normalise(resized), prompts)),
            graph=_detections_from_outputs(named, bank, post, spec, size_hw),
            graph_outputs=named,
        )


def _processor_pixels(
    family: Family, image_rgb: NDArray[np.uint8], bank: PromptBank
) -> tuple[torch.Tensor, RawOutputs]:
    """The pixels that the processor gave to the model, caught on their way, and the model's answer."""
    caught: list[torch.Tensor] = []

    def catch(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0])

    handle = family.image_module.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        raw = family.reference(image_rgb, bank.prompts.texts, bank.prompts.task)
    finally:
        handle.remove()
    return caught[0], raw


def _detections_from_outputs(
    outputs: dict[str, NDArray[Any]], bank: PromptBank, post: Postprocess, spec: Preprocess, size_hw: tuple[int, int]
) -> Detections:
    boxes = outputs["boxes_xyxy"][0] * np.array(box_scale(size_hw, spec) * 2, dtype=np.float32)
    ids = (outputs["class_ids"][0], outputs["phrase_ids"][0])
    least = post.mask_threshold
    masks = None if least is None else source_masks(outputs[MASKS][0], least, size_hw, spec)
    return Detections(boxes, outputs["scores"][0], *ids, bank.labels, bank.prompts.texts, size_hw, masks=masks)


def compare_stages(stages: Stages, threshold: float, tolerance: Tolerance) -> dict[str, ParityRecord]:
    """Compare each stage with the one above it, in the order of the data's way."""
    steps = {
        "preprocess": (stages.core, stages.preprocess),
        "core": (stages.reference, stages.core),
        "graph": (stages.preprocess, stages.graph),
    }
    top_k = len(stages.graph)
    return {name: check_decisions([pair], threshold, tolerance, "one image", top_k) for name, pair in steps.items()}


def output_errors(reference: dict[str, NDArray[Any]], candidate: dict[str, NDArray[Any]]) -> tuple[OutputError, ...]:
    """Index-wise differences of boxes, scores and masks, where there are any."""
    errors = []
    for name in ("boxes_xyxy", "scores", *([MASKS] if MASKS in reference else [])):
        delta = np.abs(reference[name].astype(np.float64) - candidate[name].astype(np.float64))
        errors.append(OutputError(name, float(delta.max()), float(delta.mean()), float(np.quantile(delta, 0.99))))
    return tuple(errors)
