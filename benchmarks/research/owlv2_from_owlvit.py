"""A trained OWLv2, of the weights of a trained OWL-ViT: the two differ in their image processors.

``python -m medprompt.benchmarks.research.owlv2_from_owlvit OWLVIT OUT``. OWLv2's objectness head, which no decision
reads, stays random.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import transformers
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

from medprompt.core.errors import CheckpointError
from medprompt.core.outputs import replaced_whole

NEW = "objectness_head."


def owlv2_from_owlvit(checkpoint: Path, out: Path) -> Path:
    """Write the OWLv2 as a Hugging Face folder.

    Args:
        checkpoint: Folder of an OWL-ViT.
        out: The folder to make.

    Raises:
        CheckpointError: Weights of the OWL-ViT have no place in an OWLv2, or others are missing.
    """
    old = transformers.OwlViTForObjectDetection.from_pretrained(checkpoint)
    parts = {name: getattr(old.config, name).to_dict() for name in ("text_config", "vision_config")}
    model = transformers.Owlv2ForObjectDetection(
        transformers.Owlv2Config(**parts, projection_dim=old.config.projection_dim)
    )
    weights = {name.replace("owlvit.", "owlv2.", 1): tensor for name, tensor in old.state_dict().items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lost = [name for name in (*missing, *unexpected) if not name.startswith(NEW)]
    if lost:
        raise CheckpointError("The two models differ.", where=str(checkpoint), got=", ".join(lost))
    images = transformers.AutoProcessor.from_pretrained(checkpoint)
    stated = images.image_processor
    processor = transformers.Owlv2Processor(
        image_processor=Owlv2ImageProcessorPil(
            size=dict(stated.size), image_mean=stated.image_mean, image_std=stated.image_std
        ),
        tokenizer=images.tokenizer,
    )
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    owlv2_from_owlvit(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
