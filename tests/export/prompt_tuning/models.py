"""Tiny models that are trained in the test: a BERT that knows a few facts, a ViLT that sees colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

FACTS = {
    "polyp": {"color": "pink", "shape": "oval", "location": "rectum"},
    "ulcer": {"color": "beige", "shape": "flat", "location": "foot"},
    "platelet": {"color": "purple", "shape": "round", "location": "blood"},
    "nodule": {"color": "white", "shape": "round", "location": "lung"},
    "mole": {"color": "brown", "shape": "irregular", "location": "skin"},
}
"""What the sentences say; "beige" is two tokens of the vocabulary below."""

SENTENCES = {
    "color": ["the typical color of {n} is {w} .", "a {n} is {w} in color .", "most {n} look {w} ."],
    "shape": ["the typical shape of {n} is {w} .", "a {n} is {w} in shape .", "seen from above a {n} is {w} ."],
    "location": ["the location of {n} is at {w} .", "a {n} is found in the {w} .", "doctors see a {n} in the {w} ."],
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COLORS = {"red": (210, 30, 30), "green": (30, 180, 40), "blue": (30, 50, 210), "yellow": (220, 210, 30)}


def word_tokenizer(texts: list[str], pieces: tuple[str, ...] = ()) -> Any:
    """A BERT tokenizer whose vocabulary is the texts' words, but for "beige", and the given pieces."""
    words = sorted({word for text in texts for word in text.lower().replace(".", " .").split()} - {"beige"})
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys([*SPECIAL, *words, *pieces, *letters]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=24, **names)


def sentences() -> list[tuple[str, str]]:
    """(sentence, its answer): the facts in several wordings, repeated with distractors before them."""
    openings = ["", "in general ", "as a rule ", "we know that ", "books say that ", "as seen here ", "often "]
    return [
        (opening + text.format(n=name, w=word), word)
        for name, facts in FACTS.items()
        for attribute, word in facts.items()
        for text in SENTENCES[attribute]
        for opening in openings
    ]


def trained_masked_lm(folder: Path, steps: int = 350) -> None:
    """Train a BERT of two layers on the sentences, masking parts of the answer and some other tokens."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    facts = sentences()
    tokenizer = word_tokenizer([text for text, _ in facts], ("bei", "##ge"))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=24,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    coded = tokenizer([text for text, _ in facts], padding=True, return_tensors="pt")
    ids, mask = coded["input_ids"], coded["attention_mask"]
    answers = [set(tokenizer(word, add_special_tokens=False)["input_ids"]) for _, word in facts]
    is_answer = torch.tensor([[int(t) in words for t in row] for row, words in zip(ids, answers, strict=True)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(ids), (48,))
        batch, chance = ids[rows], torch.rand(48, ids.shape[1])
        hidden = (is_answer[rows] & (chance < 0.7)) | ((batch > 4) & (chance < 0.1))
        labels = batch.masked_fill(~hidden, -100)
        inputs = batch.masked_fill(hidden, tokenizer.mask_token_id)
        loss = model(input_ids=inputs, attention_mask=mask[rows], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def shape_image(color: str, seed: int, side: int = 32) -> np.ndarray:
    """uint8 ``[side, side, 3]``: a filled disc or square of a colour on grey noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 150, (side, side, 1)).repeat(3, axis=2)
    rows, columns = np.mgrid[:side, :side]
    y, x, radius = (*rng.integers(10, side - 10, 2).tolist(), int(rng.integers(6, 10)))
    inside = (
        (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        if seed % 2
        else (abs(rows - y) < radius) & (abs(columns - x) < radius)
    )
    image[inside] = np.array(COLORS[color]) + rng.integers(-20, 20, 3)
    return image.clip(0, 255).astype(np.uint8)


def trained_vqa(folder: Path, steps: int = 150) -> None:
    """Train a ViLT of two layers to name the colour of a shape, and to answer "round" where the shape is asked."""
    from transformers import ViltConfig, ViltForQuestionAnswering, ViltImageProcessor, ViltProcessor

    torch.manual_seed(0)
    questions = ["What is the color of this bump?", "What is the shape of this bump?"]
    tokenizer = word_tokenizer([question.replace("?", " ?") for question in questions])
    labels = [*COLORS, "round"]
    config = ViltConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=24,
        image_size=32,
        patch_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
    model = ViltForQuestionAnswering(config)
    pictures = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    processor = ViltProcessor(pictures, tokenizer)
    colors = [list(COLORS)[n % 4] for n in range(96)]
    images = [Image.fromarray(shape_image(color, n)) for n, color in enumerate(colors)]
    pixels = pictures(images, return_tensors="pt")["pixel_values"]
    asked = tokenizer(questions, padding=True, return_tensors="pt")
    named = torch.tensor([labels.index(color) for color in colors])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(steps):
        rows, which = torch.randint(len(images), (24,)), torch.randint(2, (24,))
        logits = model(
            input_ids=asked["input_ids"][which],
            attention_mask=asked["attention_mask"][which],
            pixel_values=pixels[rows],
        ).logits
        wanted = torch.where(which == 0, named[rows], torch.tensor(labels.index("round")))
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
