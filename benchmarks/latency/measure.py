"""A bundle against PyTorch, end to end: from a decoded RGB array to boxes, on the same images in turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import check_threads
from medprompt.benchmarks.latency.timing import LatencyReport, measure_latency
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import EngineError, missing_extra
from medprompt.core.progress import Progress, Silent
from medprompt.runtime.detector import Detector

PYTORCH = "PyTorch fp32"
AUTOCAST = "PyTorch bf16 autocast"
COMPILED = "torch.compile"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Contender:
    """Something that detects.

    Attributes:
        call: From an RGB array to its answer.
        load_ms: Wall time of loading it, libraries included where it was the first to need them.
    """

    call: Callable[[Image], object]
    load_ms: float


@dataclass(frozen=True)
class LatencyOptions:
    """How to measure.

    Attributes:
        devices: Engines to time.
        threads: CPU threads of every contender, no more than cores.
        rounds: Timed calls of each.
        warmup: Warm-up calls of each.
        autocast, compiled: Time PyTorch in bfloat16 too, and ``torch.compile``, whose first call compiles for minutes.
        batches, workers: Images a call and detectors at once that throughput is measured with; none where empty.
        max_seconds: Begin no further round once the rounds have taken this long.
        pause_s: Rest after each round, so that a machine that heats up does not slow down on the way.
        seed: Of the ratios' intervals.
    """

    devices: Sequence[str] = ("auto",)
    threads: int = 1
    rounds: int = 10
    warmup: int = 2
    autocast: bool = False
    compiled: bool = False
    batches: Sequence[int] = (1, 2, 4)
    workers: Sequence[int] = (1, 2)
    max_seconds: float | None = None
    pause_s: float = 0.0
    seed: int = 0


def bench_bundle(
    bundle: Bundle | Path | str,
    checkpoint: Path | None,
    images: Sequence[Image],
    options: LatencyOptions,
    progress: Progress | None = None,
) -> LatencyReport:
    """Time a bundle, as ``medprompt infer`` runs it, against transformers on the same images, batch 1.

    Args:
        bundle: A bundle, or its folder.
        checkpoint: The checkpoint that it was made from; None for the bundle's engines only, without torch.
        images: uint8 ``[H, W, 3]`` each; round i takes image i modulo their number.
        options: How. PyTorch's threads are set for the whole process.
        progress: Notified of each round.

    Returns:
        A report whose baseline is PyTorch in float32, or the first engine where there is no checkpoint. Beside an
        engine on a GPU, PyTorch computes on that GPU and its row says so; on the CPU too where another engine does.
        What fails on the way is listed in it.

    Raises:
        EngineError: PyTorch is requested and not installed, or an engine is on a GPU that PyTorch cannot use.
        InputError: See ``load_bundle``, ``reference_family``, ``check_threads`` and ``Detector.load``.
        ValueError: No image.
    """
    if not images:
        raise ValueError("expected at least one image")
    threads = options.threads
    check_threads(threads)
    progress = progress or Silent()
    loaded = load_bundle(bundle)
    with ExitStack() as stack:
        progress.step("load the contenders")
        engines: dict[str, Contender] = {}
        on_gpu: set[bool] = set()
        for device in options.devices:
            began = time.perf_counter()
            # By path: hashing is part of loading.
            detector = stack.enter_context(Detector.load(loaded.path, device, threads=threads))
            load_ms = (time.perf_counter() - began) * 1e3
            engines[f"bundle on {detector.choice.device}"] = Contender(detector, load_ms)
            on_gpu.add(detector.engine.on_gpu)
        contenders: dict[str, Contender] = {}
        # PyTorch computes where the engines do, the GPU first: another device's time would be no comparison.
        for gpu in sorted(on_gpu, reverse=True) if checkpoint else ():
            contenders |= pytorch_contenders(
                loaded, Path(checkpoint or ""), options.autocast, threads, options.compiled, on_gpu=gpu
            )
        contenders |= engines
        progress.step("time them in turn", options.rounds)
        return measure_latency(
            {name: taking_turns(contender.call, images) for name, contender in contenders.items()},
            options.rounds,
            options.warmup,
            seed=options.seed,
            max_seconds=options.max_seconds,
            pause_s=options.pause_s,
            go_on=True,
            load_ms={name: contender.load_ms for name, contender in contenders.items()},
            context=bundle_context(loaded, threads, len(images)) | {"pause_s": options.pause_s},
            after_round=progress.advance,
        )


def pytorch_contenders(
    bundle: Bundle, checkpoint: Path, autocast: bool, threads: int, compiled: bool = False, on_gpu: bool = False
) -> dict[str, Contender]:
    """The bundle's checkpoint in PyTorch, loaded: float32; bfloat16 and ``torch.compile`` where they are requested.

    With ``on_gpu`` on the first GPU, by name: "PyTorch fp32 on NVIDIA RTX A4000".

    Raises:
        EngineError: PyTorch is not installed, cannot compute on the GPU, or is asked for what this family has not.
        InputError: See ``reference_family``.
    """
    began = time.perf_counter()
    try:
        import torch

        from medprompt.benchmarks.latency.reference_pipeline import (
            ReferencePipeline,
            has_pipeline,
            reference_family,
        )
        from medprompt.export.parity.reference import reference_detections
    except ImportError as error:
        raise missing_extra("Timing PyTorch", error.name or "torch", "export") from error
    torch.set_num_threads(threads)
    where = _name_of_torch_gpu(torch) if on_gpu else ""
    device = "cuda" if on_gpu else "cpu"
    family = reference_family(bundle, checkpoint)
    family.model.to(device)
    load_ms = (time.perf_counter() - began) * 1e3
    post = bundle.manifest.postprocess
    if not has_pipeline(family):
        # transformers has no such model, so it has no documented way either: the family's own.
        if autocast or compiled:
            raise EngineError(
                f"{family.architecture} is timed in float32 alone.", fix="leave autocast= and compiled= out"
            )
        detect = partial(reference_detections, family, prompts=bundle.bank.prompts, postprocess=post)
        return {PYTORCH + where: Contender(detect, load_ms)}
    around = partial(
        ReferencePipeline,
        family,
        bundle.bank.prompts.texts,
        bundle.manifest.default_threshold,
        post.nms_iou,
        device=device,
    )
    contenders = {PYTORCH + where: Contender(around(), load_ms)}
    if autocast:
        contenders[AUTOCAST + where] = Contender(around(autocast=True), load_ms)
    if compiled:
        contenders[COMPILED + where] = Contender(around(forward=torch.compile(family.model, dynamic=False)), load_ms)
    return contenders


def _name_of_torch_gpu(torch: Any) -> str:
    if torch.cuda.is_available():
        return f" on {torch.cuda.get_device_name(0)}"
    raise EngineError(
        "PyTorch cannot compute on the GPU that the engine runs on: its time on the CPU would be no comparison.",
        expected="a PyTorch with CUDA",
        got=f"torch {torch.__version__}",
        fix="install PyTorch's CUDA build, or leave the checkpoint out: the engines alone are timed",
    )


def taking_turns(call: Callable[[Image], object], images: Sequence[Image]) -> Callable[[], object]:
    """A call without arguments that takes the next image each time."""
    turns = itertools.cycle(images)
    return lambda: call(next(turns))


def bundle_context(bundle: Bundle, threads: int, images: int) -> dict[str, Any]:
    """What was measured, as JSON values for a report."""
    manifest = bundle.manifest
    return {
        "family": manifest.family,
        "bundle_sha256": bundle.sha256,
        "checkpoint_sha256": manifest.checkpoint_sha256,
        "size_hw": list(manifest.preprocess.size_hw),
        "phrases": len(bundle.bank.prompts.texts),
        "threads": threads,
        "images": images,
        "batch": 1,
        "from": "decoded uint8 RGB array",
        "to": "boxes, scores and labels over the threshold",
    }
