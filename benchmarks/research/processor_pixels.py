"""What the installed transformers' image processor makes of images: pixels, for ``image_processors --pixels``.

``python benchmarks/research/processor_pixels.py CLASS CHECKPOINT IMAGES.npz PIXELS.npz``, where another version of
transformers is installed; nothing of ours is imported. ``CLASS`` is such as ``Owlv2ImageProcessorFast``. Which
processor of which transformers made them is written beside the pixels, as ``processor``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
PROCESSOR = "processor"
"""Name of the array that says who made the pixels."""


def load_torchvision() -> None:
    """Import torchvision where it is installed, even if its compiled operators do not load.

    PyPI's wheels are built for CUDA and miss its libraries beside a CPU build of torch; importing them then fails where
    their Python code describes operators that nobody defined. No image processor uses one, so their names are enough.
    """
    try:
        import torchvision  # whether it loads
    except ImportError:
        return
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", NMS)
        import torchvision  # noqa: F401  # transformers then finds it loaded


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="CLASS")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("pixels", type=Path)
    args = parser.parse_args()
    load_torchvision()
    import transformers  # it looks for torchvision

    processor = getattr(transformers, args.name).from_pretrained(args.checkpoint)
    pictures = [Image.fromarray(image) for image in np.load(args.images).values()]
    made = [processor(images=one, return_tensors="pt")["pixel_values"][0].float().numpy() for one in pictures]
    name = f"{type(processor).__name__} of {transformers.__version__}"
    np.savez(args.pixels, *made, **{PROCESSOR: np.array(name)})
    print(f"{name}: {len(made)} images")


if __name__ == "__main__":
    main()
