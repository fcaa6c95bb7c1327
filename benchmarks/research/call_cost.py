"""What one call costs beside the engine: a detector on an engine that answers at once.

Three cases, batch 1: an image of the model's own size, which is not resized; one resized here; and one that the engine
resizes on its device, whose frame is then handed to it as it is, without a copy.

Run it as ``python -m medprompt.benchmarks.research.call_cost BUNDLE``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import describe_machine, format_machine
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.files import write_json
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.selection.order import EngineChoice

FULL_HD = (1080, 1920)


class Null(Fake):
    """Answers the same at once, whatever it is fed: K random boxes, scores from 0 to 1."""

    def __init__(self, bundle: Bundle, *, resizes: bool) -> None:
        super().__init__()
        self.resizes = resizes
        rng, rows = np.random.default_rng(0), (1, bundle.manifest.postprocess.top_k)
        self._outputs = {
            "boxes_xyxy": rng.random((*rows, 4), dtype=np.float32),
            "scores": rng.random(rows, dtype=np.float32),
            "class_ids": rng.integers(0, len(bundle.bank.labels), rows),
            "phrase_ids": rng.integers(0, len(bundle.bank.texts), rows),
        }

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Engine.run``."""
        return self._outputs


def cases(bundle: Bundle) -> Iterator[tuple[str, Detector, tuple[int, int]]]:
    """Name, detector and source size of each."""
    own, threshold = bundle.manifest.preprocess.size_hw, 0.9  # a tenth of the boxes is reported
    choice = EngineChoice("fake", "to be measured")
    on_host = replace(bundle, manifest=_on_host(bundle))
    for name, resizes, size_hw in (
        ("own size", False, own),
        ("1080p", False, FULL_HD),
        ("1080p, engine", True, FULL_HD),
    ):
        yield name, Detector(on_host, Null(bundle, resizes=resizes), bundle.bank, choice, threshold), size_hw


def call_cost(bundle: Bundle, calls: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a call by case: median and 90th percentile of ``calls``."""
    costs = {}
    for name, detector, size_hw in cases(bundle):
        image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        times = []
        for _ in range(calls):
            began = time.perf_counter()
            detector(image)
            times.append((time.perf_counter() - began) * 1e3)
        costs[name] = {"p50_ms": float(np.median(times)), "p90_ms": float(np.percentile(times, 90))}
    return costs


def _on_host(bundle: Bundle) -> Any:
    preprocess = bundle.manifest.preprocess.model_copy(update={"placement": "host"})
    return bundle.manifest.model_copy(update={"preprocess": preprocess})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    costs, machine = call_cost(load_bundle(args.bundle), args.calls), describe_machine()
    for name, cost in costs.items():
        print(f"{name:16s} {cost['p50_ms']:.3f} ms, p90 {cost['p90_ms']:.3f} ms")
    print(format_machine(machine))
    if args.out:
        write_json(args.out, {"calls": args.calls, "costs": costs, "machine": machine})


if __name__ == "__main__":
    run_command(main)
