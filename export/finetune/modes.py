"""Which weights a run trains: all of them, the heads, the text side, or low-rank additions to attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from medprompt.core.errors import missing_extra
from medprompt.export.families.base import Family
from medprompt.export.finetune.recipe import Recipe

DESCRIPTIONS = {
    "full": "every weight trained",
    "head": "decoder and heads trained, image and text encoders as they were",
    "prompt": "text side trained, image side, fusion and heads as they were",
    "lora": "low-rank adapters on the attention projections trained and merged, all else as it was",
}


def choose_weights(family: Family, recipe: Recipe) -> None:
    """Freeze what the recipe's mode does not train, in place; for ``lora`` put adapters in.

    Raises:
        EngineError: The mode is ``lora`` and peft is not installed.
    """
    if recipe.mode == "lora":
        _add_adapters(family, recipe)
    elif recipe.mode != "full":
        trained = family.head_prefixes if recipe.mode == "head" else family.text_prefixes
        for name, parameter in family.model.named_parameters():
            parameter.requires_grad_(name.startswith(trained))


def freeze(module: nn.Module) -> None:
    """Put parts of which nothing is trained into evaluation mode: batch norms keep their statistics, nothing drops out.

    A part without any parameter of its own does as the part around it does.
    """
    for child in module.children():
        parameters = list(child.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            freeze(child)
        elif parameters:
            child.eval()


def merge_adapters(model: Any) -> None:
    """Add low-rank adapters, if there are any, to the weights that they change, and take them out, in place."""
    if not any(name.endswith(".lora_A") for name, _ in model.named_modules()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())


def _add_adapters(family: Family, recipe: Recipe) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("Fine-tuning with mode: lora", "peft", "lora") from error
    ends = tuple(f".{name}" for name in family.attention_projections)
    targets = [
        name for name, module in family.model.named_modules() if isinstance(module, nn.Linear) and name.endswith(ends)
    ]
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=[f"0.{name}" for name in targets]
    )
    # In a plain module: of a transformers model peft asks for its input embeddings, and Grounding DINO cannot tell.
    inject_adapter_in_model(config, nn.Sequential(family.model))
