"""Questions about images to a visual-question-answering or image-text-to-text model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprompt.export.prompt_tuning.folder import folder_fingerprint, loaded, loaded_processor, model_type_of_folder
from medprompt.generation.answers import Answer

NEW_TOKENS = 12
"""Maximum number of tokens of a written answer: a word or two is expected."""

BRIEFLY = "Answer with one or two words."
"""Asked of chat models, which else answer in sentences."""

WANTED = "a visual-question-answering or image-text-to-text model"


class VisualQA:
    """A model that picks one of its answers (ViLT), or writes one (BLIP, LLaVA and other chat models).

    Attributes:
        fingerprint: SHA-256 (16 hex digits) of the model folder.
    """

    def __init__(self, model: Any, processor: Any, fingerprint: str) -> None:
        self.model, self.processor, self.fingerprint = model, processor, fingerprint

    @torch.no_grad()
    def answer(self, images_rgb: Sequence[NDArray[np.uint8]], questions: Sequence[str]) -> tuple[Answer, ...]:
        """Answer one question for each image (uint8 ``[H, W, 3]``, of any sizes).

        Returns:
            The best answer of each, with the probability of its class, or of its tokens together.
        """
        inputs = self._inputs([Image.fromarray(image) for image in images_rgb], questions)
        return self._written(inputs) if self.model.can_generate() else self._picked(inputs)

    def _inputs(self, images: list[Image.Image], questions: Sequence[str]) -> Any:
        if getattr(self.processor, "chat_template", None):
            texts = [self.processor.apply_chat_template(_turn(q), add_generation_prompt=True) for q in questions]
            return self.processor(images=[[image] for image in images], text=texts, padding=True, return_tensors="pt")
        return self.processor(images=images, text=list(questions), padding=True, return_tensors="pt")

    def _picked(self, inputs: Any) -> tuple[Answer, ...]:
        chances = self.model(**inputs).logits.float().softmax(-1)
        names = self.model.config.id2label
        return tuple(Answer(str(names[int(row.argmax())]), float(row.max())) for row in chances)

    def _written(self, inputs: Any) -> tuple[Answer, ...]:
        made = self.model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        tokens = made.sequences[:, -len(made.scores) :]
        scores = torch.stack([step.float().log_softmax(-1) for step in made.scores], dim=1)
        chances = scores.gather(-1, tokens[..., None])[..., 0]
        kept = _up_to_end(tokens, _ids(self.model.generation_config.eos_token_id))
        totals = chances.masked_fill(~kept, 0.0).sum(-1).exp()
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return tuple(Answer(text.strip(), float(total)) for text, total in zip(texts, totals, strict=True))


def _turn(question: str) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": f"{question} {BRIEFLY}"}]
    return [{"role": "user", "content": content}]


def _ids(value: int | Sequence[int] | None) -> list[int]:
    return [value] if isinstance(value, int) else list(value or [])


def _up_to_end(tokens: Tensor, ends: list[int]) -> Tensor:
    """Bool ``[B, T]``: tokens up to the first end token, which counts too; padding after it does not."""
    is_end = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype))
    return (is_end.cumsum(-1) - is_end.long()) == 0


def visual_qa_from_folder(folder: Path) -> VisualQA:
    """Load a model that answers questions about images, and its processor, from where ``save_pretrained`` put them.

    Raises:
        CheckpointError: Another kind of model, damaged or missing weights, or no processor.
    """
    from transformers import AutoModelForImageTextToText, AutoModelForVisualQuestionAnswering, AutoProcessor
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES,
    )

    answering, writing = MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    model_type = model_type_of_folder(folder, {*answering, *writing}, WANTED)
    auto_class = AutoModelForVisualQuestionAnswering if model_type in answering else AutoModelForImageTextToText
    processor = loaded_processor(AutoProcessor, folder)
    if getattr(processor, "tokenizer", None) is not None and auto_class is AutoModelForImageTextToText:
        processor.tokenizer.padding_side = "left"  # a decoder goes on from the last token
    return VisualQA(loaded(auto_class, folder, WANTED), processor, folder_fingerprint(folder))
