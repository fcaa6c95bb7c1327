"""The decisions of a model file against reference detections: the runtime's own Detector on ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, missing_extra
from medprompt.core.manifest import ParityRecord, Tolerance
from medprompt.export.graph.onnx_export import write_onnx
from medprompt.export.parity.images import ParityImages
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import Engine
from medprompt.runtime.engines.phrase_chunks import PhraseChunks
from medprompt.runtime.selection.order import EngineChoice

DEVICE = "ort-cpu"


class ModelDetector(Detector):
    """A bundle's detector on another model file than the bundle's own.

    It serves ``bank``, or the bundle's own prompts where None.

    Raises:
        EngineError: ONNX Runtime is not installed, or refuses the model.
    """

    def __init__(self, bundle: Bundle, model: Path, bank: PromptBank | None = None, threads: int | None = None) -> None:
        check_measurable()
        engine: Engine = engine_class(DEVICE).open(model, threads)
        most = bundle.manifest.postprocess.phrases_at_once
        engine = engine if most is None else PhraseChunks(engine, bundle.manifest.inputs, most)
        super().__init__(bundle, engine, bank or bundle.bank, EngineChoice(DEVICE, "to measure a precision"), 0.0)


def check_measurable() -> None:
    """Refuse a choice of precision that could not be measured.

    Raises:
        EngineError: ONNX Runtime is not installed.
    """
    if engine_class(DEVICE).available():
        raise missing_extra("Choosing a precision by parity", "onnxruntime", "cpu")


class DecisionMeasure:
    """``measure(model_path)``: the decisions of a model file on a fixed set of images.

    ``references`` are the detections on the images, all K.
    """

    def __init__(
        self, bundle: Bundle | Path, images: ParityImages, references: Sequence[Detections], tolerance: Tolerance
    ) -> None:
        self.bundle = load_bundle(bundle)
        self.images = images
        self.references = list(references)
        self.tolerance = tolerance

    def __call__(self, model: Path) -> ParityRecord:
        """Run the model; one that returns NaN or Inf finds nothing."""
        with ModelDetector(self.bundle, model) as detector:
            found = [detect_or_none(detector, *pair) for pair in zip(self.images, self.references, strict=True)]
        manifest = self.bundle.manifest
        pairs = list(zip(self.references, found, strict=True))
        top_k = manifest.postprocess.top_k
        return check_decisions(pairs, manifest.default_threshold, self.tolerance, self.images.source, top_k)

    def on_some(self, limit: int) -> DecisionMeasure:
        """The same on at most ``limit`` of the images, evenly spread; itself where there are no more."""
        count = len(self.images)
        if count <= limit:
            return self
        indices = [(2 * index + 1) * count // (2 * limit) for index in range(limit)]
        items = tuple(self.images.items[position] for position in indices)
        some = ParityImages(items, f"{limit} of {self.images.source}")
        return DecisionMeasure(self.bundle, some, [self.references[position] for position in indices], self.tolerance)


def measured_aside(model: Any, measure: DecisionMeasure) -> ParityRecord:
    """The decisions of an ONNX model that is in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, path)
        return measure(path)


def detect_or_none(detector: Detector, image_rgb: NDArray[np.uint8], reference: Detections) -> Detections:
    """A detector's detections; none where it returned NaN or Inf."""
    try:
        return detector(image_rgb)
    except EngineError:  # half overflowed to NaN or Inf: a finding about the precision, not a failure of the search
        return reference[reference.scores > 1]
