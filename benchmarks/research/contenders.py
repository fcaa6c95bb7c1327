"""A bundle against what a user would pick instead: the Hub's pipeline, PyTorch, and the whole model on other engines.

Run it as ``python -m medprompt.benchmarks.research.contenders --family owlv2 --images FOLDER --out FOLDER``; one family
a process. The checkpoint is of the published size with random weights: speed does not depend on them, agreement does.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml

from medprompt.benchmarks.latency.machine import check_threads
from medprompt.benchmarks.latency.measure import taking_turns
from medprompt.benchmarks.latency.processes import OWN_SCRIPT, measured_process
from medprompt.benchmarks.latency.reference_pipeline import ReferencePipeline, reference_family
from medprompt.benchmarks.latency.stages import peak_mib
from medprompt.benchmarks.latency.timing import measure_latency
from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.contender_steps import (
    Contender,
    Found,
    Image,
    OnnxForward,
    bundle_contender,
    hub_pipeline_contender,
    pytorch_contender,
    whole_model_onnx,
)
from medprompt.benchmarks.research.contenders_report import EAGER, ContendersReport, Runners
from medprompt.benchmarks.research.full_size import PHRASES
from medprompt.benchmarks.research.full_size_checkpoints import FULL_SIZE, full_size_checkpoint
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, InputError
from medprompt.core.files import write_json
from medprompt.core.manifest import Tolerance
from medprompt.core.progress import Progress, Silent
from medprompt.export.families.base import Family
from medprompt.images.read import find_images, load_image
from medprompt.metrics.agreement import check_decisions
from medprompt.runtime.detector import Detector

BEST = 100
"""PyTorch's best boxes of each image are looked for in everyone's answers. Random weights know no threshold."""

WHOLE_MODEL_ON = {
    "ONNX Runtime, whole model": "ort-cpu",
    "OpenVINO, whole model": "openvino",
    "OpenVINO bf16, whole model": "openvino-bf16",
}


def measure_contenders(
    bundle: Bundle,
    checkpoint: Path,
    images: Sequence[Image],
    work: Path,
    *,
    threads: int,
    rounds: int,
    without: Sequence[str] = (),
    max_seconds: float | None = None,
    progress: Progress | None = None,
) -> ContendersReport:
    """Load everyone, and time them in turn on the same images, batch 1, from a decoded array to boxes.

    Args:
        bundle: The bundle; every engine takes part whose parity passed at export.
        checkpoint: What it was made from.
        images: uint8 ``[H, W, 3]``, all of one size: the whole model is exported for it.
        work: Folder for the whole model's ONNX file.
        threads: CPU threads of each.
        rounds: Timed calls of each, after one that is not.
        without: Parts of names that are left out.
        max_seconds: See ``measure_latency``.
        progress: Told of each step.

    Raises:
        InputError: Images of several sizes, see also ``check_threads`` and ``reference_family``.
    """
    check_threads(threads)
    if len({image.shape for image in images}) != 1:
        raise InputError("The whole model is exported for one size of image.", got="several sizes", where="--images")
    progress = progress or Silent()
    torch.set_num_threads(threads)
    family = reference_family(bundle, checkpoint)
    with closing(Runners()) as runners:
        for name, load in _everyone(bundle, family, images[0], work, threads):
            if not any(part in name for part in without):
                progress.step(f"load {name}")
                runners.join(name, load, images)
        progress.step("time them in turn", rounds)
        latency = measure_latency(
            {name: taking_turns(contender, images) for name, contender in runners.contenders.items()},
            rounds,
            max_seconds=max_seconds,
            context={
                "family": bundle.manifest.family,
                "size_hw": list(bundle.manifest.preprocess.size_hw),
                "phrases": len(bundle.bank.prompts.texts),
                "threads": threads,
                "images": len(images),
            },
            after_round=progress.advance,
        )
        isolated = {
            name: np.array(contender.run_ms[-latency.rounds :])
            for name, contender in runners.contenders.items()
            if not contender.one_piece
        }
        return ContendersReport(latency, isolated, _kept(runners, images), runners, peak_mib())


def _everyone(
    bundle: Bundle, family: Family, image: Image, work: Path, threads: int
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Names, and how each is loaded; PyTorch in eager mode first."""
    texts = list(bundle.bank.prompts.texts)
    around = partial(ReferencePipeline, family, texts, 0.0, bundle.manifest.postprocess.nms_iou)
    yield EAGER, lambda: pytorch_contender(around())
    yield "PyTorch bf16 autocast", lambda: pytorch_contender(around(autocast=True))
    yield "torch.compile", lambda: _compiled(around(forward=torch.compile(family.model, dynamic=False)), image)
    yield "Hub pipeline", lambda: hub_pipeline_contender(family, texts, 0.0)
    path = work / "whole.onnx"
    for name, device in WHOLE_MODEL_ON.items():
        yield name, partial(_whole_model, around, family, image, path, device, threads)
    for record in bundle.manifest.engines:
        if record.parity and record.parity.passed:
            yield f"medprompt, {record.device}", partial(_bundle, bundle, record.device, threads)


