"""What a user may run a checkpoint with, each as three steps: prepare an image, run the model, finish its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import nn

from medprompt.benchmarks.latency.reference_pipeline import ReferencePipeline
from medprompt.core.detections import Detections
from medprompt.export.families.base import Family
from medprompt.export.graph.onnx_export import exporting
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class

Image = NDArray[np.uint8]
Found = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes float32 ``[N, 4]`` (xyxy, source pixels) and scores float32 ``[N]``."""

OUTPUTS = ("logits", "pred_boxes", "decoder_class_logits", "decoder_coord_logits")
"""What post-processing reads of a model's output; a family has two of them."""


@dataclass
class Contender:
    """One way to detect.

    Attributes:
        prepare: From an RGB array to what the model takes.
        run: The model alone, its text encoder included where it has one.
        finish: From the model's output, its inputs and the image to boxes and scores.
        load_s: What loading it took, export and compilation included; a first call not.
        megabytes: Of its model's file.
        one_piece: Whether the steps cannot be timed apart; all of it is then ``run``.
        close: Frees its engine.
        run_ms: Time of ``run`` in each call so far.
    """

    prepare: Callable[[Image], Any]
    run: Callable[[Any], Any]
    finish: Callable[[Any, Any, Image], Found]
    load_s: float = 0.0
    megabytes: float | None = None
    one_piece: bool = False
    close: Callable[[], None] = lambda: None
    run_ms: list[float] = field(default_factory=list)

    def __call__(self, image: Image) -> Found:
        """Detect in an image, uint8 ``[H, W, 3]``."""
        inputs = self.prepare(image)
        began = time.perf_counter()
        outputs = self.run(inputs)
        self.run_ms.append((time.perf_counter() - began) * 1e3)
        return self.finish(outputs, inputs, image)


def pytorch_contender(pipeline: ReferencePipeline) -> Contender:
    """Transformers' processor and post-processing around a model, or around what stands in its place."""

    def finish(outputs: Any, inputs: Any, image: Image) -> Found:
        answer = pipeline.finish(outputs, inputs, image.shape[:2])
        return answer["boxes"].float().numpy(), answer["scores"].float().numpy()

    return Contender(pipeline.prepare, pipeline.forward, finish)


def hub_pipeline_contender(family: Family, texts: list[str], threshold: float) -> Contender:
    """``pipeline("zero-shot-object-detection")``: it runs the model once a label."""
    from transformers import pipeline

    processor = family.processor
    pipe = pipeline(
        "zero-shot-object-detection",
        model=family.model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )

    def run(picture: Picture.Image) -> Any:
        return pipe(picture, candidate_labels=texts, threshold=threshold)

    def finish(answers: Any, picture: Any, image: Image) -> Found:
        boxes = [[answer["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for answer in answers]
        scores = [answer["score"] for answer in answers]
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)

    return Contender(Picture.fromarray, run, finish, one_piece=True)


def bundle_contender(detector: Detector) -> Contender:
    """A bundle's own steps, as in ``Detector.__call__``."""
    args = detector.prompts.whole

    def finish(outputs: Any, feeds: Any, image: Image) -> Found:
        found: Detections = detector.detections(outputs, 0, image.shape[:2], args)
        return found.boxes_xyxy, found.scores

    return Contender(
        lambda image: detector.image_feeds([image]),
        lambda feeds: detector.outputs(feeds, args),
        finish,
        close=detector.close,
    )


def whole_model_onnx(family: Family, inputs: Any, path: Path) -> None:
    """Export a model as it is, text encoder inside, at the shapes of the given inputs: what exporters without us do.

    Args:
        family: The checkpoint.
        inputs: The processor's tensors.
        path: ONNX file to write; weights over 2 GB would lie beside it.
    """
    names = list(inputs)
    with exporting():
        made = family.model(**inputs)
        kept = [name for name in OUTPUTS if getattr(made, name, None) is not None]
        torch.onnx.export(
            _Positional(family.model, names, kept).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=names,
            output_names=kept,
            opset_version=20,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class _Positional(nn.Module):
    """A model that takes and gives tensors in order."""

    def __init__(self, model: nn.Module, names: list[str], kept: list[str]) -> None:
        super().__init__()
        self.model, self.names, self.kept = model, names, kept

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(**dict(zip(self.names, tensors, strict=True)))
        return tuple(outputs[name] for name in self.kept)


class OnnxForward:
    """A whole model's ONNX file on an engine, in the model's place.

    Args:
        path: See ``whole_model_onnx``.
        device: Engine, by medprompt's name: the same library with the same settings as a bundle gets.
        threads: CPU threads.

    Raises:
        EngineError: The engine refuses it.
    """

    def __init__(self, path: Path, device: str, threads: int) -> None:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        self._taken = {entry.name for entry in graph.input}
        self._engine = engine_class(device).open(path, threads)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The model's output, from the processor's tensors."""
        outputs = self._engine.run({name: inputs[name].numpy() for name in self._taken})
        return SimpleNamespace(**{name: torch.from_numpy(array) for name, array in outputs.items()})

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
