"""What the commands share: argument types, early refusals, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import fields
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medprompt.core.errors import InputError, MedpromptError, missing_extra
from medprompt.core.output_kinds import Kind
from medprompt.core.outputs import Output, reserve_outputs
from medprompt.core.terminal import Table, print_table

if TYPE_CHECKING:
    from medprompt.core.manifest import ParityRecord
    from medprompt.data import DetectionSet
    from medprompt.prompts.bank import PromptBank
    from medprompt.prompts.schema import Prompts

Checkpoint = Annotated[
    Path,
    typer.Argument(help="The fine-tuned checkpoint: a Hugging Face folder with config, weights and processor."),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="Folder of the text model's tokenizer, which a checkpoint file needs."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The config that the checkpoint file was trained with, where the file lacks it."),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="Which of several sets of weights in the file, such as model_ema."),
]
Base = Annotated[
    Path | None,
    typer.Option("--base", help="The model that an adapter was trained on, where its config names none."),
]
Opset = Annotated[int, typer.Option("--opset", help="ONNX operator set, 18 to 20.")]
IntendedUse = Annotated[
    str | None,
    typer.Option("--intended-use", help="What the bundle is for, in a sentence or two. Research use only by default."),
]
About = Annotated[
    Path | None,
    typer.Option(
        "--about",
        help="Supplier, licence, limits and data sets of the weights (JSON), where they lack about.json.",
    ),
]
BundlePath = Annotated[Path, typer.Argument(help="The bundle: a folder made by `medprompt export`.")]
EITHER = "A prompts file (YAML) or a prompt bank (safetensors)."
PromptsPath = Annotated[Path, typer.Option("--prompts", help="The prompts file (YAML).")]
EitherPrompts = Annotated[Path, typer.Option("--prompts", help=EITHER)]
Bank = Annotated[
    Path | None, typer.Option("--prompts", help="Use the prompts of this bank instead of the bundle's own.")
]
PromptMap = Annotated[
    Path | None, typer.Option("--prompt-map", help="Write here which phrases belong to each image (JSON).")
]
OutBank = Annotated[Path, typer.Option("--out", help="The prompt bank to write (safetensors).")]
OutPrompts = Annotated[Path, typer.Option("--out", help="The prompts file to write (YAML).")]
Device = Annotated[
    str, typer.Option("--device", help="The device to run on: 'auto', or one that `medprompt doctor` lists.")
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="A device to measure on; repeat for several. 'auto' by default.", show_default=False),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine. All cores by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
DATA_FORMS = "FILE.json (COCO), FOLDER:SPLIT (VOC) or data.yaml:SPLIT (YOLO)"
Data = Annotated[list[str], typer.Option("--data", help=f"Labelled images: {DATA_FORMS}. Repeat for several sets.")]
OneData = Annotated[str, typer.Option("--data", help=f"Labelled images: {DATA_FORMS}.")]
ImageFolder = Annotated[
    Path | None,
    typer.Option(
        "--images", help="Folder of the labelled images, where they are not beside their labels.", show_default=False
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Go on in spite of a finding that makes figures meaningless, such as no_box. Repeat for several.",
        show_default=False,
    ),
]
Images = Annotated[list[Path], typer.Option("--images", help="An image, or a folder of images. Repeat for several.")]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="HxW",
        help="Height and width of the model's image, such as 800x1066, for families whose size is free "
        "(Grounding DINO).",
    ),
]
Cache = Annotated[Path | None, typer.Option("--cache", help="Folder that keeps computed image features between runs.")]
Reference = Annotated[
    Path | None, typer.Option("--reference", help="The checkpoint of the bundle, to compare with PyTorch.")
]
TimedThreads = Annotated[
    int, typer.Option("--threads", min=1, help="CPU threads of everything that is timed, PyTorch included.")
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds. Each round times every engine once.")]
MaxImages = Annotated[int, typer.Option("--max-images", min=1, help="Use the first so many images, by name.")]
Resamples = Annotated[
    int, typer.Option("--resamples", min=1, help="Bootstrap samples behind each 95 % confidence interval.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")]
ShotsSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice and the order of images.")]
PublicKey = Annotated[
    Path | None,
    typer.Option("--key", help="Public key (PEM). Refuse a bundle that the holder of its private key did not sign."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the access token. Or set the variable MEDPROMPT_TOKEN."),
]
PrivateKey = Annotated[Path, typer.Option("--private-key", help="The private key (PEM, Ed25519).")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the password of the private key, if it has one.")
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse instead of warning: stop at the first image that cannot be read."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that medprompt wrote.")]


def password(path: Path | None) -> bytes | None:
    """The password in a file; None of None.

    Raises:
        InputError: It cannot be read.
    """
    if path is None:
        return None
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError("The password cannot be read.", where=str(path), got=error.strerror or "") from error


def split_list(values: Iterable[str] | None) -> list[str]:
    """The words of an option that repeats; commas separate words too, and empty words are dropped."""
    return [word for value in values or () for part in value.split(",") if (word := part.strip())]


def size_hw(text: str | None, parameter: str = "image_size") -> tuple[int, int] | None:
    """Height and width of ``HEIGHTxWIDTH``, or of one number for both; None of None.

    Raises:
        InputError: Something else.
    """
    if text is None:
        return None
    height, cross, width = text.strip().lower().partition("x")
    width = width if cross else height
    if not (height.isdecimal() and width.isdecimal()):
        raise InputError("This is not a size.", where=parameter, expected="HEIGHTxWIDTH, such as 800x1066", got=text)
    return int(height), int(width)


def counts(values: Iterable[str], parameter: str) -> list[int]:
    """Whole numbers from 1 of an option that repeats, in rising order, each once; empty for ``none``.

    Raises:
        InputError: Something else.
    """
    words = split_list(values)
    if [word.lower() for word in words] == ["none"]:
        return []
    if not words or not all(word.isdecimal() and int(word) for word in words):
        expected = "whole numbers such as 1,10,100, or none"
        raise InputError("These are not counts.", where=parameter, expected=expected, got=", ".join(values))
    return sorted({int(word) for word in words})


def labelled_sets(
    sources: Iterable[str], images: Path | None = None, allow: Iterable[str] | None = None
) -> list[DetectionSet]:
    """Read labelled sets, and print what is wrong with them and no reason to refuse them."""
    from medprompt.data import read_detection_set

    sets = [read_detection_set(source, images, tuple(allow or ())) for source in sources]
    print_warnings(line for found in sets for line in found.warnings)
    return sets


def need(module: str, feature: str, extra: str) -> None:
    """Refuse early where a package is absent, naming the extra."""
    if find_spec(module) is None:
        raise missing_extra(feature, module, extra)


HELD: ContextVar[ExitStack] = ContextVar("HELD")
"""What a command holds until it ends; ``medprompt.commands.base.Command`` sets it."""


def reserve(
    outputs: Mapping[str, tuple[Path | None, Kind]],
    inputs: Iterable[Path | None] = (),
    images: Iterable[Path] = (),
    *,
    force: bool = False,
) -> None:
    """Reserve outputs until the command ends: paths and kinds by parameter; see ``reserve_outputs``.

    Raises:
        InputError: One may not be written.
    """
    present = {name: Output(path, kind) if path else None for name, (path, kind) in outputs.items()}
    HELD.get().enter_context(reserve_outputs(present, inputs, images, force=force))


def options_of(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """A dataclass of options, each field from the argument of its name; ``given`` may hold more."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def data_paths(*sources: str | None) -> list[Path]:
    """The files and folders that addresses of labelled images name."""
    from medprompt.data.read import path_of_source

    return [path_of_source(source) for source in sources if source]


