"""How far a compiled engine's sizes may go: one range an axis name of ``TensorSpec.shape``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medprompt.core.errors import InputError
from medprompt.core.manifest import AxisRange, Manifest, OwnSize, Preprocess
from medprompt.export.compile.options import CompileOptions
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank

MAX_BATCH = 1
"""Memory is reserved for the largest batch; a stream of images, a folder and a video ask for one at a time."""

MAX_PHRASES = 64
"""Or twice the bundle's own, where that is more: room for banks that are swapped in later."""

TOKENS_A_PHRASE = 8
"""Tokens to allow for each phrase, or the bundle's longest phrase, where that is more."""

MAX_TOKENS_OF_ONE = 64
"""Tokens of the longest phrase, or of the task sentence; twice the bundle's own, where that is more."""

MAX_SOURCE_HW = (2160, 3840)
"""Where the graph resizes: a 4K frame. A source of one pixel is allowed."""

LEAST_SIDE = 64
"""Pixels of the model's image each way, where it has any size: two cells of a backbone's coarsest map.

TensorRT for RTX 1.7.1 does not compile a batch of images whose coarsest map may be one cell ("Inconsistent strides").
"""


def axes_of_bundle(manifest: Manifest, bank: PromptBank, options: CompileOptions) -> dict[str, AxisRange]:
    """Choose the range of every dynamic axis of a bundle's graph.

    The typical sizes are those of the bank; upper ends are those of the options, the manifest's own, or the defaults.

    Raises:
        InputError: A limit below what the bundle's own prompts need.
    """
    typical = _sizes_of_bank(manifest, bank) | {"B": 1}
    stored = {
        axis: bounds.most for axis, bounds in manifest.axes.items() if not (options.max_phrases and axis in "PCT")
    }
    phrases = options.max_phrases or stored.get("P") or max(MAX_PHRASES, 2 * typical.get("P", 1))
    model = dict.fromkeys("hw", _longest_edge(manifest.preprocess))
    largest = _default_most(typical, bank, phrases) | model | stored | _asked(options)
    at_once = manifest.postprocess.phrases_at_once
    if at_once is not None:  # the runtime asks for no more together, and memory is reserved for the most
        typical, largest = ({**sizes, "P": min(sizes["P"], at_once)} for sizes in (typical, largest))
    typical |= {"H": largest["H"] // 2, "W": largest["W"] // 2}
    typical |= dict(zip("hw", manifest.preprocess.size_hw, strict=True))
    used = {axis for spec in manifest.inputs for axis in spec.shape if isinstance(axis, str)}
    least = dict.fromkeys("hw", _least_side(manifest.preprocess))
    return {axis: _range(axis, typical[axis], largest[axis], least.get(axis, 1)) for axis in sorted(used)}


def phrases_in_all(manifest: Manifest, bank: PromptBank, options: CompileOptions) -> int:
    """Phrases of one request, where an engine computes some of them at a time: those asked for, or the bundle's own."""
    stored = manifest.axes.get("P")
    return options.max_phrases or max(_sizes_of_bank(manifest, bank).get("P", 1), stored.most if stored else 1)


def _sizes_of_bank(manifest: Manifest, bank: PromptBank) -> dict[str, int]:
    """The size of each prompt axis when the bundle's own prompts are served."""
    feeds = prompt_inputs(bank, manifest.inputs)
    return {
        axis: size
        for spec in manifest.inputs
        if spec.name in feeds
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }


def _default_most(typical: Mapping[str, int], bank: PromptBank, phrases: int) -> dict[str, int]:
    """Upper ends for so many phrases."""
    counts = [int(count) for count in bank.token_counts]
    around = typical.get("T", 0) - sum(counts)
    return {
        "B": MAX_BATCH,
        "P": phrases,
        "C": phrases,
        "T": around + phrases * max(TOKENS_A_PHRASE, *counts, 0),
        "L": max(MAX_TOKENS_OF_ONE, 2 * typical.get("L", 1)),
        "H": MAX_SOURCE_HW[0],
        "W": MAX_SOURCE_HW[1],
    }


def _asked(options: CompileOptions) -> dict[str, int]:
    height, width = options.max_source or (None, None)
    requested = {"B": options.max_batch, "T": options.max_tokens, "H": height, "W": width}
    return {axis: size for axis, size in requested.items() if size is not None}


def _longest_edge(preprocess: Preprocess) -> int:
    """Of the model's image: what the processor states, or 3 to 1 where it states no limit."""
    own = preprocess.own_size or OwnSize()
    return own.longest_edge or max(own.max_height or 0, own.max_width or 0) or 3 * max(preprocess.size_hw)


def _least_side(preprocess: Preprocess) -> int:
    """Of a square image that has enough pixels, and is no smaller than two cells where the processor's is not."""
    return max(math.isqrt(preprocess.least_pixels - 1) + 1, min(LEAST_SIDE, *preprocess.size_hw))


def _range(axis: str, typical: int, largest: int, least: int) -> AxisRange:
    if axis in "PCTL" and largest < typical:
        raise InputError(
            "The limit is below what the bundle's own prompts need.",
            where="max_tokens" if axis == "T" else "max_phrases",
            expected=f"{typical} or more",
            got=str(largest),
            fix="raise the limit, or export the bundle with fewer phrases",
        )
    return AxisRange(least=least, typical=max(least, min(typical, largest)), most=largest)
