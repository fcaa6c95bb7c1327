"""What Triton's Python backend loads: a bundle that answers requests of the contract."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError, EngineError, InputError, MedpromptError
from medprompt.images.resize import check_image
from medprompt.runtime.detector import Detector
from medprompt.runtime.selection.order import EngineChoice
from medprompt.runtime.selection.selftest import check_golden, failed_self_test, tolerance_of_device
from medprompt.runtime.serving.contract import (
    BANKS,
    BUNDLE_SHA256,
    ENGINE,
    OWN_BANK,
    VERSION,
    Asked,
    asked_from_parameters,
    outputs_from_detections,
)
from medprompt.runtime.serving.pictures import Content, images_of_tensors, picture_from_bytes
from medprompt.runtime.serving.prompting import Prompting, banks_by_name
from medprompt.runtime.serving.triton.config import BANK_FOLDER, BUNDLE, GRAPH, PRECISION, THREADS
from medprompt.runtime.serving.triton.graph import TritonGraph
from medprompt.runtime.serving.triton.transport import Utils, arrays_of_request, check_transport, tensors_of_arrays


@dataclass(frozen=True)
class Question:
    """One request, read: its images, uint8 ``[H, W, 3]`` each, and what to look for."""

    images: list[NDArray[np.uint8]]
    asked: Asked


class DetectorModel:
    """Triton's model class. Triton makes it and calls its three methods, one at a time."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load and prove; Triton is ready only once this returned.

        Where another backend computes the graph, the first request proves it: Triton asks no other model while it
        loads.

        Raises:
            MedpromptError: The bundle, an engine or the transport of arrays cannot be trusted; Triton reports it and
                does not serve the model.
        """
        self._utils = triton_utils()
        check_transport(self._utils)
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = settings_of_config(json.loads(args["model_config"]))
        bundle = _bundle(folder, settings)
        names = [name for name in json.loads(settings[BANKS]) if name != OWN_BANK]
        banks = banks_by_name(bundle, [folder / BANK_FOLDER / Path(name).name for name in names])
        self._detector = self._opened(bundle, settings)
        self._prompting = Prompting(self._detector, banks)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each with its detections or its own error."""
        questions = [self._question(request) for request in requests]
        return [self._response(answer) for answer in self._answers(questions)]

    def finalize(self) -> None:
        """Free the engine."""
        self._prompting.close()
        self._detector.close()

    def _opened(self, bundle: Bundle, settings: Mapping[str, str]) -> Detector:
        self._unproven: Detector | None = None
        if GRAPH not in settings:
            threads = int(settings[THREADS]) if settings.get(THREADS) else None
            return Detector.load(bundle, settings[ENGINE], threads=threads, self_test=True)
        graph = TritonGraph(self._utils, settings[GRAPH], bundle.manifest.inputs, bundle.manifest.outputs)
        device, precision = settings[ENGINE], settings[PRECISION]
        records = (one for one in bundle.manifest.engines if (one.device, one.precision) == (device, precision))
        choice = EngineChoice(device, "Triton computes the graph", record=next(records, None))
        self._tolerance = tolerance_of_device(bundle, device, precision)
        self._unproven = Detector(bundle, graph, bundle.bank, choice, threshold=0.0)
        return Detector(bundle, graph, bundle.bank, choice)

    def _prove(self) -> None:
        """Run the golden images through another backend's graph, once.

        Raises:
            ParityError: It decides otherwise than PyTorch did at export: it never answers.
        """
        if self._unproven is not None:
            bundle, device = self._unproven.bundle, self._unproven.choice.device
            record = check_golden(bundle, self._unproven, self._tolerance)
            if not record.passed:
                raise failed_self_test(device, record)
            self._unproven = None

    def _question(self, request: Any) -> Question | MedpromptError:
        try:
            asked = asked_from_parameters(json.loads(request.parameters() or "{}"))
            self._prompting.detector(asked)
            return Question(pixels_of_arrays(arrays_of_request(self._utils, request), asked.frame), asked)
        except MedpromptError as error:
            return error

    def _answers(self, questions: Sequence[Question | MedpromptError]) -> list[list[Detections] | MedpromptError]:
        """What was found for each; questions of the same prompts as one batch, and alone where that fails."""
        groups: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            if isinstance(question, Question):
                groups.setdefault(json.dumps(question.asked.as_parameters(), sort_keys=True), []).append(index)
        answers: dict[int, list[Detections] | MedpromptError] = {
            index: one for index, one in enumerate(questions) if isinstance(one, MedpromptError)
        }
        for indices in groups.values():
            group = [one for index in indices if isinstance(one := questions[index], Question)]
            answers.update(zip(indices, self._of_group(group), strict=True))
        return [answers[index] for index in range(len(questions))]

    def _of_group(self, group: Sequence[Question]) -> list[list[Detections] | MedpromptError]:
        images = [image for question in group for image in question.images]
        try:
            self._prove()
            found = iter(self._prompting.detector(group[0].asked).batch(images))
            return [[next(found) for _ in question.images] for question in group]
        except MedpromptError as error:
            return [error] if len(group) == 1 else [self._of_group([question])[0] for question in group]

    def _response(self, answer: list[Detections] | MedpromptError) -> Any:
        if isinstance(answer, MedpromptError):
            return self._utils.InferenceResponse(error=self._error(answer))
        return self._utils.InferenceResponse(tensors_of_arrays(self._utils, outputs_from_detections(answer)))

    def _error(self, error: MedpromptError) -> Any:
        """HTTP's 400 where the request errs, 500 where we do."""
        kind = self._utils.TritonError
        users = isinstance(error, InputError) and not isinstance(error, EngineError)
        return kind(str(error), kind.INVALID_ARG if users else kind.INTERNAL)


