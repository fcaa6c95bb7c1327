"""Each family's graph, asked with a part of a bank, answers as with a bank that was embedded for that part.

The graph runs in PyTorch, for tracing it takes a minute a family; that the traced one is equal is tested elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError
from medprompt.core.manifest import Postprocess
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import OUTPUT_NAMES, DetectionGraph, input_specs, output_specs
from medprompt.export.parity.images import drawn_image
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts
from medprompt.runtime import Detector, EngineChoice, detect_by_best
from medprompt.runtime.engines.base import Engine
from tests.export.exported import TOP_K
from tests.runtime.bundles import make_manifest
from tests.tiny import TINY

CLASSES = {"RBC": ["red blood cell", "round disc"], "platelet": ["small purple platelet", "polyp", "nucleus"]}
PART = ["polyp", "round disc", "nucleus"]


def prompts(kept: list[str] | None = None) -> Prompts:
    """The task is given, for OmDet-Turbo's own one names the classes."""
    classes = [
        {"label": label, "phrases": [text for text in phrases if kept is None or text in kept]}
        for label, phrases in CLASSES.items()
    ]
    return Prompts.model_validate({"classes": classes, "task": "Detect cells."})


class InPytorch(Engine):
    """The graph that would be exported."""

    def __init__(self, family: Family) -> None:
        self.specs = input_specs(family)
        self.graph = DetectionGraph(family.core(), self.specs, family.preprocess(), Postprocess(top_k=TOP_K)).eval()

    @classmethod
    def available(cls) -> str:
        return ""

    @classmethod
    def open(cls, model: Any, threads: int | None = None) -> InPytorch:
        raise EngineError("It is made from a family, not from a file.")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            answers = self.graph(*(torch.tensor(feeds[spec.name]) for spec in self.specs))
        return {name: answer.numpy() for name, answer in zip(OUTPUT_NAMES, answers, strict=True)}

    def close(self) -> None:
        """Nothing to free."""


def detector(engine: Engine, bank: PromptBank, family: Family) -> Detector:
    """A detector over a family's graph."""
    manifest = make_manifest(
        inputs=input_specs(family),
        outputs=output_specs(TOP_K),
        preprocess=family.preprocess(),
        postprocess=Postprocess(top_k=TOP_K),
        encoder=bank.encoder,
    )
    return Detector(Bundle(Path("b"), manifest, bank, "0" * 64), engine, bank, EngineChoice("test", ""), 0.0)


def check_same(answer: Detections, wanted: Detections, tolerance: float = 1e-5) -> None:
    """Each detection has its like; by nearness, for nearly equal scores may swap places."""
    assert len(answer) == len(wanted) == TOP_K
    np.testing.assert_allclose(answer.scores, wanted.scores, atol=tolerance)
    theirs = list(wanted.rows())
    for mine in answer.rows():
        like = [other for other in theirs if near(mine, other, tolerance)]
        assert like, mine
        theirs.remove(like[0])


def near(mine: dict[str, Any], other: dict[str, Any], tolerance: float) -> bool:
    return (
        (mine["label"], mine["phrase"]) == (other["label"], other["phrase"])
        and abs(mine["score"] - other["score"]) <= tolerance + 1e-6
        and bool(np.allclose(mine["box_xyxy"], other["box_xyxy"], atol=0.1))
    )


@pytest.mark.parametrize("model_type", list(TINY))
def test_a_part_answers_as_a_bank_of_its_own(model_type: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    if model_type == "glip":
        pytest.skip("a bank of it is one caption, which is not taken apart")
    free = "grounding" in model_type
    family = family_from_checkpoint(tiny_checkpoint(model_type), (96, 128) if free else None)
    engine = InPytorch(family)
    whole, fresh = (bank_from_prompts(family, prompts(kept)) for kept in (None, PART))
    asked, alone = detector(engine, whole, family), detector(engine, fresh, family)
    image = drawn_image((90, 120), 1)
    answer = asked(image, PART)
    check_same(answer, alone(image))
    assert answer.phrases == ("round disc", "polyp", "nucleus")
    assert answer.labels == ("RBC", "platelet")
    plain = asked(image)
    np.testing.assert_array_equal(detect_by_best(asked, image, 3).scores, plain.scores)
    best = detect_by_best(asked, image, 1)
    assert len(best.phrases) == 2
    assert plain.phrases[plain.phrase_ids[0]] in best.phrases
    np.testing.assert_array_equal(best.scores, asked(image, best.phrases).scores)
