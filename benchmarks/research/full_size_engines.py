"""What engines of published sizes need: size, build time and GPU memory of one image and of eight, without a GPU.

Run it as ``python -m medprompt.benchmarks.research.full_size_engines --out FOLDER``. Each family is made with random
weights, exported, asked on CPU engines, and compiled in fp32 and with every block in fp16, which is what ``auto``
chooses where it can. No decision is measured, which is the longest part of an export: ``full_size`` does that.
Grounding DINO and GLIP take images of one size here, as an engine for several at a time does.

Each step is a process of its own. Its figures are written to ``FOLDER/figures.json`` when it ends, and a run that was
stopped goes on with the step that it was in.
"""

from __future__ import annotations

import argparse
import shutil
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.steps import Step, measure_steps, print_steps

FAMILIES = ("owlvit", "owlv2", "omdet-turbo", "grounding-dino", "mm-grounding-dino", "glip", "glip-l")
SIDE = dict.fromkeys(("grounding-dino", "mm-grounding-dino", "glip", "glip-l"), 800)
"""Of the image, where families leave it open."""
PHRASES = ("red blood cell", "white blood cell", "platelet", "purple nucleus")
GPUS = ("sm86", "sm89", "sm120")
PRECISIONS = ("fp32", "fp16")
DEVICES = ("ort-cpu", "openvino")
MAX_BATCH = 8


def make_bundle(work: Path, family: str) -> dict[str, Any]:
    """Checkpoint and bundle, its half model too; the checkpoint is not kept."""
    from medprompt.benchmarks.research.full_size_checkpoints import full_size_checkpoint
    from medprompt.benchmarks.research.unproven import write_half, write_unproven
    from medprompt.export.bundle import ExportOptions
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.embed import bank_from_prompts
    from medprompt.export.tryout import try_out
    from medprompt.prompts.schema import Prompts

    checkpoint, bundle = work / f"{family}-checkpoint", work / f"{family}.bundle"
    shutil.rmtree(bundle, ignore_errors=True)  # of a run that was stopped
    full_size_checkpoint(family, checkpoint)
    options = ExportOptions(image_size=(SIDE[family], SIDE[family]) if family in SIDE else None)
    loaded = family_from_checkpoint(checkpoint, options.image_size)
    classes = [{"label": text, "phrases": [text]} for text in PHRASES]
    bank = bank_from_prompts(loaded, Prompts.model_validate({"classes": classes}))
    queries = try_out(loaded, bank, np.zeros((480, 640, 3), dtype=np.uint8))
    facts = write_unproven(loaded, bank, queries, checkpoint, bundle, options)
    half = write_half(bundle)
    shutil.rmtree(checkpoint)
    return {"nodes": facts.nodes, "megabytes": round(facts.bytes / 1e6), "fp16 megabytes": _size_on_disk(half)}


def detect(work: Path, family: str, device: str) -> dict[str, Any]:
    """Seconds of one uint8 ``[480, 640, 3]`` on a CPU engine after a first one: by the clock, and of the CPU."""
    from medprompt.runtime.detector import Detector

    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with Detector.load(work / f"{family}.bundle", device, threshold=0.0, self_test=False) as detector:
        detector(image)
        began, cpu_s = time.perf_counter(), time.process_time()
        found = detector(image)
        return {"s": round(time.perf_counter() - began, 1), "cpu s": round(time.process_time() - cpu_s, 1)} | {
            "detections": len(found)
        }


def compile_for(work: Path, family: str, precision: str) -> dict[str, Any]:
    """One engine of two profiles: one image, and up to ``MAX_BATCH``."""
    from medprompt.export.compile.engine import compile_engine
    from medprompt.export.compile.options import CompileOptions

    bundle = work / f"{family}.bundle"
    made = compile_engine(bundle, CompileOptions("trt-rtx", precision, GPUS, max_batch=MAX_BATCH))
    memory = {f"MiB, {one.batch.most} images": round((one.activation_bytes or 0) / 2**20) for one in made.profiles}
    return {"megabytes": sum(_size_on_disk(bundle / name) for name in made.files), **memory}


def steps() -> dict[str, Step]:
    """What is done, in order."""
    found: dict[str, Step] = {}
    for family in FAMILIES:
        found[f"{family}, export"] = partial(make_bundle, family=family)
        for device in DEVICES:
            found[f"{family}, {device}"] = partial(detect, family=family, device=device)
        for precision in PRECISIONS:
            found[f"{family}, {precision}"] = partial(compile_for, family=family, precision=precision)
    return found


def _size_on_disk(path: Path) -> int:
    """Megabytes of a file, and of the weights beside an ONNX file."""
    beside = path.with_name(f"{path.name}.data")
    return round(sum(one.stat().st_size for one in (path, beside) if one.is_file()) / 1e6)


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.full_size_engines", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder; each family needs about 2 GB")
    parser.add_argument("--families", default=",".join(FAMILIES))
    args = parser.parse_args()
    chosen = product(args.families.split(","), ("export", *DEVICES, *PRECISIONS))
    names = [f"{family}, {step}" for family, step in chosen]
    module = "medprompt.benchmarks.research.full_size_engines"
    print_steps(f"trt-rtx for {', '.join(GPUS)}", measure_steps(module, names, args.out))


if __name__ == "__main__":
    run_command(_main)
