"""How fast could it be? The graph's matrix work and bytes over what this machine does in a second.

A lower limit for fp32 on a CPU, after the roofline model (Williams, Waterman, Patterson 2009, doi
10.1145/1498765.1498785): the work cannot take less than its products at the measured rate of matrix products, nor less
than reading its weights at the measured rate of memory. Everything else (softmax, norms, activations, what caches miss)
comes on top.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from medprompt.bundles.load import Bundle
from medprompt.core.errors import MedpromptError
from medprompt.core.terminal import Table

RATES_SCRIPT = """
import json, time
import numpy as np

def best(call, seconds=0.5):
    call()
    end, quickest = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        quickest = min(quickest, time.perf_counter() - began)
    return quickest

side = 512
left, right = np.random.default_rng(0).random((2, side, side), dtype=np.float32)
product = np.empty_like(left)
source = np.ones(16 << 20, dtype=np.float32)
print(json.dumps({
    "gflops": 2 * side**3 / best(lambda: np.matmul(left, right, out=product)) / 1e9,
    "gbytes": source.nbytes / best(lambda: source.sum()) / 1e9,
}))
"""
"""Best of half a second each: float32 products of 512² by numpy's BLAS, and reading 64 MiB. A product of 1024² takes
longer than a busy machine leaves a process alone, and measured half of this rate there."""


@dataclass(frozen=True)
class Roofline:
    """The limit of one image on one machine.

    Attributes:
        gflop: Matrix work of the graph, a multiplication and an addition as two.
        weight_mb: Bytes of the model file, read once an image at least where they don't fit the cache.
        gflops: Measured rate of matrix products, GFLOP a second.
        gbytes: Measured rate of reading memory, GB a second.
        threads: Of the measurement.
    """

    gflop: float
    weight_mb: float
    gflops: float
    gbytes: float
    threads: int

    @property
    def arithmetic_ms(self) -> float:
        """What the products take at least."""
        return self.gflop / self.gflops * 1e3

    @property
    def memory_ms(self) -> float:
        """What reading the weights takes at least."""
        return self.weight_mb / self.gbytes

    @property
    def ms(self) -> float:
        """The greater of the two."""
        return max(self.arithmetic_ms, self.memory_ms)

    def table(self, measured: dict[str, float]) -> Table:
        """How many times the limit each contender takes.

        Args:
            measured: Median milliseconds by contender.
        """
        rows = [
            (name, f"{value:.1f}", f"{value / self.ms:.2f}", f"{self.gflop / value * 1e3:.0f}")
            for name, value in measured.items()
        ]
        bound = "products" if self.arithmetic_ms >= self.memory_ms else "memory"
        caption = (
            f"{self.gflop:.2f} GFLOP of matrix work and {self.weight_mb:.0f} MB of weights; this machine: "
            f"{self.gflops:.0f} GFLOP/s in fp32, {self.gbytes:.1f} GB/s with {self.threads} threads; limit "
            f"{self.ms:.1f} ms, by {bound}"
        )
        return Table("How far from the limit", ("", "p50 ms", "× the limit", "GFLOP/s"), rows, caption)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {**vars(self), "arithmetic_ms": self.arithmetic_ms, "memory_ms": self.memory_ms, "ms": self.ms}


def roofline_of_bundle(bundle: Bundle, threads: int) -> Roofline | None:
    """The limit of one image with the bundle's own phrases; None where onnx is not installed to read the graph.

    Raises:
        MedpromptError: The rates cannot be measured, or the graph has a shape that is not known.
    """
    if find_spec("onnx") is None:
        return None
    rates = machine_rates(threads)
    return Roofline(gflop_of_bundle(bundle), bundle.model.stat().st_size / 1e6, *rates, threads)


def gflop_of_bundle(bundle: Bundle) -> float:
    """Matrix work of one image with the bundle's own phrases, in GFLOP."""
    import onnx

    from medprompt.export.precision.flops import TYPICAL_SIZES, flops_of_nodes

    bank = bundle.bank
    sizes = {**TYPICAL_SIZES, "P": len(bank.prompts.texts), "C": len(bank.labels)}
    if len(bank.token_counts):
        sizes["T"] = int(bank.token_counts.sum()) + 2  # with the tokens around the phrases
    return sum(flops_of_nodes(onnx.load(str(bundle.model)), sizes).values()) / 1e9


def machine_rates(threads: int) -> tuple[float, float]:
    """GFLOP/s of float32 products and GB/s of reading, in a process of its own with that many BLAS threads.

    Raises:
        MedpromptError: The process failed.
    """
    count = str(threads)
    limits = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    done = subprocess.run(
        [sys.executable, "-c", RATES_SCRIPT], capture_output=True, text=True, env=os.environ | limits, check=False
    )
    if done.returncode:
        raise MedpromptError("The machine's rates cannot be measured.", got=done.stderr.strip()[-300:])
    rates = json.loads(done.stdout)
    return rates["gflops"], rates["gbytes"]
