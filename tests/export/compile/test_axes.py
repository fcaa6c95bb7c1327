"""The ranges of the dynamic axes: from the bank, the manifest and the user, in that order of weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import InputError
from medprompt.core.manifest import AxisRange, Manifest, OwnSize, Preprocess, TensorSpec
from medprompt.export.compile.axes import axes_of_bundle
from medprompt.export.compile.options import CompileOptions
from medprompt.prompts.bank import PromptBank
from tests.runtime.bundles import SIZE_HW, make_bank, make_manifest


def ranges(limits: CompileOptions | None = None, **changes: Any) -> dict[str, tuple[int, int, int]]:
    axes = axes_of_bundle(make_manifest(**changes), make_bank(), limits or CompileOptions("trt"))
    return {axis: (bounds.least, bounds.typical, bounds.most) for axis, bounds in axes.items()}


def token_bundle() -> tuple[Manifest, PromptBank]:
    """Three phrases of 3, 12 and 4 tokens, one token before and one after."""
    plain = make_bank()
    tensors = {"text": np.zeros((19, 4), np.float32)} | {
        f"text.{side}": np.zeros((1, 4), np.float32) for side in ("before", "after")
    }
    layouts = {"text": "token", "text.before": "shared", "text.after": "shared"}
    bank = PromptBank(plain.prompts, plain.encoder, tensors, layouts, np.array([3, 12, 4]), 1)
    image, *_, classes = make_manifest().inputs
    specs = (
        image,
        TensorSpec(name="text", dtype="float32", shape=(1, "T", 4), source="token"),
        TensorSpec(name="bias", dtype="float32", shape=(1, "T", "T"), source="block_bias"),
        TensorSpec(name="phrase_tokens", dtype="int64", shape=("P", "L"), source="phrase_tokens"),
        classes,
    )
    return make_manifest(inputs=specs), bank


def test_defaults_leave_room_for_other_banks() -> None:
    assert ranges() == {"B": (1, 1, 1), "C": (1, 2, 64), "P": (1, 3, 64)}


def test_source_size_where_the_graph_resizes() -> None:
    graph = Preprocess(size_hw=SIZE_HW, resample="bilinear", placement="graph")
    assert ranges(preprocess=graph)["H"] == (1, 1080, 2160)
    assert ranges(CompileOptions("trt", max_source=(1, 999)), preprocess=graph)["W"] == (1, 499, 999)
    assert ranges(CompileOptions("trt", max_source=(1, 999)), preprocess=graph)["H"] == (1, 1, 1)


@pytest.mark.parametrize(
    ("edges", "least_pixels", "expected"),
    [
        (OwnSize(shortest_edge=800, longest_edge=1333), 43370, (209, 800, 1333)),
        (OwnSize(shortest_edge=800), 43370, (209, 800, 2400)),
        (OwnSize(shortest_edge=96, longest_edge=192), 964, (64, 96, 192)),
        (OwnSize(shortest_edge=40, longest_edge=60), 1, (40, 40, 60)),
        (OwnSize(max_height=96, max_width=192), 964, (64, 96, 192)),
    ],
    ids=["published", "no limit", "few queries", "a small model", "the largest that fits"],
)
def test_the_processors_own_sizes(edges: OwnSize, least_pixels: int, expected: tuple[int, int, int]) -> None:
    short = edges.shortest_edge or edges.max_height or 0
    own = Preprocess(
        size_hw=(short, short), resample="bilinear", sizes="own", own_size=edges, least_pixels=least_pixels
    )
    image, *others = make_manifest().inputs
    inputs = (image.model_copy(update={"shape": ("B", "h", "w", 3)}), *others)
    found = ranges(preprocess=own, inputs=inputs)
    assert found["h"] == found["w"] == expected


def test_tokens_follow_the_longest_phrase() -> None:
    axes = axes_of_bundle(*token_bundle(), CompileOptions("trt"))
    assert (axes["T"].typical, axes["T"].most) == (21, 2 + 64 * 12)
    assert (axes["L"].typical, axes["L"].most) == (11, 64)
    assert axes_of_bundle(*token_bundle(), CompileOptions("trt", max_phrases=5))["T"].most == 2 + 5 * 12
    assert axes_of_bundle(*token_bundle(), CompileOptions("trt", max_tokens=40))["T"].most == 40


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (CompileOptions("trt"), {"B": 4, "P": 10, "C": 10}),
        (CompileOptions("trt", max_batch=1), {"B": 1, "P": 10, "C": 10}),
        (CompileOptions("trt", max_phrases=3), {"B": 4, "P": 3, "C": 3}),
        (CompileOptions("trt", max_batch=16, max_phrases=100), {"B": 16, "P": 100, "C": 100}),
    ],
)
def test_the_user_before_the_manifest_before_the_default(limits: CompileOptions, most: dict[str, int]) -> None:
    stored = {name: AxisRange(least=1, typical=1, most=size) for name, size in {"B": 4, "P": 10, "C": 10}.items()}
    assert {axis: bounds[2] for axis, bounds in ranges(limits, axes=stored).items()} == most


@pytest.mark.parametrize(
    ("limits", "where"),
    [(CompileOptions("trt", max_phrases=2), "max_phrases"), (CompileOptions("trt", max_tokens=20), "max_tokens")],
)
def test_a_limit_below_the_bundles_own_prompts_is_refused(limits: CompileOptions, where: str) -> None:
    with pytest.raises(InputError, match="below what the bundle's own prompts need") as caught:
        axes_of_bundle(*token_bundle(), limits)
    assert caught.value.where == where


@pytest.mark.parametrize(
    "asked",
    [{"max_batch": 0}, {"max_phrases": -1}, {"max_tokens": 65537}, {"max_source": (0, 5)}],
    ids=lambda asked: next(iter(asked)),
)
def test_values_out_of_range_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="out of range"):
        CompileOptions("trt", **asked)


def test_phrases_that_the_runtime_parts_need_no_more_room() -> None:
    plain = make_manifest()
    parted = plain.postprocess.model_copy(update={"phrases_at_once": 2})
    assert ranges(postprocess=parted)["P"] == (1, 2, 2)
    assert ranges(postprocess=plain.postprocess)["P"][2] == 64
