"""What the commands share: argument types, early refusals, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medprompt.core.errors import InputError, missing_extra

if TYPE_CHECKING:
    from medprompt.core.manifest import ParityRecord
    from medprompt.prompts.bank import PromptBank

Checkpoint = Annotated[Path, typer.Argument(help="Hugging Face folder: config.json, model.safetensors, processor.")]
BundlePath = Annotated[Path, typer.Argument(help="Bundle folder made by `medprompt export`.")]
PromptsPath = Annotated[Path, typer.Option("--prompts", help="Prompts file (YAML).")]
Device = Annotated[str, typer.Option(help="auto, or a device that `medprompt doctor` lists.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the engine; all cores by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
DATA_FORMS = "FILE.json (COCO), FOLDER:SPLIT (VOC) or data.yaml:SPLIT (YOLO)"
Data = Annotated[list[str], typer.Option("--data", help=f"{DATA_FORMS}; repeats.")]
Reference = Annotated[
    Path | None, typer.Option("--reference", help="The checkpoint it was made from, to compare with PyTorch.")
]
TimedThreads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of all that is timed.")]
Rounds = Annotated[int, typer.Option(min=1, help="Timed calls of each, in turn.")]
Resamples = Annotated[int, typer.Option(min=1, help="Draws of the bootstrap.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the intervals.")]
PublicKey = Annotated[
    Path | None, typer.Option("--key", help="Public key (PEM): refuse a bundle that its holder did not sign.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]


def need(module: str, feature: str, extra: str) -> None:
    """Refuse early where a package is absent, naming the extra."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise missing_extra(feature, module, extra)


def refuse_existing(force: bool, *outputs: Path | None) -> None:
    """Refuse early where an output exists and may not be replaced."""
    for out in outputs:
        if out is not None and out.exists() and not force:
            raise InputError("The output exists already.", where=str(out), fix="choose another, or pass --force")


def today() -> str:
    """The day in UTC, as YYYY-MM-DD."""
    return datetime.now(UTC).date().isoformat()


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_warnings(texts: Iterable[str]) -> None:
    """Print warnings on stderr, so that JSON on stdout stays whole."""
    for text in texts:
        print(f"warning: {text}", file=sys.stderr)


def print_prompts(bank: PromptBank) -> None:
    """Print a bank's classes and phrases as a table."""
    from medprompt.core.terminal import print_table

    rows = [
        (
            entry.label,
            phrase.text,
            f"{phrase.weight:g}",
            "default" if entry.threshold is None else entry.threshold,
        )
        for entry in bank.prompts.classes
        for phrase in entry.phrases
    ]
    caption = f"pooling {bank.prompts.pooling}, encoder {bank.encoder}, bank sha256 {bank.content_hash()[:16]}"
    print_table("Prompts", ["class", "phrase", "weight", "threshold"], rows, caption)


def describe_parity(parity: ParityRecord) -> str:
    """The numbers of a comparison in one line."""
    return (
        f"{parity.kept:.2%} of {parity.decisions} decisions kept on {parity.images} images "
        f"({parity.image_source}), "
        f"largest score difference {parity.max_score_delta:.4f}"
    )


def print_engines(engines: Any) -> None:
    """Print the engine records of a manifest as a table."""
    from medprompt.core.terminal import print_table

    rows = [
        (
            record.device,
            record.precision,
            "-" if record.latency_ms is None else f"{record.latency_ms:.1f}",
            "-" if record.parity is None else f"{record.parity.kept:.2%} of {record.parity.decisions}",
            "-" if record.parity is None else f"{record.parity.max_score_delta:.4f}",
            record.reason or ("passed" if record.parity and record.parity.passed else "FAILED"),
        )
        for record in engines
    ]
    print_table("Engines, as measured at export", ["device", "precision", "ms", "kept", "max Δscore", "parity"], rows)
