"""SAM 3 at its published size: export, CPU engines with 1, 5 and 40 phrases, compiled engines, transformers' loop.

Run it as ``python -m medprompt.benchmarks.research.sam3_full_size --out FOLDER``. Weights are random, for the published
ones are gated. Each step is a process of its own, so that its peak memory is known, and its figures are written to
``FOLDER/figures.json`` when it ends: a run that was stopped goes on with the step that it was in.

The bundle is not proven on images, which takes an hour more: ``medprompt export`` does that. Other banks than its own
are asked, so nothing is exported again for them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import describe_machine, format_machine
from medprompt.benchmarks.latency.processes import measured_process
from medprompt.benchmarks.research.command import run_command
from medprompt.core.files import write_json
from medprompt.core.terminal import print_table

PHRASES = (1, 5, 40)
DEVICES = ("ort-cpu", "openvino")
GPUS = ("sm86", "sm89", "sm120")
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
    from medprompt.bundles.load import write_manifest
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
    (work / "bundle").mkdir(exist_ok=True)
    family, bank = family_from_checkpoint(work / "checkpoint"), load_bank(_bank(work, PHRASES[0]))
    queries, options = family.model.config.detr_decoder_config.num_queries, exporting.ExportOptions()
    manifest, facts = exporting._write_model(family, bank, queries, work / "checkpoint", work / "bundle", options)
    write_manifest(work / "bundle", manifest)
    return {"nodes": facts.nodes, "megabytes": round(facts.bytes / 1e6), **figures}


def make_half(work: Path) -> dict[str, Any]:
    """The typed model of ``--precision fp16``, whose decisions nobody measures here."""
    import onnx

    from medprompt.bundles.load import load_bundle, write_manifest
    from medprompt.export.families.sam3.family import Sam3
    from medprompt.export.graph.parts_export import write_typed
    from medprompt.export.precision.blocks import blocks_of_model
    from medprompt.export.precision.cast import typed_model

    folder = work / "bundle"
    model = onnx.load(str(folder / "model.onnx"))
    blocks = blocks_of_model(model, Sam3.blocks)
    write_typed(typed_model(model, blocks, dict.fromkeys(blocks.free, "fp16")), folder / "model-fp16.onnx")
    write_manifest(folder, load_bundle(folder).manifest)
    return {"megabytes": round((folder / "model-fp16.onnx.data").stat().st_size / 1e6)}


def detect(work: Path, device: str, count: int) -> dict[str, Any]:
    """One image and a bank on a device: CPU seconds of the image's part and of the phrases'."""
    from medprompt.prompts.bank import load_bank
    from medprompt.runtime.detector import Detector
    from medprompt.runtime.engines import engine_class

    engine, seconds = engine_class(device), {"image": 0.0, "phrases": 0.0}
    own = engine.run

    def timed(self: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        began = time.process_time()
        try:
            return own(self, feeds)
        finally:
            seconds["image" if "image" in feeds else "phrases"] += time.process_time() - began

    engine.run = timed  # type: ignore[method-assign]
    bank = load_bank(_bank(work, count))
    with Detector.load(work / "bundle", device, prompts=bank, threshold=0.0, threads=1, self_test=False) as loaded:
        found = loaded(np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8))
    return {"detections": len(found), **{f"{name} cpu s": round(spent, 1) for name, spent in seconds.items()}}


def compile_for(work: Path, precision: str, phrases: int) -> dict[str, Any]:
    """An engine for so many phrases, of one file or two."""
    from medprompt.export.compile.engine import compile_engine
    from medprompt.export.compile.options import CompileOptions

    made = compile_engine(work / "bundle", CompileOptions("trt-rtx", precision, GPUS, max_phrases=phrases))
    sizes = [round((work / "bundle" / name).stat().st_size / 1e6) for name in made.files]
    return {"megabytes": sizes, "activation MiB": round((made.activation_bytes or 0) / 2**20)}


def ask_transformers(work: Path) -> dict[str, Any]:
    """CPU seconds of one phrase as transformers' loop runs it, and without the image's part."""
    import torch
    from PIL import Image

    from medprompt.export.checkpoint import family_from_checkpoint

    torch.set_num_threads(1)
    family = family_from_checkpoint(work / "checkpoint")
    image = Image.fromarray(np.zeros((*SIZE_HW, 3), dtype=np.uint8))
    asked = family.processor(images=image, text=texts(1), return_tensors="pt")
    began = time.process_time()
    with torch.no_grad():
        vision = family.model.get_vision_features(pixel_values=asked.pixel_values)
        seen = time.process_time()
        family.model(vision_embeds=vision, input_ids=asked.input_ids, attention_mask=asked.attention_mask)
    return {"image cpu s": round(seen - began, 1), "phrases cpu s": round(time.process_time() - seen, 1)}


def steps() -> dict[str, Callable[[Path], dict[str, Any]]]:
    """What is done, in order."""
    runs = {
        f"{device}, {count} phrases": partial(detect, device=device, count=count)
        for device, count in product(DEVICES, PHRASES)
    }
    builds = {
        f"trt-rtx {precision}, {count} phrases": partial(compile_for, precision=precision, phrases=count)
        for precision, count in product(("fp16", "fp32"), (16, 40))
    }
    first = {"checkpoint": make_checkpoint, "banks": make_banks, "export": make_bundle}
    return {**first, **runs, "fp16 model": make_half, **builds, "transformers, 1 phrase": ask_transformers}


def _bank(work: Path, count: int) -> Path:
    return work / f"{count}.safetensors"


def _child(work: Path, name: str) -> str:
    """What runs one step in a process of its own."""
    module = "medprompt.benchmarks.research.sam3_full_size"
    return (
        f"import json, pathlib; from {module} import steps; "
        f"print(json.dumps(steps()[{name!r}](pathlib.Path({str(work)!r}))))"
    )


def _main() -> None:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.sam3_full_size", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder; it needs 16 GB")
    parser.add_argument("--only", default="", help="do the steps alone whose names begin so")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    written = args.out / "figures.json"
    figures = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    for name in (name for name in steps() if name.startswith(args.only) and name not in figures):
        print(name, file=sys.stderr, flush=True)
        process, printed = measured_process([_child(args.out.resolve(), name)], 1)
        figures[name] = {**vars(process), **json.loads(printed.splitlines()[-1])}
        write_json(written, figures)
    rows = [
        (name, f"{one['cpu_s']:.0f}", f"{one['wall_s']:.0f}", f"{one['peak_mib'] / 1024:.1f}", _rest(one))
        for name, one in figures.items()
    ]
    print_table("SAM 3, full size", ("step", "CPU s", "s", "peak GiB", ""), rows, format_machine(describe_machine()))


def _rest(figures: Mapping[str, Any]) -> str:
    own = {name: value for name, value in figures.items() if name not in ("cpu_s", "wall_s", "peak_mib")}
    return ", ".join(f"{name} {value}" for name, value in own.items())


if __name__ == "__main__":
    run_command(_main)
