"""SAM 3 at its published size: export, CPU engines with 1, 5 and 40 phrases, compiled engines, transformers' loop.

Run it as ``python -m medprompt.benchmarks.research.sam3_full_size --out FOLDER``. Weights are random, for the published
ones are gated. Each step is a process of its own, so that its peak memory is known, and its figures are written to
``FOLDER/figures.json`` when it ends: a run that was stopped goes on with the step that it was in. Times by the clock
need a machine without other work: ``--only`` does the steps of one kind alone.

The bundle is not proven on images, which takes an hour more: ``medprompt export`` does that. Other banks than its own
are asked, so nothing is exported again for them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.steps import Step, measure_steps, print_steps
from medprompt.core.files import write_json

PHRASES = (1, 5, 10, 40)
DEVICES = ("ort-cpu", "openvino")
GPUS = ("sm86", "sm89", "sm120")
LOOPED, AT_A_TIME = 10, 5
"""Phrases that transformers' loop asks, and in one step: five take minutes."""
SIZE_HW = (480, 640)
WORDS = ("red", "white", "purple", "pale", "round"), ("cell", "nucleus", "disc", "polyp", "bump", "spot", "dot", "body")


def texts(count: int) -> list[str]:
    """So many phrases, all different."""
    first, second = WORDS
    return [f"{first[index % len(first)]} {second[index % len(second)]}" for index in range(count)]


def make_checkpoint(work: Path) -> dict[str, Any]:
    """A checkpoint of random weights."""
    from medprompt.benchmarks.research.full_size_checkpoints import full_size_checkpoint

    full_size_checkpoint("sam3", work / "checkpoint")
    return {}


def make_banks(work: Path) -> dict[str, Any]:
    """A bank of each number of phrases."""
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.embed import bank_from_prompts
    from medprompt.prompts.bank import save_bank
    from medprompt.prompts.schema import Prompts

    family = family_from_checkpoint(work / "checkpoint")
    for count in PHRASES:
        classes = [{"label": text, "phrases": [text]} for text in texts(count)]
        save_bank(bank_from_prompts(family, Prompts.model_validate({"classes": classes})), _bank(work, count))
    return {}


def make_bundle(work: Path) -> dict[str, Any]:
    """The graph and its parts, with the smallest bank: what an export does before it proves anything.

    A part that an earlier run has traced is taken as it is.
    """
    from medprompt.benchmarks.research.unproven import write_unproven
    from medprompt.export import bundle as exporting
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.graph.onnx_export import OnnxFacts, onnx_from_graph
    from medprompt.prompts.bank import load_bank

    figures = {}

    def traced(graph: Any, inputs: Any, outputs: Any, path: Path, opset: int) -> OnnxFacts:
        kept = work / f"{path.stem}.json"
        if not kept.is_file():
            facts = onnx_from_graph(graph, inputs, outputs, path, opset)
            used = resource.getrusage(resource.RUSAGE_SELF)
            own = {"cpu s": round(used.ru_utime), "peak GiB": round(used.ru_maxrss / 2**20, 1)}
            write_json(kept, {"facts": asdict(facts), "so far": own})
        known = json.loads(kept.read_text(encoding="utf-8"))
        figures[path.stem] = known["so far"]
        return OnnxFacts(**known["facts"])

    exporting.onnx_from_graph = traced
    family, bank = family_from_checkpoint(work / "checkpoint"), load_bank(_bank(work, PHRASES[0]))
    queries, options = family.model.config.detr_decoder_config.num_queries, exporting.ExportOptions()
    facts = write_unproven(family, bank, queries, work / "checkpoint", work / "bundle", options)
    return {"nodes": facts.nodes, "megabytes": round(facts.bytes / 1e6), **figures}


def make_half(work: Path) -> dict[str, Any]:
    """The typed model of ``--precision fp16``, whose decisions nobody measures here."""
    from medprompt.benchmarks.research.unproven import write_half

    path = write_half(work / "bundle")
    return {"megabytes": round(path.with_name(f"{path.name}.data").stat().st_size / 1e6)}