def triton_utils() -> Utils:
    """Triton's module, in its Python backend."""
    import triton_python_backend_utils

    return triton_python_backend_utils


def settings_of_config(config: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a model's configuration, as Triton hands it over."""
    return {name: value["string_value"] for name, value in config["parameters"].items()}


def _bundle(folder: Path, settings: Mapping[str, str]) -> Bundle:
    """The bundle that the configuration names: what clients are told is what serves."""
    if settings[VERSION] != version("medprompt"):
        raise InputError(
            "The repository was written by another medprompt.",
            where=str(folder),
            expected=settings[VERSION],
            got=version("medprompt"),
            fix="medprompt triton BUNDLE --out REPOSITORY --force",
        )
    bundle = load_bundle(folder / settings[BUNDLE])
    if bundle.sha256 != settings[BUNDLE_SHA256]:
        raise BundleError(
            "The repository was written for another bundle.",
            where=str(bundle.path),
            expected=f"sha256 {settings[BUNDLE_SHA256]}",
            got=f"sha256 {bundle.sha256}",
            fix="medprompt triton BUNDLE --out REPOSITORY --force",
        )
    return bundle


def pixels_of_arrays(arrays: Mapping[str, NDArray[Any]], frame: int | None = None) -> list[NDArray[np.uint8]]:
    """uint8 ``[H, W, 3]`` of each image of a request; ``frame`` is of a DICOM file, from 1.

    Raises:
        InputError: Not exactly one of the inputs, none of the contract's shape, or no image at all.
        ImageError: An image that may not be analysed; the text says which.
    """
    images = images_of_tensors(arrays)
    return [_pixels(image, place, frame) for place, image in enumerate(images, 1)]


def _pixels(image: Content, place: int, frame: int | None) -> NDArray[np.uint8]:
    """``place`` is which of the request's images it is, from 1: that is its name in errors."""
    if not isinstance(image, bytes):
        check_image(image)
        return image
    # JSON has no bytes, and Triton hands its texts over as they are: base64, which no image file is.
    with suppress(binascii.Error):
        image = base64.b64decode(image, validate=True)
    return picture_from_bytes(image, f"image {place}", frame).pixels
