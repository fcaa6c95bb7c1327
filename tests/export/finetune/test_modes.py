"""What each mode of a run trains, and what it leaves as it was."""

import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from medprompt.core.errors import DataError, EngineError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.finetune import trainer
from medprompt.export.finetune.loop import training_arguments
from medprompt.export.finetune.modes import choose_weights, merge_adapters
from medprompt.export.finetune.recipe import recipe_from_yaml
from medprompt.export.finetune.run import family_from_run
from medprompt.export.finetune.trainer import finetune
from tests.export.finetune.drawn import PROMPTS, Killed, drawn_coco, killer, recipe_of
from tests.tiny import EACH

pytestmark = [
    # transformers' Trainer, peft and torch warn about their own defaults; none of it is ours to mend
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
UNUSED = (
    *("head.box_scales.1", "head.box_scales.2"),  # of GLIP: no drawn object is large enough for its coarser levels
    "mask_decoder.pixel_decoder.conv_layers.2",  # of SAM 3: one more than its pyramid has steps
    "mask_decoder.pixel_decoder.norms.2",
    "text_encoder.text_projection",  # and what only prompts of boxes, or another model, would read
    "text_encoder.projection",
    "geometry_encoder.",
)
PARTIAL = ("head", "prompt", "lora")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn_coco(tmp_path_factory.mktemp("data"))


def state_of(checkpoint):
    return family_from_checkpoint(checkpoint).model.state_dict()


def may_move(family, mode, name):
    if mode == "lora":
        return name.endswith(tuple(f".{end}.weight" for end in family.attention_projections))
    return name.startswith(family.head_prefixes if mode == "head" else family.text_prefixes)


@pytest.mark.parametrize("mode", PARTIAL)
@pytest.mark.parametrize("model_type", EACH)
def test_what_a_mode_trains_moves_and_all_else_stays_to_the_bit(model_type, mode, tiny_checkpoint, data, tmp_path):
    start = tiny_checkpoint(model_type)
    recipe = recipe_of(data, steps=3, mode=mode, decay_steps=0)
    result = finetune(start, PROMPTS, recipe, tmp_path / "out")
    family = family_from_checkpoint(start)
    before, after = family.model.state_dict(), state_of(result.checkpoint)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trainable = {name for name, _ in family.model.named_parameters() if may_move(family, mode, name)}
    assert len(trainable) >= 14
    assert {name for name in trainable if not name.startswith(UNUSED)} <= moved
    assert all(may_move(family, mode, name) for name in moved)
    stored, plain = load_file(result.checkpoint / "model.safetensors"), load_file(start / "model.safetensors")
    assert stored.keys() == plain.keys()


@pytest.mark.parametrize("model_type", EACH)
def test_a_merged_checkpoint_is_a_plain_one_that_answers_as_its_adapters_did(
    model_type, tiny_checkpoint, data, tmp_path
):
    family = family_from_checkpoint(tiny_checkpoint(model_type))
    choose_weights(family, recipe_of(data, mode="lora", lora_rank=2, lora_alpha=4))
    with torch.no_grad():
        for name, parameter in family.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    family.model.eval()
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    adapted = family.reference(image, ["red cell", "dot"])
    merge_adapters(family.model)
    assert not [name for name in family.model.state_dict() if "lora" in name or "base_layer" in name]
    family.model.save_pretrained(tmp_path / "merged")
    loaded, info = family.model_class().from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    family.model = loaded.eval()
    merged = family.reference(image, ["red cell", "dot"])
    torch.testing.assert_close(merged.logits, adapted.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", PARTIAL)
def test_a_killed_run_of_any_mode_ends_as_an_undisturbed_one(mode, tiny_checkpoint, data, tmp_path):
    start, recipe = tiny_checkpoint("owlvit"), recipe_of(data, mode=mode)
    whole = finetune(start, PROMPTS, recipe, tmp_path / "whole")
    with pytest.raises(Killed):
        finetune(start, PROMPTS, recipe, tmp_path / "killed", report=killer(3))
    resumed = finetune(start, PROMPTS, recipe, tmp_path / "killed")
    expected, got = state_of(whole.checkpoint), state_of(resumed.checkpoint)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-6, msg=name)
    assert resumed.measured == pytest.approx(whole.measured, abs=1e-3)
    family, step = family_from_run(start, tmp_path / "killed.run")
    assert step == 6
    for name, tensor in family.model.state_dict().items():
        torch.testing.assert_close(tensor, got[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("mode", ("full", *PARTIAL))
def test_gradients_are_clipped_in_every_mode(mode, tiny_checkpoint, data, tmp_path):
    lengths, counts = [], []

    def note(optimizer, args, kwargs):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
        lengths.append(float(torch.stack(gradients).norm()))
        counts.append(len(parameters))

    handle = register_optimizer_step_pre_hook(note)
    try:
        recipe = recipe_of(data, steps=2, mode=mode, max_grad_norm=0.01)
        finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe, tmp_path / "out")
    finally:
        handle.remove()
    assert lengths == pytest.approx([0.01, 0.01], rel=1e-3)
    assert counts == [{"full": 92, "head": 14, "prompt": 37, "lora": 32}[mode]] * 2


@pytest.mark.parametrize("mode", ("full", *PARTIAL))
def test_every_mode_learns(mode, tiny_checkpoint, data, tmp_path, monkeypatch):
    def told_often(recipe, work):
        arguments = training_arguments(recipe, work)
        arguments.logging_steps = 20
        return arguments

    monkeypatch.setattr(trainer, "training_arguments", told_often)
    rows = []
    recipe = recipe_of(data, data=[{"train": data}], steps=40, evaluate_every=40, mode=mode, learning_rate=3e-3)
    finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe, tmp_path / "out", report=rows.append)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert losses[1] < 0.75 * losses[0]  # 0.53, 0.57, 0.61 and 0.58 were seen


@pytest.mark.parametrize("mode", PARTIAL)
def test_every_mode_trains_in_bf16_and_saves_float32(mode, tiny_checkpoint, data, tmp_path):
    start = tiny_checkpoint("grounding-dino")
    result = finetune(start, PROMPTS, recipe_of(data, steps=2, mode=mode, precision="bf16"), tmp_path / "out")
    before, after = state_of(start), state_of(result.checkpoint)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_adapters_without_peft_say_what_to_install(tiny_checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EngineError, match="pip install 'peft"):
        finetune(tiny_checkpoint("owlvit"), PROMPTS, recipe_of(data, mode="lora"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_stands_above_the_recipe_file(data, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"data: [{{train: '{data}'}}]\nmode: head\nshots: 3\n")
    assert recipe_from_yaml(tmp_path / "recipe.yaml").mode == "head"
    changed = recipe_from_yaml(tmp_path / "recipe.yaml", {"mode": "lora"})
    assert (changed.mode, changed.shots, changed.lora_rank, changed.lora_alpha) == ("lora", 3, 8, 16)
    with pytest.raises(DataError, match="mode: expected 'full', 'head', 'prompt' or 'lora'"):
        recipe_from_yaml(tmp_path / "recipe.yaml", {"mode": "half"})
