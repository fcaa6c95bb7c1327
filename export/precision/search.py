"""Which blocks may be half: start with all, find those that break parity, keep them fp32, try to win them back.

A trial says whether a set of half blocks passes. Trials are the cost (each runs a detector over images), so they are
cached, and a block that breaks parity is found by bisection over the blocks, those that save most time first: with k
such blocks among n, about k · (log2 n + 3) trials. Measuring every block alone, for the table, takes n more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medprompt.core.errors import ParityError
from medprompt.core.manifest import ParityRecord

Half = frozenset[str]


@dataclass(frozen=True)
class Sensitivity:
    """What a set of half blocks does to the decisions.

    Attributes:
        kept: Share of the reference's decisions that are found again.
        max_score_delta: Largest score difference of those.
        passed: Whether the tolerance was met.
    """

    kept: float
    max_score_delta: float
    passed: bool


@dataclass(frozen=True)
class BlockPlan:
    """One block's type.

    Attributes:
        kind: ``fp32``, or the half type.
        flops_share: Its share of the model's matrix work.
        alone: What it does where it alone is half; None where that was not measured.
    """

    block: str
    kind: str
    flops_share: float
    alone: Sensitivity | None


@dataclass(frozen=True)
class PrecisionPlan:
    """What was chosen, and what was measured on the way.

    Attributes:
        asked: ``auto``, ``auto-bf16``, ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        blocks: In the order of the data's way.
        half_flops_share: Share of the matrix work in blocks that are not fp32.
        trials: Sets of half blocks that were measured.
    """

    asked: str
    blocks: tuple[BlockPlan, ...]
    half_flops_share: float
    trials: int

    @property
    def types(self) -> dict[str, str]:
        """Type by block."""
        return {entry.block: entry.kind for entry in self.blocks}

    @property
    def half(self) -> Half:
        """Blocks that are not fp32."""
        return frozenset(entry.block for entry in self.blocks if entry.kind != "fp32")


def plan_precision(
    asked: str,
    kind: str,
    flops: Mapping[str, float],
    measure: Callable[[Half], ParityRecord],
    *,
    worth: Mapping[str, float] | None = None,
    search: bool = True,
    effects: bool = True,
) -> PrecisionPlan:
    """Choose the type of each block by parity.

    Args:
        asked: What the user requested, for the record.
        kind: The half type.
        flops: Share of the matrix work by block, in the order of the data's way; what is not listed stays fp32.
        measure: Runs the model in which the given blocks are half.
        worth: The time that each block saves where it is half. Of blocks that break parity together only, the one that
            saves least then stays fp32; the last on the data's way where None.
        search: Keep blocks that break parity in fp32; else every block is half, whatever that does.
        effects: Measure every block alone as well, one more trial each, for the table. A block that fails alone then
            stays fp32 even where it passes among others: that is luck, of near-ties that fall the right way.

    Raises:
        ParityError: The model fails with every block in fp32, so that no choice can pass.
    """
    known: dict[Half, ParityRecord] = {}

    def passes(half: Half) -> bool:
        if half not in known:
            known[half] = measure(half)
        return known[half].passed

    weights = flops if worth is None else worth
    order = sorted(flops, key=lambda block: -worth[block]) if worth else list(flops)
    kept = fp32_blocks(order, passes, weights) if search else frozenset()
    if effects:
        isolated = frozenset(block for block in flops if not passes(frozenset({block})))
        if search and isolated - kept:
            kept = fp32_blocks(order, passes, weights, isolated)
    half = frozenset(flops) - kept
    return PrecisionPlan(
        asked=asked,
        blocks=tuple(
            _block_plan(block, kind if block in half else "fp32", flops[block], known.get(frozenset({block})))
            for block in flops
        ),
        half_flops_share=sum(flops[block] for block in flops if block in half),
        trials=len(known),
    )


def _block_plan(block: str, kind: str, share: float, alone: ParityRecord | None) -> BlockPlan:
    effect = None if alone is None else Sensitivity(alone.kept, alone.max_score_delta, alone.passed)
    return BlockPlan(block, kind, share, effect)


def fp32_blocks(
    order: Sequence[str], passes: Callable[[Half], bool], weights: Mapping[str, float], start: Half = frozenset()
) -> Half:
    """The blocks to keep fp32, so that all others may be half.

    ``passes`` says of a set of half blocks whether the model passes; ``weights``, what winning a block back is worth.
    Blocks of ``start`` stay fp32 in any case.

    Raises:
        ParityError: Nothing passes, not even all blocks in fp32.
    """
    kept = set(start)
    while True:
        half = [block for block in order if block not in kept]
        if passes(frozenset(half)):
            break
        kept.add(first_breaking(half, passes))
    # Bisection may take out a block that breaks beside another only: try to win the costliest back first.
    for block in sorted(kept - start, key=lambda name: (-weights[name], order.index(name))):
        if len(kept) > 1 and passes(frozenset(order) - (kept - {block})):
            kept.remove(block)
    return frozenset(kept)


def first_breaking(half: Sequence[str], passes: Callable[[Half], bool]) -> str:
    """The block at which a growing row of half blocks stops passing, by bisection.

    Raises:
        ParityError: Not even no block passes.
    """
    if not half or not passes(frozenset()):
        raise ParityError(
            "The model decides otherwise than the reference with every block in fp32: no precision can be chosen.",
            expected="parity in fp32, under the tolerance of the precision requested",
            fix="compare on images like those the model was trained on (images=FOLDER)",
        )
    passing, failing = 0, len(half)  # lengths of the row
    while failing - passing > 1:
        middle = (passing + failing) // 2
        if passes(frozenset(half[:middle])):
            passing = middle
        else:
            failing = middle
    return half[failing - 1]
