"""Does a bundle at its checkpoint's own image sizes decide as the checkpoint does? Decisions, AP and time, as tables.

``python -m medprompt.benchmarks.research.own_sizes CHECKPOINT --prompts P --data SET --work FOLDER`` resizes labelled
images and their boxes to ten shapes, and compares the bundle with PyTorch behind the checkpoint's own processor.
``--beside ROUNDS`` then times it beside a bundle that sees every image as the square of the short edge.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medprompt.benchmarks.latency.machine import describe_machine, format_machine
from medprompt.benchmarks.latency.timing import measure_latency
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import ParityError
from medprompt.core.manifest import Tolerance
from medprompt.core.markdown import markdown_table
from medprompt.core.outputs import replaced_whole
from medprompt.data import DetectionSet, LabelledImage, read_detection_set
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.parity.reference import reference_detections
from medprompt.images.read import load_image
from medprompt.images.resize import model_hw
from medprompt.metrics.agreement import check_decisions
from medprompt.metrics.coco import measure_accuracy
from medprompt.prompts.file import prompts_from_yaml
from medprompt.prompts.schema import Prompts
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines import engine_class
from medprompt.runtime.selection.order import EngineChoice

SHAPES_HW = (
    *((240, 320), (320, 240), (256, 256), (199, 301), (100, 400)),
    *((400, 100), (97, 131), (333, 500), (150, 90), (480, 641)),
)
TOLERANCE = Tolerance(min_kept=0.995)
MOST_AP = 0.001
HEADS = ("checkpoint", "engine", "kept", "extra", "largest Δscore", "AP in PyTorch", "ΔAP", "holds")


def mixed_set(labelled: DetectionSet, count: int) -> tuple[list[NDArray[np.uint8]], DetectionSet]:
    """The first images uint8 ``[H, W, 3]`` of a set, stretched in turn to the ten shapes, and their labels."""
    images, entries = [], []
    for number, entry in enumerate(labelled.images[:count]):
        image, moved = stretched(entry, SHAPES_HW[number % len(SHAPES_HW)])
        images.append(image)
        entries.append(moved)
    return images, DetectionSet(labelled.name, labelled.labels, tuple(entries))


def stretched(entry: LabelledImage, size_hw: tuple[int, int]) -> tuple[NDArray[np.uint8], LabelledImage]:
    """One labelled image at another size; outlines are left out."""
    (height, width), (old_height, old_width) = size_hw, entry.size_hw
    resized = Image.fromarray(load_image(entry.path)).resize((width, height), Image.Resampling.BILINEAR)
    factor = np.array([width / old_width, height / old_height] * 2, dtype=np.float32)
    names = ("boxes_xyxy", "held_out_xyxy", "ignored_xyxy")
    boxes = {name: getattr(entry, name) * factor for name in names}
    return np.asarray(resized), replace(entry, size_hw=size_hw, areas=None, outlines=(), ignored_outlines=(), **boxes)


def with_edges(checkpoint: Path, out: Path, edges: tuple[int, int]) -> Path:
    """A copy of a checkpoint whose image processor keeps the aspect ratio: short edge, and longest that is allowed."""
    if not out.is_dir():
        with replaced_whole(out) as folder:
            shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
            file = folder / "processor_config.json"
            stated = json.loads(file.read_text(encoding="utf-8"))
            stated["image_processor"]["size"] = {"shortest_edge": edges[0], "longest_edge": edges[1]}
            file.write_text(json.dumps(stated), encoding="utf-8")
    return out


def exported(checkpoint: Path, prompts: Prompts, out: Path) -> Path:
    """The bundle, made where it is not there yet."""
    if not out.is_dir():
        bundle_from_checkpoint(checkpoint, prompts, out, ExportOptions())
    return out


def rows_of(
    checkpoint: Path,
    bundle: Path,
    prompts: Prompts,
    images: Sequence[NDArray[np.uint8]],
    labelled: DetectionSet,
    devices: Sequence[str],
) -> list[tuple[str, ...]]:
    """A line of the table an engine, see ``HEADS``."""
    manifest = load_bundle(bundle).manifest
    post, threshold = manifest.postprocess, manifest.default_threshold
    family = family_from_checkpoint(checkpoint)
    wanted = [reference_detections(family, image, prompts, post) for image in images]
    exact = measure_accuracy(labelled, wanted)
    rows: list[tuple[str, ...]] = []
    for device in devices:
        found = _answers(bundle, device, images)
        record = check_decisions(list(zip(wanted, found, strict=True)), threshold, TOLERANCE, "mixed", post.top_k)
        change = measure_accuracy(labelled, found).ap - exact.ap
        holds = record.passed and abs(change) <= MOST_AP
        rows.append(
            (
                *(checkpoint.parent.name, device, f"{record.kept:.2%} of {record.decisions}", f"{record.extra}"),
                *(f"{record.max_score_delta:.1e}", f"{exact.ap:.4f} (AP50 {exact.ap50:.4f})", f"{change:+.5f}"),
                "yes" if holds else "NO",
            )
        )
    return rows


def _answers(bundle: Path, device: str, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    with Detector.load(bundle, device, threshold=0.0) as detector:
        return [detector(image) for image in images]


def time_beside(bundle: Path, images: Sequence[NDArray[np.uint8]], device: str, rounds: int) -> Mapping[str, Any]:
    """The bundle, and itself with a square for every image, in turn: milliseconds an image, ratios of time and pixels.

    Both run the same graph, whose size is free.
    """
    shown, own = images[: len(SHAPES_HW)], load_bundle(bundle)
    spec = own.manifest.preprocess
    one_size = spec.model_copy(update={"sizes": "one", "own_size": None})
    square = replace(own, manifest=own.manifest.model_copy(update={"preprocess": one_size}))
    engine = engine_class(device).open(own.model)
    pixels = [sum(int(np.prod(model_hw(_hw(image), each))) for image in shown) for each in (one_size, spec)]
    with engine:
        both = {
            name: Detector(each, engine, own.bank, EngineChoice(device, "asked for"), own.manifest.default_threshold)
            for name, each in (("square", square), ("own", own))
        }
        report = measure_latency({name: partial(_all, each, shown) for name, each in both.items()}, rounds)
    milliseconds = {name: float(np.median(one.wall_ms)) / len(shown) for name, one in report.series.items()}
    return {"ms": milliseconds, "time": str(report.ratio("own")), "pixels": pixels[1] / pixels[0]}


def _all(detector: Detector, images: Sequence[NDArray[np.uint8]]) -> None:
    for image in images:
        detector(image)


def _hw(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables.

    Raises:
        ParityError: An engine does not hold.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--data", required=True, help="labelled images, such as bccd:val")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is made; its name names the rows")
    parser.add_argument("--edges", type=int, nargs=2, default=(192, 320), help="short edge, longest edge")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--devices", nargs="+", default=["ort-cpu", "openvino"])
    parser.add_argument("--beside", type=int, default=0, metavar="ROUNDS", help="time it beside the square one instead")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    prompts = prompts_from_yaml(args.prompts)
    checkpoint = with_edges(args.checkpoint, args.work / "checkpoint", tuple(args.edges))
    own = exported(checkpoint, prompts, args.work / "own.bundle")
    labelled = read_detection_set(args.data).relabelled([entry.label for entry in prompts.classes])
    images, stretched_set = mixed_set(labelled, args.count)
    if args.beside:
        for device in args.devices:
            print(args.work.name, device, json.dumps(time_beside(own, images, device, args.beside)))
        print(format_machine(describe_machine()))
        return
    rows = rows_of(checkpoint, own, prompts, images, stretched_set, args.devices)
    print("\n".join(markdown_table(HEADS, rows)))
    if any(row[-1] != "yes" for row in rows):
        raise ParityError("A bundle decides otherwise at its checkpoint's own sizes.")


if __name__ == "__main__":
    run_command(main)
