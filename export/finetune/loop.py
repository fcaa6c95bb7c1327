"""The step loop: transformers' ``Trainer`` with samples in their own order and a slower text side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from medprompt.export.finetune.recipe import Recipe

MODEL_FILE = "model.safetensors"


class DetectionTrainer(Trainer):
    """Samples in their own order (they are a function of their number), and a slower text side."""

    def __init__(self, *args: Any, recipe: Recipe, text_prefixes: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = recipe
        self.text_prefixes = tuple(f"detector.{prefix}" for prefix in text_prefixes)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save as safetensors. The trainer's own way refuses tied weights (Grounding DINO's heads) here."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / MODEL_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.model, Path(resume_from_checkpoint) / MODEL_FILE)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW; no decay on norms, biases and embeddings, the text side at its own rate."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                key = (name.startswith(self.text_prefixes), parameter.ndim < 2 or "embedding" in name)
                groups.setdefault(key, []).append(parameter)
        text_rate = self.recipe.text_learning_rate
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "lr": self.recipe.learning_rate if text_rate is None or not text else text_rate,
                    "weight_decay": 0.0 if exempt else self.recipe.weight_decay,
                }
                for (text, exempt), parameters in groups.items()
            ],
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.99),
        )
        return self.optimizer


def training_arguments(recipe: Recipe, work: Path) -> TrainingArguments:
    """The recipe, its length in steps, in the trainer's own words."""
    return TrainingArguments(
        output_dir=str(work),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": recipe.decay_steps, "decay_type": "cosine", "min_lr_ratio": 0.01},
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        save_steps=recipe.save_every,
        save_total_limit=2,
        logging_steps=50,
        seed=recipe.seed,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
