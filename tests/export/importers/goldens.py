"""Golden sets: small checkpoints as other projects' code saved them, and what that code answered (random weights)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from medprompt.export.importers.run import ImportOptions

FOLDER = Path(__file__).parent / "goldens"
BERT = FOLDER / "tiny-bert"
IDEA, MMDET, OMDET = "idea-groundingdino", "mmdet-mm-groundingdino", "omdet-turbo"
FILES = {IDEA: "open_groundingdino_style.pth", MMDET: "epoch_1.pth", OMDET: "model_final.pth"}


@dataclass(frozen=True)
class Case:
    """One image and caption, and the reference's answers by name."""

    image: NDArray[np.uint8]
    stated: dict[str, Any]
    answers: dict[str, torch.Tensor]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the model's image."""
        side = self.stated.get("model_size")
        height, width = self.stated.get("img_shape") or self.stated.get("pixel_size_hw") or (side, side)
        return height, width

    @property
    def words(self) -> list[str]:
        """The class names."""
        named = self.stated.get("words") or self.stated.get("labels")
        return named or [part.strip() for part in self.stated["caption"].split(".") if part.strip()]


def source(name: str) -> Path:
    """The checkpoint file of a set."""
    return FOLDER / name / FILES[name]


def options(name: str, tokenizers: Path, **changes: Any) -> ImportOptions:
    """What its import needs; ``tokenizers`` is a folder for a tokenizer that is made."""
    if name == OMDET:
        given = {"tokenizer": clip(tokenizers), "config": FOLDER / OMDET / "config.json"}
    else:
        given = {"tokenizer": BERT, "config": None}
    return ImportOptions(**{**given, **changes})


def clip(folder: Path) -> Path:
    """CLIP's byte pairs with the first 600 merges, "!" (id 0) for padding."""
    lines = (FOLDER / OMDET / "bpe_small.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = [(one, other) for one, other in (line.split() for line in lines if line)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    tokens = [*letters, *ends, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="!", model_max_length=77).save_pretrained(folder)
    return folder


def cases(name: str) -> list[Case]:
    """All cases of a set."""
    answers = load_file(FOLDER / name / "golden.safetensors")
    return [
        Case(
            np.array(Image.open(FOLDER / "images" / stated["image"]).convert("RGB")),
            stated,
            {key.partition(".")[2]: tensor for key, tensor in answers.items() if key.startswith(f"case{number}.")},
        )
        for number, stated in enumerate(json.loads((FOLDER / name / "golden.json").read_text()))
    ]
