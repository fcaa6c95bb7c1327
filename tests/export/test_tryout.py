"""What cannot run is refused in words, before the graph is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from medprompt.core.errors import CheckpointError, InputError, PromptError
from medprompt.core.manifest import Postprocess
from medprompt.export import bundle as bundle_module
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.families.owlv2 import Owlv2
from medprompt.export.graph.detection_graph import Normalise
from medprompt.export.parity.images import drawn_image
from medprompt.export.tryout import try_out
from medprompt.images.resize import resize_on_host
from medprompt.prompts.schema import Prompts
from tests.export.exported import loaded, prompts

IMAGE = drawn_image((96, 128), 1)
POST = Postprocess(top_k=8)


def edited(folder: Path, name: str, **changes: Any) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that comes to the graph has failed the test."""

    def reached(*_: Any) -> Any:
        raise AssertionError("the graph was exported")

    monkeypatch.setattr(bundle_module, "onnx_from_graph", reached)


def test_says_how_many_queries_answer(family: Family) -> None:
    queries = 64 if "Owl" in family.architecture else 252 if "Glip" in family.architecture else 20
    queries *= 2 if family.core_class.boxes_follow_phrases else 1
    assert try_out(family, bank_from_prompts(family, prompts(2, 2)), IMAGE) == queries


@pytest.mark.parametrize("broken", ["transformers", "graph"])
def test_says_which_of_the_two_fails(broken: str, owl: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("sizes of tensors\nand more")

    bank = bank_from_prompts(owl, prompts(2, 2))
    monkeypatch.setattr(type(owl), "reference" if broken == "transformers" else "core", fails)
    with pytest.raises(CheckpointError) as caught:
        try_out(owl, bank, IMAGE)
    assert ("transformers itself cannot run" in caught.value.problem) is (broken == "transformers")
    assert caught.value.got == "RuntimeError: sizes of tensors"


@pytest.mark.parametrize(
    ("model_type", "changes", "match"),
    [
        ("grounding-dino", {"embedding_init_target": False}, "transformers itself cannot run"),
        ("omdet-turbo", {"apply_layernorm_after_vision_backbone": True}, "transformers itself cannot run"),
        ("grounding-dino", {"two_stage": False}, "two_stage"),
    ],
)
@pytest.mark.usefixtures("no_graph")
def test_a_form_that_does_not_run_is_refused(
    model_type: str,
    changes: dict[str, Any],
    match: str,
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint(model_type), folder)
    edited(folder, "config.json", **changes)
    if "embedding_init_target" in changes:
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.query_position_embeddings.weight"]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    size_hw = (96, 128) if "grounding" in model_type else None
    with pytest.raises(CheckpointError, match=match):
        bundle_from_checkpoint(folder, prompts(2, 2), tmp_path / "b", ExportOptions(image_size=size_hw))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("shape", [(12, 4000), (4000, 12)])
@pytest.mark.usefixtures("no_graph")
def test_an_image_too_narrow_for_its_own_aspect_is_refused(
    shape: tuple[int, int], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "thin.png")
    with pytest.raises(InputError, match="too long and thin") as caught:
        bundle_from_checkpoint(
            tiny_checkpoint("grounding-dino"), prompts(2, 2), tmp_path / "b", ExportOptions(tmp_path / "thin.png")
        )
    assert "image_size=" in caught.value.fix


@pytest.mark.usefixtures("no_graph")
def test_a_text_longer_than_the_model_reads_is_refused(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    many = [{"label": letter, "phrases": [f"{letter} cell polyp"]} for letter in "abcdefghijklmnopq"]
    with pytest.raises(PromptError, match="ever read at once") as caught:
        bundle_from_checkpoint(
            tiny_checkpoint("grounding-dino"),
            Prompts.model_validate({"classes": many}),
            tmp_path / "b",
            ExportOptions(image_size=(96, 128)),
        )
    assert (caught.value.expected, caught.value.exit_code) == ("at most 64 tokens (max_text_len)", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_resize": False},
        {"resample": 5},
        {"do_center_crop": True},
        {"do_pad": True, "pad_size": {"height": 128, "width": 128}},
        {"resample": 4},
        {"resample": None},
    ],
)
def test_a_processor_that_does_something_else_is_refused(
    family: Family, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(family.processor.image_processor, name, value, raising=False)
    with pytest.raises(CheckpointError) as caught:
        family.preprocess()
    assert [name for name in changes if name in str(caught.value)]


@pytest.mark.parametrize("changes", [{"do_rescale": False}, {"do_normalize": False}, {"rescale_factor": 1 / 128}])
def test_a_step_left_out_is_left_out(family: Family, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(family.processor.image_processor, name, value)
    if isinstance(family, Owlv2) and "do_rescale" in changes:
        with pytest.raises(CheckpointError, match="leaves out a step"):
            family.preprocess()
        return
    if not (family.processor.image_processor.do_rescale or family.processor.image_processor.do_normalize):
        with pytest.raises(CheckpointError, match="both off: the model would be given integers"):
            family.preprocess()
        return
    size = dict(zip(("height", "width"), family.image_size.size_hw, strict=True))
    own = family.processor.image_processor(images=Image.fromarray(IMAGE), size=size, return_tensors="np")
    spec = family.preprocess()
    made = Normalise(spec)(torch.from_numpy(resize_on_host(IMAGE, spec))[None]).numpy()
    np.testing.assert_allclose(made, own["pixel_values"], rtol=0, atol=1e-5 * np.abs(made).max())


@pytest.mark.parametrize(
    ("model_type", "version", "nms_iou", "said"),
    [
        ("owlv2", "4.57.1", None, "padded images that are not square with grey"),
        ("owlv2", "4.35.0.dev0", None, "padded images that are not square with grey"),
        ("owlv2", None, None, "an unknown version"),
        ("owlv2", "5.0.0", None, ""),
        ("owlv2", "10.1", None, ""),
        ("owlvit", "4.57.1", None, ""),
        ("omdet-turbo", "5.0.0", None, "drops a box that overlaps a better one"),
        ("omdet-turbo", "5.0.0", 0.5, ""),
    ],
)
def test_what_a_reader_of_the_bundle_should_know(
    model_type: str,
    version: str | None,
    nms_iou: float | None,
    said: str,
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / model_type
    shutil.copytree(tiny_checkpoint(model_type), folder)
    edited(folder, "config.json", transformers_version=version)
    warnings = family_from_checkpoint(folder).warnings(POST.model_copy(update={"nms_iou": nms_iou}))
    assert [said in warning for warning in warnings] == [True] * bool(said)


@pytest.mark.parametrize(("model_type", "limit"), [("grounding-dino", 64), ("owlvit", None), ("omdet-turbo", None)])
def test_the_text_that_phrases_share_has_a_limit(
    model_type: str, limit: int | None, tiny_checkpoint: Callable[[str], Path]
) -> None:
    assert loaded(tiny_checkpoint(model_type)).max_text_tokens == limit


@pytest.mark.parametrize("text", ["polyp.png", "scans/Case 1.DCM", " lesion.jpeg "])
def test_an_image_is_no_phrase(text: str, owl: Family) -> None:
    with pytest.raises(PromptError, match="name of an image file"):
        owl.check_phrases(["polyp", text])
    owl.check_phrases(["polyp", "png of a polyp"])
