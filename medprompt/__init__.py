"""medprompt: open-vocabulary medical detectors, from PyTorch to proven, torch-free detection.

::

    detector = medprompt.Detector.load("polyp.bundle")
    for found in detector("frame.jpg"):
        print(found.label, found.score, found.box_xyxy)

Each name is imported when it is first asked for: exporting, embedding and training need torch, the rest does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medprompt.core.moved import find_moved_modules

if TYPE_CHECKING:
    from medprompt.benchmarks.accuracy.evaluation import evaluate_bundle
    from medprompt.bundles.load import Bundle, load_bundle
    from medprompt.core.detections import Detection, Detections
    from medprompt.core.errors import BundleError, EngineError, ImageError, InputError, MedpromptError, ParityError
    from medprompt.export.api import embed_prompts, export_bundle
    from medprompt.export.compile.engine import compile_engine
    from medprompt.export.compile.options import CompileOptions
    from medprompt.export.finetune.trainer import finetune
    from medprompt.images.read import load_image
    from medprompt.prompts.bank import PromptBank, load_bank
    from medprompt.prompts.file import Prompts
    from medprompt.prompts.file import prompts_from_yaml as load_prompts
    from medprompt.results.run import Item, Run
    from medprompt.runtime.detector import Detector
    from medprompt.runtime.infer import infer
    from medprompt.runtime.selection.order import EngineChoice
    from medprompt.runtime.verify import verify_bundle

    __version__: str

_HOME = {
    "Bundle": "bundles.load:Bundle",
    "BundleError": "core.errors:BundleError",
    "CompileOptions": "export.compile.options:CompileOptions",
    "Detection": "core.detections:Detection",
    "Detections": "core.detections:Detections",
    "Detector": "runtime.detector:Detector",
    "EngineChoice": "runtime.selection.order:EngineChoice",
    "EngineError": "core.errors:EngineError",
    "ImageError": "core.errors:ImageError",
    "InputError": "core.errors:InputError",
    "Item": "results.run:Item",
    "MedpromptError": "core.errors:MedpromptError",
    "ParityError": "core.errors:ParityError",
    "PromptBank": "prompts.bank:PromptBank",
    "Prompts": "prompts.file:Prompts",
    "Run": "results.run:Run",
    "compile_engine": "export.compile.engine:compile_engine",
    "embed_prompts": "export.api:embed_prompts",
    "evaluate_bundle": "benchmarks.accuracy.evaluation:evaluate_bundle",
    "export_bundle": "export.api:export_bundle",
    "finetune": "export.finetune.trainer:finetune",
    "infer": "runtime.infer:infer",
    "load_bank": "prompts.bank:load_bank",
    "load_bundle": "bundles.load:load_bundle",
    "load_image": "images.read:load_image",
    "load_prompts": "prompts.file:prompts_from_yaml",
    "verify_bundle": "runtime.verify:verify_bundle",
}
"""Public names, with the module below this one that has each. Text, so that importing the face imports none of them."""

__all__ = [
    "Bundle",
    "BundleError",
    "CompileOptions",
    "Detection",
    "Detections",
    "Detector",
    "EngineChoice",
    "EngineError",
    "ImageError",
    "InputError",
    "Item",
    "MedpromptError",
    "ParityError",
    "PromptBank",
    "Prompts",
    "Run",
    "__version__",
    "compile_engine",
    "embed_prompts",
    "evaluate_bundle",
    "export_bundle",
    "finetune",
    "infer",
    "load_bank",
    "load_bundle",
    "load_image",
    "load_prompts",
    "verify_bundle",
]

find_moved_modules()


def __getattr__(name: str) -> Any:
    """A public name, imported and kept."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version(__name__)
    elif name in _HOME:
        module, _, attribute = _HOME[name].partition(":")
        value = getattr(import_module(f"{__name__}.{module}"), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