def today() -> str:
    """The day in UTC, as YYYY-MM-DD."""
    return datetime.now(UTC).date().isoformat()


def refuse_unread(unread: Sequence[str], what: str, source: str, of: str = "") -> None:
    """Refuse to end as if all were well where images of a source were not read: what was found is of the others.

    Raises:
        MedpromptError: An image was not read.
    """
    if unread:
        raise MedpromptError(
            f"{len(unread)}{of} images were not read; the {what} are of the others.",
            where="; ".join(unread[:3]),
            fix=f"repair the files, or take them out of the {source}",
        )


def print_json(value: Any, *, allow_nan: bool = True) -> None:
    """Print JSON on stdout; NaN, which JSON does not have, only where ``allow_nan``."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=allow_nan))


def print_warnings(texts: Iterable[str]) -> None:
    """Print warnings on stderr, so that JSON on stdout stays whole."""
    for text in texts:
        print(f"warning: {text}", file=sys.stderr)


def print_measured(found: Any, as_json: bool) -> None:
    """Print what a measurement found: its ``as_json()``, or its ``tables()``."""
    if as_json:
        print_json(found.as_json())
    else:
        print_tables(found.tables())


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables on stdout."""
    for table in tables:
        print_table(table.title, table.columns, table.rows, table.caption)


def print_prompts(given: PromptBank | Prompts) -> None:
    """Print the classes and phrases of a bank or a prompts file as a table."""
    from medprompt.prompts.bank import PromptBank

    prompts = given.prompts if isinstance(given, PromptBank) else given
    rows = [
        (entry.label, phrase.text, f"{phrase.weight:g}", "default" if entry.threshold is None else entry.threshold)
        for entry in prompts.classes
        for phrase in entry.phrases
    ]
    caption = f"pooling {prompts.pooling}"
    if isinstance(given, PromptBank):
        caption += f", encoder {given.encoder}, bank sha256 {given.content_hash()[:16]}"
    print_table("Prompts", ["class", "phrase", "weight", "threshold"], rows, caption)


def describe_parity(parity: ParityRecord) -> str:
    """The numbers of a comparison in one line."""
    return (
        f"{parity.kept:.2%} of {parity.decisions} decisions kept on {parity.images} images "
        f"({parity.image_source}), largest score difference {parity.max_score_delta:.4f}"
    )


def print_engines(engines: Any) -> None:
    """Print the engine records of a manifest as a table."""
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