def detect(work: Path, device: str, count: int) -> dict[str, Any]:
    """One image and a bank on a device: seconds of the image's part and of the phrases', by CPU and by clock."""
    from medprompt.prompts.bank import load_bank
    from medprompt.runtime.detector import Detector
    from medprompt.runtime.engines import engine_class

    engine, clocks = engine_class(device), {"image": Clock(), "phrases": Clock()}
    own = engine.run

    def timed(self: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with clocks["image" if "image" in feeds else "phrases"]:
            return own(self, feeds)

    engine.run = timed  # type: ignore[method-assign]
    bank, threads = load_bank(_bank(work, count)), _threads()
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    detector = Detector.load(work / "bundle", device, prompts=bank, threshold=0.0, threads=threads, self_test=False)
    with detector:
        found = detector(image)
    return {"detections": len(found), "threads": threads, **_seconds(clocks)}


def compile_for(work: Path, precision: str, phrases: int) -> dict[str, Any]:
    """An engine for so many phrases, of one file or two."""
    from medprompt.export.compile.engine import compile_engine
    from medprompt.export.compile.options import CompileOptions

    made = compile_engine(work / "bundle", CompileOptions("trt-rtx", precision, GPUS, max_phrases=phrases))
    sizes = [round((work / "bundle" / name).stat().st_size / 1e6) for name in made.files]
    return {"megabytes": sizes, "activation MiB": round((made.activation_bytes or 0) / 2**20)}


def ask_transformers(work: Path, asked: slice) -> dict[str, Any]:
    """Seconds of transformers' own loop: processor and model, once for each phrase of ``asked``.

    ``image`` is the image encoder's share, and ``phrases`` the rest of it: a loop that keeps the image's features, as
    transformers' documentation also shows it, saves the first for all phrases but one.
    """
    import torch
    from PIL import Image

    from medprompt.export.checkpoint import family_from_checkpoint

    torch.set_num_threads(_threads())
    family = family_from_checkpoint(work / "checkpoint")
    image = Image.fromarray(np.zeros((*SIZE_HW, 3), dtype=np.uint8))
    clocks, own = {"image": Clock(), "all": Clock()}, family.model.vision_encoder.forward

    def timed(*values: Any, **named: Any) -> Any:
        with clocks["image"]:
            return own(*values, **named)

    family.model.vision_encoder.forward = timed
    phrases = texts(LOOPED)[asked]
    for text in phrases:
        with clocks["all"], torch.no_grad():
            family.model(**family.processor(images=image, text=text, return_tensors="pt"))
    return {"phrases": len(phrases), "threads": _threads(), **_seconds(clocks)}


def steps() -> dict[str, Step]:
    """What is done, in order."""
    runs = {
        f"{device}, {count} phrases": partial(detect, device=device, count=count)
        for device, count in product(DEVICES, PHRASES)
    }
    builds = {
        f"trt-rtx {precision}, {count} phrases": partial(compile_for, precision=precision, phrases=count)
        for precision, count in product(("fp16", "fp32"), (16, 40))
    }
    loops = {
        f"transformers, phrases {first + 1} to {first + AT_A_TIME}": partial(
            ask_transformers, asked=slice(first, first + AT_A_TIME)
        )
        for first in range(0, LOOPED, AT_A_TIME)
    }
    first = {"checkpoint": make_checkpoint, "banks": make_banks, "export": make_bundle}
    return {**first, **runs, "fp16 model": make_half, **builds, **loops}


class Clock:
    """Sums the seconds spent within it, of the CPU (all threads) and of the clock."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time() - self._began[0]
        self.wall_s += time.perf_counter() - self._began[1]


def _seconds(clocks: Mapping[str, Clock]) -> dict[str, float]:
    each = {"cpu s": "cpu_s", "s": "wall_s"}
    return {
        f"{name} {unit}": round(getattr(clock, of), 1) for name, clock in clocks.items() for unit, of in each.items()
    }


def _threads() -> int:
    """What the command was told, see ``measured_process``."""
    return int(os.environ["OMP_NUM_THREADS"])


def _bank(work: Path, count: int) -> Path:
    return work / f"{count}.safetensors"


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.sam3_full_size", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder; it needs 16 GB")
    parser.add_argument("--only", default="", help="do the steps alone whose names begin so")
    parser.add_argument("--threads", type=int, default=1, help="of the steps that are done by this call")
    args = parser.parse_args()
    names = [name for name in steps() if name.startswith(args.only)]
    module = "medprompt.benchmarks.research.sam3_full_size"
    print_steps("SAM 3, full size", measure_steps(module, names, args.out, args.threads))


if __name__ == "__main__":
    run_command(_main)
