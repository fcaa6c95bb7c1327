"""What it costs to ask images with phrases of their own: the whole bank, a part by map, the best phrases by response.

Run it as ``python -m medprompt.benchmarks.research.prompt_latency BUNDLE --reference CHECKPOINT --images FILE``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.latency.machine import check_threads, format_machine
from medprompt.benchmarks.latency.measure import bundle_context
from medprompt.benchmarks.latency.reference_pipeline import reference_family
from medprompt.benchmarks.latency.timing import LatencyReport, measure_latency
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.files import write_json
from medprompt.export.embed import bank_from_prompts
from medprompt.images.read import find_images, load_image
from medprompt.prompts.schema import PromptClass, Prompts
from medprompt.runtime import Detector, detect_by_best

SIZES = ("big", "wee", "long", "flat")
LOOKS = ("red", "blue", "dark", "pale", "white")
THINGS = ("cell", "spot", "disc", "bump", "ring")

CLASSES = 3
WHOLE, OWN, BEST = "whole bank", "own phrases", "top:1"


def many_phrases(count: int) -> Prompts:
    """``count`` distinct phrases (at most 100) of three words, each a class of its own."""
    texts = [" ".join(words) for words in itertools.product(SIZES, LOOKS, THINGS)]
    if not 1 <= count <= len(texts):
        raise ValueError(f"expected 1 … {len(texts)} phrases, got {count}")
    classes = [PromptClass.model_validate({"label": text, "phrases": [text]}) for text in texts[:count]]
    return Prompts(classes=tuple(classes))


def phrases_in_classes(count: int, classes: int = CLASSES) -> Prompts:
    """``count`` distinct phrases (``classes`` … 100), dealt out to classes in turn."""
    if count < classes:
        raise ValueError(f"expected {classes} phrases or more, one a class, got {count}")
    texts = many_phrases(count).texts
    entries = [
        PromptClass.model_validate({"label": f"class {index}", "phrases": list(texts[index::classes])})
        for index in range(classes)
    ]
    return Prompts(classes=tuple(entries))


def own_phrases(prompts: Prompts) -> list[tuple[str, ...]]:
    """Sets as per-image prompts give them: one phrase a class, another one in each set until a class has no more."""
    max_images = min(len(entry.phrases) for entry in prompts.classes)
    return [tuple(entry.phrases[index].text for entry in prompts.classes) for index in range(max_images)]


def bench_own_phrases(
    bundle: Bundle | Path | str,
    checkpoint: Path,
    image: NDArray[np.uint8],
    *,
    threads: int,
    rounds: int,
    count: int = 30,
    device: str = "auto",
    warmup: int = 2,
    max_seconds: float | None = None,
) -> LatencyReport:
    """Time three ways to ask on one engine: the whole bank, a part of it (another one each round), the best phrases.

    Args:
        bundle: A bundle with max pooling, or its folder.
        checkpoint: The checkpoint that it was made from: it encodes the phrases.
        image: uint8 ``[H, W, 3]``.
        threads: CPU threads.
        rounds: Timed calls of each.
        count: Phrases of the whole bank, in ``CLASSES`` classes.
        device: The bundle's engine.
        warmup: Calls of each before the timed ones.
        max_seconds: See ``measure_latency``.

    Returns:
        A report whose baseline is the whole bank.

    Raises:
        InputError: See ``load_bundle``, ``reference_family``, ``check_threads`` and ``Detector.load``.
    """
    check_threads(threads)
    loaded = load_bundle(bundle)
    prompts = phrases_in_classes(count)
    bank = bank_from_prompts(reference_family(loaded, checkpoint), prompts)
    sets = itertools.cycle(own_phrases(prompts))
    with Detector.load(loaded, device, prompts=bank, threads=threads) as detector:
        return measure_latency(
            {
                WHOLE: lambda: detector(image),
                OWN: lambda: detector(image, next(sets)),
                BEST: lambda: detect_by_best(detector, image, 1),
            },
            rounds,
            warmup,
            max_seconds=max_seconds,
            context=bundle_context(loaded, threads, 1) | {"device": detector.choice.device, "phrases": count},
        )


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.prompt_latency", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="the checkpoint it was made from")
    parser.add_argument("--images", type=Path, required=True, help="an image, or a folder whose first one is taken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--max-seconds", type=float, help="begin no further round after this long")
    parser.add_argument("--device", default="auto", help="the engine to time")
    parser.add_argument("--count", type=int, default=30, help="phrases of the whole bank")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    return parser.parse_args(words)


def _main() -> None:
    from medprompt.core.terminal import print_table

    args = _arguments()
    report = bench_own_phrases(
        args.bundle,
        args.reference,
        load_image(find_images([args.images])[0]),
        threads=args.threads,
        rounds=args.rounds,
        count=args.count,
        device=args.device,
        max_seconds=args.max_seconds,
    )
    title = f"{report.context['family']}, {args.count} phrases, {report.context['device']}, {report.rounds} rounds"
    print_table(title, report.columns(), report.rows(), format_machine(dict(report.machine)))
    write_json(args.json, report.as_json())


if __name__ == "__main__":
    run_command(_main)
