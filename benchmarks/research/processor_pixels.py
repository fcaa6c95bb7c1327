"""What the installed transformers' image processor makes of images: pixels, for ``image_processors --pixels``.

``python benchmarks/research/processor_pixels.py CLASS CHECKPOINT IMAGES.npz PIXELS.npz``, where another version of
transformers is installed; nothing of ours is imported. ``CLASS`` is such as ``Owlv2ImageProcessorFast``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import transformers
from PIL import Image


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="CLASS")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("pixels", type=Path)
    args = parser.parse_args()
    processor = getattr(transformers, args.name).from_pretrained(args.checkpoint)
    pictures = [Image.fromarray(image) for image in np.load(args.images).values()]
    made = [processor(images=one, return_tensors="pt")["pixel_values"][0].float().numpy() for one in pictures]
    np.savez(args.pixels, *made)
    print(f"transformers {transformers.__version__}: {type(processor).__name__}, {len(made)} images")


if __name__ == "__main__":
    main()
