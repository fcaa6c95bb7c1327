"""Do bundles see what the checkpoint's image processor makes? Decisions kept at the stage "preprocess", as a table.

``python -m medprompt.benchmarks.research.image_processors CHECKPOINT … --images FOLDER`` compares 20 images of mixed
sizes, drawn where no folder is given, with each of transformers' image processors (torchvision needed for its own).

Decisions are those of the prompts of ``--prompts``, else of two classes that random weights have to tell apart.

For the image processor of another transformers: ``--save images.npz`` writes the images, ``processor_pixels.py``, which
imports nothing of ours, has that transformers make pixels of them, and ``--pixels pixels.npz`` compares with those.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medprompt.benchmarks.research.processor_pixels import PROCESSOR, load_torchvision
from medprompt.core.detections import Detections
from medprompt.core.manifest import Postprocess, Tolerance
from medprompt.core.markdown import markdown_table
from medprompt.export.checkpoint import ImageProcessor, family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import Normalise, input_specs
from medprompt.export.parity.images import drawn_image
from medprompt.export.parity.reference import decide
from medprompt.export.parity.stages import stages_of_image
from medprompt.images.read import find_images, load_image
from medprompt.images.resize import resize_on_host
from medprompt.metrics.agreement import check_decisions
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import prompts_from_yaml
from medprompt.prompts.schema import Prompts

SIZES_HW = (
    *((240, 320), (320, 240), (480, 640), (640, 480), (256, 256), (199, 301), (97, 331), (331, 97), (64, 64)),
    *((600, 150), (150, 600), (360, 640), (640, 360), (1080, 1920), (400, 400), (50, 60), (33, 47), (500, 375)),
    *((375, 500), (41, 164)),
)
PROMPTS = Prompts.model_validate(
    {"classes": [{"label": "cell", "phrases": ["a cell", "blood"]}, {"label": "polyp", "phrases": ["polyp"]}]}
)
MIN_KEPT = 0.999
GREY = 0.5


def mixed_images(folder: Path | None) -> list[NDArray[np.uint8]]:
    """Twenty images uint8 ``[H, W, 3]`` of as many sizes: drawn, or those of a folder stretched to them."""
    if folder is None:
        return [drawn_image(size_hw, seed) for seed, size_hw in enumerate(SIZES_HW)]
    paths = find_images([folder])
    sources = [Image.fromarray(load_image(paths[index % len(paths)])) for index in range(len(SIZES_HW))]
    return [np.asarray(one.resize((width, height))) for one, (height, width) in zip(sources, SIZES_HW, strict=True)]


@dataclass(frozen=True)
class OtherPixels:
    """What another transformers' image processor made of the images, float32 ``[3, h, w]`` each, and its name."""

    processor: str
    images: Sequence[NDArray[np.float32]]


def pixels_of_file(path: Path) -> OtherPixels:
    """Read what ``processor_pixels`` wrote."""
    with np.load(path) as arrays:
        return OtherPixels(str(arrays[PROCESSOR]), [arrays[name] for name in arrays.files if name != PROCESSOR])


def row_of(
    name: str,
    family: Family,
    images: Sequence[NDArray[np.uint8]],
    threshold: float,
    pixels: OtherPixels | None = None,
    prompts: Prompts = PROMPTS,
) -> list[str]:
    """One line of the table: a checkpoint with one of its image processors.

    Args:
        name: Of the line.
        family: The checkpoint.
        images: uint8 ``[H, W, 3]``.
        threshold: Least score of a decision.
        pixels: What another transformers' image processor made of each.
        prompts: What is looked for.
    """
    bank, post = bank_from_prompts(family, prompts), Postprocess(top_k=20)
    if pixels is None:
        stages = [stages_of_image(family, bank, post, image) for image in images]
        pairs = [(one.core, one.preprocess) for one in stages]
    else:
        pairs = [_decided(family, bank, post, *pair) for pair in zip(images, pixels.images, strict=True)]
    record = check_decisions(pairs, threshold, Tolerance(min_kept=MIN_KEPT), "mixed sizes", 20)
    spec = family.preprocess()
    processor = pixels.processor if pixels else type(family.processor.image_processor).__name__
    return [
        name,
        family.architecture.removesuffix("ForObjectDetection"),
        f"{processor} ({spec.backend}, {spec.resample})",
        f"{record.kept:.2%} of {record.decisions}",
        f"{record.max_score_delta:.1e}",
        "yes" if record.passed else "NO",
    ]


@torch.no_grad()
def _decided(
    family: Family, bank: PromptBank, post: Postprocess, image: NDArray[np.uint8], pixels: NDArray[np.float32]
) -> tuple[Detections, Detections]:
    """What the model decides on given pixels, and on those of ``resize_on_host``."""
    spec, size_hw = family.preprocess(), (image.shape[0], image.shape[1])
    inputs = prompt_inputs(bank, input_specs(family))
    feeds = {name: torch.from_numpy(array) for name, array in inputs.items() if name != "phrase_to_class"}
    ours = Normalise(spec)(torch.from_numpy(resize_on_host(image, spec))[None])
    theirs = torch.from_numpy(pixels)[None]
    one, other = (decide(family.core()(seen, feeds), bank.prompts, post, spec, size_hw) for seen in (theirs, ours))
    return one, other


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--backends", nargs="+", default=["pil", "torchvision"], choices=["pil", "torchvision"])
    parser.add_argument("--images", type=Path, help="folder of real images")
    parser.add_argument("--prompts", type=Path, help="prompts file")
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument("--save", type=Path, help="write the images here, and end")
    parser.add_argument("--pixels", type=Path, help="what another transformers made of them")
    parser.add_argument("--padding", choices=["grey"], help="OWLv2: as transformers 4 padded")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    images, rows = mixed_images(args.images), []
    if args.save:
        np.savez(args.save, *images)
        return
    load_torchvision()
    pixels = pixels_of_file(args.pixels) if args.pixels else None
    prompts = prompts_from_yaml(args.prompts) if args.prompts else PROMPTS
    for checkpoint in args.checkpoints:
        backends: list[ImageProcessor] = args.backends
        for backend in backends:
            family = family_from_checkpoint(checkpoint, image_processor=backend)
            if args.padding:
                family.pad_with(GREY)
            rows.append(row_of(checkpoint.name, family, images, args.threshold, pixels, prompts))
    heads = ["Checkpoint", "Family", "Image processor", "Kept at preprocess", "Largest Δscore", "At least 99.9 %"]
    print("\n".join(markdown_table(heads, rows)))


if __name__ == "__main__":
    main()
