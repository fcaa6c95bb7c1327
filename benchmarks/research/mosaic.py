"""What tiles are worth: images laid side by side into one large image, detected in one piece and in tiles.

Run it as ``python -m medprompt.benchmarks.research.mosaic BUNDLE --data FOLDER:val --tile 640``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.accuracy.evaluation import reporting_thresholds
from medprompt.benchmarks.accuracy.predictions import own_labels
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import DataError
from medprompt.core.tiling import Tiling
from medprompt.data import DetectionSet, LabelledImage, read_detection_set
from medprompt.images.read import load_image
from medprompt.metrics.bootstrap import MatchedSet
from medprompt.metrics.quality import operating_point
from medprompt.runtime import Detector
from medprompt.runtime.strategies import Prompting, Tiled

SIDES = (1, 2, 3)
"""Images in a row and in a column of a mosaic."""


def mosaics(labelled: DetectionSet, side: int) -> Iterator[tuple[NDArray[np.uint8], LabelledImage]]:
    """Pictures of ``side`` × ``side`` images each, with their boxes; images that are left over are left out.

    Raises:
        DataError: Images of different sizes.
    """
    if len({image.size_hw for image in labelled.images}) != 1:
        raise DataError("A mosaic needs images of one size.", where=labelled.name)
    height, width = labelled.images[0].size_hw
    for start in range(0, len(labelled.images) - side**2 + 1, side**2):
        part = labelled.images[start : start + side**2]
        canvas = np.zeros((side * height, side * width, 3), dtype=np.uint8)
        boxes = []
        for index, image in enumerate(part):
            top, left = index // side * height, index % side * width
            canvas[top : top + height, left : left + width] = load_image(image.path)
            boxes.append(image.boxes_xyxy + np.array([left, top, left, top], dtype=np.float32))
        ids = np.concatenate([image.class_ids for image in part])
        yield canvas, LabelledImage(part[0].path, canvas.shape[:2], np.concatenate(boxes), ids)


def measure(
    labelled: DetectionSet, side: int, detect: Callable[[NDArray[np.uint8]], Detections], thresholds: Sequence[float]
) -> tuple[float, float, float]:
    """AP50, sensitivity and false positives an original image, over mosaics of a side."""
    pairs = [(detect(canvas), image) for canvas, image in mosaics(labelled, side)]
    made = DetectionSet(labelled.name, labelled.labels, tuple(image for _, image in pairs))
    matched = MatchedSet(made, [found for found, _ in pairs])
    once = np.ones((1, len(pairs)), dtype=np.int64)
    point = operating_point(matched.at_half, tuple(thresholds)).as_json()
    ap50 = matched.resample(once).estimates()["ap50"].value
    return ap50, point["sensitivity"], point["false_positives"] / (len(pairs) * side**2)


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.mosaic", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tile", type=int, required=True)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    bundle, labelled = load_bundle(args.bundle), read_detection_set(args.data)
    own = own_labels(bundle.bank, labelled)
    tiled = Tiled(Prompting(), Tiling(args.tile, args.overlap))
    rows = []
    with (
        Detector.load(bundle, args.device, labels=own, threshold=0.0, threads=1) as detector,
        Steps("mosaic") as steps,
    ):
        thresholds = reporting_thresholds(labelled.labels, detector)
        ways: dict[str, Callable[[NDArray[np.uint8]], Detections]] = {
            "one piece": detector,
            f"tiles of {args.tile}": lambda image: tiled.detect(detector, Path(), image),
        }
        for side in SIDES:
            for name, detect in ways.items():
                steps.step(f"{side} x {side}, {name}")
                figures = measure(labelled, side, detect, thresholds)
                rows.append((f"{side} x {side}", name, *(f"{value:.3f}" for value in figures)))
    columns = ("mosaic", "detected in", "AP50", "sensitivity", "false positives an original image")
    print_table(
        f"Mosaics of {labelled.name}", columns, rows, "sensitivity and false positives at the classes' thresholds"
    )


if __name__ == "__main__":
    run_command(_main)
