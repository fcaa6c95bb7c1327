"""medprompt: open-vocabulary medical detectors, from PyTorch to proven, torch-free detection.

::

    detector = medprompt.Detector.load("polyp.bundle")
    for found in detector("frame.jpg"):
        print(found.label, found.score, found.box_xyxy)

Each name is imported when it is first asked for: exporting, embedding and training need torch, the rest does without.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from medprompt.core.moved import find_moved_modules

if TYPE_CHECKING:
    from medprompt.benchmarks.accuracy.evaluation import evaluate_bundle as evaluate_bundle
    from medprompt.bundles.load import Bundle as Bundle
    from medprompt.bundles.load import load_bundle as load_bundle
    from medprompt.core.detections import Detection as Detection
    from medprompt.core.detections import Detections as Detections
    from medprompt.core.errors import BundleError as BundleError
    from medprompt.core.errors import EngineError as EngineError
    from medprompt.core.errors import ImageError as ImageError
    from medprompt.core.errors import InputError as InputError
    from medprompt.core.errors import MedpromptError as MedpromptError
    from medprompt.core.errors import ParityError as ParityError
    from medprompt.export.api import embed_prompts as embed_prompts
    from medprompt.export.api import export_bundle as export_bundle
    from medprompt.export.api import import_checkpoint as import_checkpoint
    from medprompt.export.compile.engine import compile_engine as compile_engine
    from medprompt.export.compile.options import CompileOptions as CompileOptions
    from medprompt.export.finetune.trainer import finetune as finetune
    from medprompt.images.read import load_image as load_image
    from medprompt.prompts.bank import PromptBank as PromptBank
    from medprompt.prompts.bank import load_bank as load_bank
    from medprompt.prompts.file import load_prompts as load_prompts
    from medprompt.prompts.schema import Prompts as Prompts
    from medprompt.results.run import Item as Item
    from medprompt.results.run import Run as Run
    from medprompt.runtime.detector import Detector as Detector
    from medprompt.runtime.infer import infer as infer
    from medprompt.runtime.selection.order import EngineChoice as EngineChoice
    from medprompt.runtime.verify import verify_bundle as verify_bundle

    __version__: str

# ONNX Runtime looks up its maker's telemetry host and keeps an id in the home folder unless this is set before its
# library is loaded; its own switch (``disable_telemetry_events``) comes too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_HOMES = {
    "benchmarks.accuracy.evaluation": "evaluate_bundle",
    "bundles.load": "Bundle load_bundle",
    "core.detections": "Detection Detections",
    "core.errors": "BundleError EngineError ImageError InputError MedpromptError ParityError",
    "export.api": "embed_prompts export_bundle import_checkpoint",
    "export.compile.engine": "compile_engine",
    "export.compile.options": "CompileOptions",
    "export.finetune.trainer": "finetune",
    "images.read": "load_image",
    "prompts.bank": "PromptBank load_bank",
    "prompts.file": "load_prompts",
    "prompts.schema": "Prompts",
    "results.run": "Item Run",
    "runtime.detector": "Detector",
    "runtime.infer": "infer",
    "runtime.selection.order": "EngineChoice",
    "runtime.verify": "verify_bundle",
}
"""Modules below this one, and the public names that each has. Text, so that importing the face imports none of them."""

_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = [*_HOME, "__version__"]

find_moved_modules()


def __getattr__(name: str) -> Any:
    """A public name, imported and kept."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version(__name__)
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
