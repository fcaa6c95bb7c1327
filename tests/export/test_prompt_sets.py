"""Each family's real graph, asked with a part of a bank, answers as with a bank that was embedded for that part."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from medprompt.bundle import Bundle
from medprompt.detections import Detections
from medprompt.export.embed import bank_from_prompts
from medprompt.export.golden import drawn_image
from medprompt.export.graph import input_specs, output_specs
from medprompt.export.resize_front import with_resize_front
from medprompt.manifest import Postprocess
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import Prompts
from medprompt.runtime import Detector, EngineChoice, detect_by_best
from medprompt.runtime.engines import engine_class
from tests.export.exported import TOP_K, Exported
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


@contextmanager
def detector(made: Exported, bank: PromptBank, resized: Path | None = None) -> Iterator[Detector]:
    """On ONNX Runtime; ``resized`` is a copy of the model whose graph resizes."""
    inputs, spec, path = input_specs(made.family), made.family.preprocess(), made.path
    if resized is not None:
        shutil.copy(made.path, resized)
        path = resized
        inputs, spec = with_resize_front(path, path, inputs, spec)
    manifest = make_manifest(
        inputs=inputs,
        outputs=output_specs(TOP_K),
        preprocess=spec,
        postprocess=Postprocess(top_k=TOP_K),
        encoder=bank.encoder,
    )
    engine = engine_class("ort-cpu").open(path, 1)
    with Detector(Bundle(path, manifest, bank, "0" * 64), engine, bank, EngineChoice("ort-cpu", ""), 0.0) as made_ready:
        yield made_ready


def check_same(answer: Detections, wanted: Detections, tolerance: float = 1e-5) -> None:
    """By score, for equal scores may swap places."""
    assert len(answer) == len(wanted) == TOP_K
    np.testing.assert_allclose(answer.scores, wanted.scores, atol=tolerance)
    ours, theirs = (
        sorted((row["label"], row["phrase"], *np.round(row["box_xyxy"], 1)) for row in one.rows())
        for one in (answer, wanted)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[:2] == other[:2]
        assert mine[2:] == pytest.approx(other[2:], abs=0.11)


@pytest.mark.parametrize("model_type", list(TINY))
def test_a_part_answers_as_a_bank_of_its_own(model_type: str, tiny_export: Callable[[str], Exported]) -> None:
    made = tiny_export(model_type)
    whole, fresh = (bank_from_prompts(made.family, prompts(kept)) for kept in (None, PART))
    image = drawn_image((90, 120), 1)
    with detector(made, whole) as asked, detector(made, fresh) as alone:
        answer = asked(image, PART)
        check_same(answer, alone(image))
        assert answer.phrases == ("round disc", "polyp", "nucleus")
        assert answer.labels == ("RBC", "platelet")
        plain = asked(image)
        np.testing.assert_array_equal(detect_by_best(asked, image, 3).scores, plain.scores)
        best = detect_by_best(asked, image, 1)
        assert len(best.phrases) == 2
        check_same(best, asked(image, best.phrases))
        winner = plain.phrases[plain.phrase_ids[0]]
        assert winner in best.phrases


def test_a_graph_that_resizes_answers_alike(tiny_export: Callable[[str], Exported], tmp_path: Path) -> None:
    made = tiny_export("owlvit")
    whole = bank_from_prompts(made.family, prompts())
    images = [drawn_image(size_hw, 1) for size_hw in ((90, 120), (64, 200))]
    with detector(made, whole) as host, detector(made, whole, tmp_path / "resized.onnx") as graph:
        assert graph.manifest.preprocess.placement == "graph"
        for image, one in zip(images, graph.batch(images, PART), strict=True):
            check_same(one, host(image, PART), 1e-3)
            check_same(detect_by_best(graph, image, 1), detect_by_best(host, image, 1), 1e-3)
