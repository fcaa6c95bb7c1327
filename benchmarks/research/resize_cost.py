"""Bytes and operations of a frame's resize on a GPU: arithmetic over the product's own tables of taps, nothing is run.

python -m benchmarks.research.resize_cost
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medprompt.core.manifest import Preprocess
from medprompt.runtime.engines.tap_kernel import TapPass, axis_tables, passes_of_source

FAMILIES = {
    "OWLv2": Preprocess(size_hw=(960, 960), resample="zoom", pad="square"),
    "OWL-ViT": Preprocess(size_hw=(768, 768), resample="bicubic"),
    "OmDet-Turbo": Preprocess(size_hw=(640, 640), resample="bilinear"),
    "Grounding DINO, MM-Grounding DINO": Preprocess(size_hw=(800, 800), resample="bilinear"),
}
SOURCES_HW = {"480p": (480, 640), "1080p": (1080, 1920), "4K": (2160, 3840)}


@dataclass(frozen=True)
class Cost:
    """Of one frame.

    Attributes:
        sent: Bytes from host to device, RGB. NV12 is half of it.
        moved: Bytes that the two passes read and write on the device, each once.
        products: Multiply-adds of the taps.
        dense_flop, dense_sent: Of the same resize as two dense matrix products, whose matrices are sent each time.
    """

    sent: int
    moved: int
    products: int
    dense_flop: int
    dense_sent: int


def cost(source_hw: tuple[int, int], spec: Preprocess) -> Cost:
    """Count for one source."""
    (height, width), (high, wide) = source_hw, spec.size_hw
    passes = passes_of_source(1, source_hw, spec, "uint8")
    tables = sum(array.nbytes for table in axis_tables(source_hw, spec) for array in (table.starts, table.weights))
    read = 3 * height * width
    moved = read + 2 * passes[0].bytes_written + passes[1].bytes_written + tables
    dense = 2 * 3 * (height * width * wide + high * height * wide)
    return Cost(read, moved, sum(map(products, passes)), dense, read + 4 * (high * height + wide * width))


def products(step: TapPass) -> int:
    """Multiply-adds of a pass: every output value takes all taps of the table."""
    return 3 * math.prod((step.lines, step.target, step.inner, len(step.table.weights)))


def main() -> None:
    """Print the table of the documentation."""
    print("| family | source | sent, MB | on the device, MB | multiply-adds, M | dense: GFLOP | dense: sent, MB |")
    print("|---|---|---|---|---|---|---|")
    for family, spec in FAMILIES.items():
        for name, source_hw in SOURCES_HW.items():
            of = cost(source_hw, spec)
            numbers = (of.sent / 1e6, of.moved / 1e6, of.products / 1e6, of.dense_flop / 1e9, of.dense_sent / 1e6)
            print(f"| {family} | {name} | " + " | ".join(f"{number:.1f}" for number in numbers) + " |")


if __name__ == "__main__":
    main()
