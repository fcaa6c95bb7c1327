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
from medprompt.core.errors import missing_extra
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


def bench_bundle(
    bundle: Bundle | Path | str,
    checkpoint: Path | None,
    images: Sequence[Image],
    *,
    threads: int,
    rounds: int,
    warmup: int = 2,
    devices: Sequence[str] = ("auto",),
    autocast: bool = False,
    compiled: bool = False,
    seed: int = 0,
    max_seconds: float | None = None,
    pause_s: float = 0.0,
    progress: Progress | None = None,
) -> LatencyReport:
    """Time a bundle, as ``medprompt infer`` runs it, against transformers on the same images, batch 1.

    Args:
        bundle: A bundle, or its folder.
        checkpoint: The checkpoint that it was made from; None for the bundle's engines only, without torch.
        images: uint8 ``[H, W, 3]`` each; round i takes image i modulo their number.
        threads: CPU threads of every contender, no more than cores. PyTorch's are set for the whole process.
        rounds: Timed calls of each contender.
        warmup: Warm-up calls of each.
        devices: The bundle's engines to time.
        autocast: Time PyTorch in bfloat16 too.
        compiled: Time ``torch.compile`` too; its first call compiles, for minutes.
        seed: Of the bootstrap.
        max_seconds: See ``measure_latency``.
        pause_s: See there.
        progress: Notified of each round.

    Returns:
        A report whose baseline is PyTorch in float32, or the first engine where there is no checkpoint. What fails on
        the way is listed in it.

    Raises:
        EngineError: PyTorch is requested and not installed.
        InputError: See ``load_bundle``, ``reference_family``, ``check_threads`` and ``Detector.load``.
        ValueError: No image.
    """
    if not images:
        raise ValueError("expected at least one image")
    check_threads(threads)
    progress = progress or Silent()
    loaded = load_bundle(bundle)
    with ExitStack() as stack:
        progress.step("load the contenders")
        contenders = pytorch_contenders(loaded, checkpoint, autocast, threads, compiled) if checkpoint else {}
        for device in devices:
            detector, load_ms = _timed_load(loaded, device, threads)
            stack.enter_context(detector)
            contenders[f"bundle on {detector.choice.device}"] = Contender(detector, load_ms)
        progress.step("time them in turn", rounds)
        return measure_latency(
            {name: taking_turns(contender.call, images) for name, contender in contenders.items()},
            rounds,
            warmup,
            seed=seed,
            max_seconds=max_seconds,
            pause_s=pause_s,
            go_on=True,
            load_ms={name: contender.load_ms for name, contender in contenders.items()},
            context=bundle_context(loaded, threads, len(images)) | {"pause_s": pause_s},
            after_round=progress.advance,
        )


def pytorch_contenders(
    bundle: Bundle, checkpoint: Path, autocast: bool, threads: int, compiled: bool = False
) -> dict[str, Contender]:
    """The bundle's checkpoint in PyTorch, loaded: float32; bfloat16 and ``torch.compile`` where they are requested.

    Raises:
        EngineError: PyTorch is not installed.
        InputError: See ``reference_family``.
    """
    began = time.perf_counter()
    try:
        import torch

        from medprompt.benchmarks.latency.reference_pipeline import ReferencePipeline, reference_family
    except ImportError as error:
        raise missing_extra("Timing PyTorch", error.name or "torch", "export") from error
    torch.set_num_threads(threads)
    family = reference_family(bundle, checkpoint)
    load_ms = (time.perf_counter() - began) * 1e3
    post = bundle.manifest.postprocess
    around = partial(
        ReferencePipeline, family, bundle.bank.prompts.texts, bundle.manifest.default_threshold, post.nms_iou
    )
    contenders = {PYTORCH: Contender(around(), load_ms)}
    if autocast:
        contenders[AUTOCAST] = Contender(around(autocast=True), load_ms)
    if compiled:
        contenders[COMPILED] = Contender(around(forward=torch.compile(family.model, dynamic=False)), load_ms)
    return contenders


def _timed_load(bundle: Bundle, device: str, threads: int) -> tuple[Detector, float]:
    began = time.perf_counter()
    detector = Detector.load(bundle.path, device, threads=threads)  # by path: hashing is part of loading
    return detector, (time.perf_counter() - began) * 1e3


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
