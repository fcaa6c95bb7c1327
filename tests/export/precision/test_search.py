"""The search, on planted blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from medprompt.core.errors import ParityError
from medprompt.core.manifest import ParityRecord
from medprompt.export.precision.search import Half, first_breaking, fp32_blocks, plan_precision
from tests.runtime.bundles import parity_record

ORDER = [f"b{n}" for n in range(16)]
SHARES = {name: (n + 1) / 136 for n, name in enumerate(ORDER)}


def bad(*names: str) -> Callable[[Half], ParityRecord]:
    return lambda half: parity_record(not half & set(names), len(half) / 100)


def together(*groups: set[str]) -> Callable[[Half], ParityRecord]:
    return lambda half: parity_record(not any(group <= half for group in groups))


def drift(most: float) -> Callable[[Half], ParityRecord]:
    """Each block adds an error of its share; together they may not exceed ``most``."""
    return lambda half: parity_record(sum(SHARES[name] for name in half) <= most)


@pytest.mark.parametrize(
    ("measure", "wanted"),
    [
        (bad(), set()),
        (bad("b0"), {"b0"}),
        (bad("b15"), {"b15"}),
        (bad("b3", "b4", "b11"), {"b3", "b4", "b11"}),
        (bad(*ORDER), set(ORDER)),
        (together({"b2", "b9"}), {"b9"}),
        (together({"b2", "b9"}, {"b9", "b12"}), {"b9"}),
        (together({"b1"}, {"b5", "b6", "b7"}), {"b1", "b7"}),
    ],
)
def test_finds_the_blocks_that_break(measure: Callable[[Half], ParityRecord], wanted: set[str]) -> None:
    plan = plan_precision("auto", "fp16", SHARES, measure)
    assert {entry.block for entry in plan.blocks if entry.kind == "fp32"} == wanted
    assert measure(frozenset(name for name, kind in plan.types.items() if kind == "fp16")).passed
    assert plan.half_flops_share == pytest.approx(sum(SHARES[name] for name in ORDER if name not in wanted))
    assert [entry.block for entry in plan.blocks] == ORDER


@pytest.mark.parametrize(("saves", "kept"), [({"b2": 1.0, "b9": 2.0}, "b2"), ({"b2": 2.0, "b9": 1.0}, "b9")])
def test_of_blocks_that_break_together_the_quicker_choice_is_made(saves: dict[str, float], kept: str) -> None:
    worth = dict.fromkeys(ORDER, 0.5) | saves
    plan = plan_precision("auto", "fp16", SHARES, together({"b2", "b9"}), worth=worth)
    assert {entry.block for entry in plan.blocks if entry.kind == "fp32"} == {kept}
    assert [entry.block for entry in plan.blocks] == ORDER


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_needs_few_trials(count: int) -> None:
    plan = plan_precision("auto", "fp16", SHARES, bad(*ORDER[5 : 5 + count]), effects=False)
    assert plan.trials <= 1 + count * (math.log2(len(ORDER)) + 3)


def test_small_errors_that_add_up_pass_in_the_end() -> None:
    measure = drift(0.6)
    plan = plan_precision("auto", "fp16", SHARES, measure)
    half = frozenset(name for name, kind in plan.types.items() if kind == "fp16")
    assert measure(half).passed
    assert all(not measure(half | {name}).passed for name in set(ORDER) - half), "one more could be won back"


def test_a_block_is_won_back_where_others_freed_it() -> None:
    """b9 breaks with b2 and b12 breaks with b2; bisection takes b9 and b12 out, and b9 alone would have been enough."""
    broken = together({"b2", "b9"}, {"b9", "b12"}, {"b2", "b12", "b9"})
    kept = fp32_blocks(ORDER, lambda half: broken(half).passed, SHARES)
    assert kept == {"b9"}


def test_a_block_that_fails_alone_stays_fp32_though_luck_carries_it_among_others() -> None:
    def measure(half: Half) -> ParityRecord:
        return parity_record("b3" not in half or {"b3", "b4"} <= half)

    assert plan_precision("auto", "fp16", SHARES, measure, effects=False).types["b3"] == "fp16"
    plan = plan_precision("auto", "fp16", SHARES, measure)
    assert {entry.block for entry in plan.blocks if entry.kind == "fp32"} == {"b3"}


def test_every_set_is_measured_once() -> None:
    seen: list[Half] = []

    def measure(half: Half) -> ParityRecord:
        seen.append(half)
        return bad("b3", "b11")(half)

    plan = plan_precision("auto", "fp16", SHARES, measure)
    assert len(seen) == len(set(seen))
    assert plan.trials == len(seen)


def test_measures_each_block_alone() -> None:
    plan = plan_precision("auto", "fp16", SHARES, bad("b3"))
    alone = {entry.block: entry.alone for entry in plan.blocks}
    assert {name for name, effect in alone.items() if effect and not effect.passed} == {"b3"}
    assert all(effect is not None and effect.max_score_delta == 0.01 for effect in alone.values())
    without = plan_precision("auto", "fp16", SHARES, bad(), effects=False)
    assert all(entry.alone is None for entry in without.blocks)


@pytest.mark.parametrize("half", [ORDER, []])
def test_a_model_that_fails_in_fp32_is_an_error(half: list[str]) -> None:
    with pytest.raises(ParityError, match="every block in fp32"):
        first_breaking(half, lambda _: False)


def test_one_block_and_no_block() -> None:
    assert plan_precision("auto", "fp16", {"b0": 1.0}, bad("b0")).types == {"b0": "fp32"}
    assert plan_precision("auto", "fp16", {}, bad()).blocks == ()