def _compiled(pipeline: ReferencePipeline, image: Image) -> Contender:
    """What compiles in its first call has made it when it is loaded."""
    contender = pytorch_contender(pipeline)
    contender(image)
    return contender


def _whole_model(
    around: Callable[..., ReferencePipeline], family: Family, image: Image, path: Path, device: str, threads: int
) -> Contender:
    """The whole model on an engine; the first one exports it."""
    if device == next(iter(WHOLE_MODEL_ON.values())):
        whole_model_onnx(family, around().prepare(image), path)
    elif not path.is_file():
        raise EngineError("the whole model could not be exported")
    forward = OnnxForward(path, device, threads)
    contender = pytorch_contender(around(forward=forward))
    contender.close = forward.close
    contender.megabytes = path.stat().st_size / 1e6
    return contender


def _bundle(bundle: Bundle, device: str, threads: int) -> Contender:
    detector = Detector.load(bundle.path, device, threads=threads, threshold=0.0)
    contender = bundle_contender(detector)
    contender.megabytes = sum(path.stat().st_size for path in bundle.path.rglob("*.onnx*")) / 1e6
    return contender


def _kept(runners: Runners, images: Sequence[Image]) -> dict[str, float]:
    """Share of PyTorch's best boxes that each finds again, with their scores.

    Names are put aside: transformers makes those of Grounding DINO by a rule of its own. It lets [CLS] and [SEP] score
    there, too, which a bundle does not, so a bundle's share is low; its decisions are proven at export, on raw outputs.
    """
    reference = [_boxes_only(found, image)[:BEST] for found, image in zip(runners.found[EAGER], images, strict=True)]
    return {name: _share_found(reference, found, images) for name, found in runners.found.items()}


def _share_found(reference: Sequence[Detections], found: Sequence[Found], images: Sequence[Image]) -> float:
    predictions = [_boxes_only(one, image) for one, image in zip(found, images, strict=True)]
    return check_decisions(list(zip(reference, predictions, strict=True)), 0.0, Tolerance(), "images").kept


def _boxes_only(found: Found, image: Image) -> Detections:
    boxes, scores = found
    order = np.argsort(-scores, kind="stable")
    nothing = np.zeros(len(scores), dtype=np.int64)
    return Detections(boxes[order], scores[order], nothing, nothing, ("any",), ("any",), image.shape[:2])


def export_full_size(family: str, work: Path, images: Sequence[Path], threads: int, seed: int) -> tuple[Path, Path]:
    """Make a checkpoint of the published size and its bundle, the latter in a process of its own.

    Returns:
        Folders of checkpoint and bundle.
    """
    checkpoint, bundle, proof = work / "checkpoint", work / "bundle", work / "images"
    with suppress(FileNotFoundError):
        shutil.rmtree(work)
    proof.mkdir(parents=True)
    for image in images:
        shutil.copy(image, proof)
    full_size_checkpoint(family, checkpoint, seed)
    prompts = work / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"classes": [{"label": text, "phrases": [text]} for text in PHRASES]}))
    arguments = ("export", checkpoint, "--prompts", prompts, "--images", proof, "--out", bundle)
    measured_process([OWN_SCRIPT, *map(str, arguments)], threads)
    return checkpoint, bundle


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.contenders", description=__doc__)
    parser.add_argument("--family", required=True, choices=sorted(FULL_SIZE))
    parser.add_argument("--images", type=Path, required=True, help="a folder of images of one size")
    parser.add_argument("--count", type=int, default=2, help="images taken")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, bundle and FAMILY.json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, help="begin no further round after this long")
    parser.add_argument(
        "--without", action="append", default=[], help="part of a contender's name to leave out; repeats"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--json", action="store_true", help="print FAMILY.json too, and no table")
    parser.add_argument("--keep", action="store_true", help="keep checkpoint and bundle, and use those that are there")
    args = parser.parse_args()
    paths = find_images([args.images])[: args.count]
    work = args.out / args.family
    with Steps("contenders") as steps:
        if not (args.keep and (work / "bundle").is_dir()):
            steps.step("make and export the checkpoint")
            export_full_size(args.family, work, paths[:1], args.threads, args.seed)
        report = measure_contenders(
            load_bundle(work / "bundle"),
            work / "checkpoint",
            [load_image(path) for path in paths],
            work,
            threads=args.threads,
            rounds=args.rounds,
            without=args.without,
            max_seconds=args.max_seconds,
            progress=steps,
        )
    facts = report.as_json()
    write_json(args.out / f"{args.family}.json", facts)
    if not args.keep:
        shutil.rmtree(work)
    if args.json:
        print(json.dumps(facts))
        return
    table = report.table()
    print_table(table.title, table.columns, table.rows, table.caption)


if __name__ == "__main__":
    run_command(_main)
