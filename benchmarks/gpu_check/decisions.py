"""Section "decisions": the checkpoint in PyTorch on the GPU, in each precision, against the bundle's golden images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.gpu_check.gpu import bindings_of_gpu
from medprompt.benchmarks.gpu_check.notes import Notes, NotRun, Subject, expect
from medprompt.benchmarks.gpu_check.real_engine import golden_images
from medprompt.benchmarks.latency.gpu_watch import GpuWatch
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.runtime.selection.selftest import check_golden, describe_self_test, tolerance_of_device

if TYPE_CHECKING:
    from medprompt.export.families.base import Family

CALLS = 20
"""Images that time and energy are measured on, in each precision."""


@dataclass(frozen=True)
class Precision:
    """How PyTorch multiplies.

    Attributes:
        tf32: Whether float32 products are rounded to TF32.
        autocast: torch's name of the type that autocast computes in; empty without.
        judged_as: The precision whose tolerance it is judged by.
    """

    tf32: bool = False
    autocast: str = ""
    judged_as: str = "fp32"


PRECISIONS = {
    "fp32": Precision(),
    "TF32": Precision(tf32=True),
    "bf16": Precision(autocast="bfloat16", judged_as="bf16"),
    "fp16": Precision(autocast="float16", judged_as="fp16"),
}


def check_decisions_on_gpu(subject: Subject, notes: Notes) -> None:
    """The section. See ``notes.Notes``."""
    bindings_of_gpu()
    if subject.bundle is None or subject.checkpoint is None:
        raise NotRun("no bundle and checkpoint were given")
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise NotRun("PyTorch or transformers is not installed")
    import torch

    if not torch.cuda.is_available():
        raise NotRun(f"torch {torch.__version__} cannot use the GPU")
    from medprompt.benchmarks.latency.reference_pipeline import reference_family

    bundle = load_bundle(subject.bundle)
    family = reference_family(bundle, subject.checkpoint)
    decisions(bundle, family, "cuda", notes)


def decisions(bundle: Bundle, family: Family, device: str, notes: Notes) -> None:
    """Every precision. Only fp32 has to pass: that another one does not is what is to be learnt here."""
    family.model.to(device)
    for name, precision in PRECISIONS.items():
        notes.check(name, partial(_decided, bundle, family, device, precision))


def _decided(bundle: Bundle, family: Family, device: str, precision: Precision) -> Mapping[str, Any]:
    detect = partial(_detections, bundle, family)
    with _arithmetic(device, precision):
        parity = check_golden(bundle, detect, tolerance_of_device(bundle, "", precision.judged_as))
        measured = _measured(bundle, detect)
    expect(parity.passed or precision != PRECISIONS["fp32"], describe_self_test(parity))
    verdict = "passed" if parity.passed else "would not pass"
    return {"golden images": f"{verdict}: {describe_self_test(parity)}", "kept": parity.kept, **measured}


def _detections(bundle: Bundle, family: Family, image_rgb: NDArray[np.uint8]) -> Detections:
    """What PyTorch decides, as at export; the decision itself is made on the host in float64."""
    from medprompt.export.families.base import RawOutputs
    from medprompt.export.parity.reference import decide

    prompts = bundle.bank.prompts
    raw = family.reference(image_rgb, prompts.texts, prompts.task)
    raw = RawOutputs(*(values.detach().float().cpu() for values in (raw.logits, raw.boxes_cxcywh)))
    source_hw = (image_rgb.shape[0], image_rgb.shape[1])
    return decide(raw, prompts, bundle.manifest.postprocess, family.preprocess(), source_hw)


def _measured(bundle: Bundle, detect: Callable[[NDArray[np.uint8]], Detections]) -> Mapping[str, Any]:
    """Time and energy of an image, text encoder and decision included."""
    images = golden_images(bundle)
    with GpuWatch() as watch:
        began = time.perf_counter()
        for call in range(CALLS):
            detect(images[call % len(images)])
        ms = (time.perf_counter() - began) * 1e3 / CALLS
    energy = watch.use.joules if watch.use else None
    return {"ms an image": round(ms, 2), "J an image": None if energy is None else round(energy / CALLS, 3)}


@contextmanager
def _arithmetic(device: str, precision: Precision) -> Iterator[None]:
    """PyTorch's switches, set back afterwards."""
    import torch

    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    cast = torch.autocast(device, getattr(torch, precision.autocast)) if precision.autocast else nullcontext()
    try:
        for switch in switches:
            switch.allow_tf32 = precision.tf32
        with torch.no_grad(), cast:
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
