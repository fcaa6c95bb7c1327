"""A release's measurements, kept to compare the next one with: detections, latency ratios, size, and where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AliasChoices, BeforeValidator, Field

from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.regression.reference_workload import REFERENCE_WORKLOAD
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.files import write_text
from medprompt.core.masks import Masks
from medprompt.core.models import FrozenModel, validate
from medprompt.core.output_kinds import file_kind
from medprompt.data import DetectionSet
from medprompt.runtime.engines.machine import read_gpus

SCHEMA = 2
"""Version of the file; raised when a field changes its meaning."""

MIN_SCORE = 0.05
"""Detections under it are not kept, on either side of a comparison. A baseline is a third as large then, and what lies
under it no one reports."""

BASELINE = file_kind("a baseline", r'\{\s*"schema_version": ?\d+,\s*"created":')
"""Known by its beginning, not by its reader: one of an older schema is written anew."""

REWRITE = "write it anew: medprompt bench regress … --update-baseline --reason TEXT"


class Environment(FrozenModel):
    """Where it was measured: hardware, the bundle's engine, CPU threads, versions of libraries."""

    cpu: str
    vector_units: tuple[str, ...]
    gpus: tuple[str, ...]
    system: str
    device: str
    threads: int
    libraries: dict[str, str]

    @property
    def hardware(self) -> str:
        """What must be the same for times to compare."""
        parts = (self.cpu, " ".join(self.vector_units), *self.gpus, self.system)
        return ", ".join(part for part in parts if part)

    def changed_libraries(self, other: Environment) -> tuple[str, ...]:
        """One line for each version that differs."""
        names = sorted({*self.libraries, *other.libraries})
        pairs = [(name, self.libraries.get(name, "-"), other.libraries.get(name, "-")) for name in names]
        return tuple(f"{name} {before} → {now}" for name, before, now in pairs if before != now)


class FoundInImage(FrozenModel):
    """One image's detections over ``min_score``, best first; each number reads back as the same float32.

    ``masks`` are COCO's run lengths as text, of the image's size; None where the bundle makes none.
    """

    boxes_xyxy: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    class_ids: tuple[int, ...]
    masks: tuple[str, ...] | None = None


class BaselineSet(FrozenModel):
    """What was found on one labelled set; ``class_ids`` index into ``labels``, ``images`` are in the set's order."""

    name: str
    labels: tuple[str, ...]
    data_sha256: str
    images: tuple[FoundInImage, ...]


def _today(name: object) -> object:
    return REFERENCE_WORKLOAD if name == "yardstick" else name


class BaselineLatency(FrozenModel):
    """Rounds in turn with a reference: ``ratios`` are the bundle's time over the reference's, one a round.

    ``repeats`` is how often the reference workload repeats its work in a round; 0 for another reference.
    """

    reference: Annotated[str, BeforeValidator(_today)] = Field(validation_alias=AliasChoices("reference", "rival"))
    repeats: int
    ratios: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Baseline(FrozenModel):
    """A baseline file; ``peak_mib`` is of a whole ``medprompt infer``, see ``peak_of_infer``.

    ``thresholds`` are those of the classes, by name in lower case; without them today's are taken.
    """

    schema_version: int = SCHEMA
    created: str
    reason: str
    environment: Environment = Field(validation_alias=AliasChoices("environment", "place"))
    bundle_sha256: str
    bank_sha256: str
    bundle_bytes: int
    peak_mib: Annotated[float, Field(gt=0)]
    min_score: float = Field(validation_alias=AliasChoices("min_score", "least_score"))
    thresholds: dict[str, float] = Field(default_factory=dict)
    sets: tuple[BaselineSet, ...]
    latency: BaselineLatency


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: It is missing, cut off, damaged, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA:
            raise ValueError(f"schema version {content.get('schema_version')}, expected {SCHEMA}")  # noqa: TRY301 - one message
    except FileNotFoundError as error:
        raise InputError(
            "There is no baseline.",
            where=str(path),
            fix="write one: medprompt bench regress … --update-baseline --reason 'first release'",
        ) from error
    except (OSError, ValueError) as error:
        raise InputError("The baseline cannot be read.", where=str(path), got=str(error), fix=REWRITE) from error
    return validate(Baseline, content, InputError("The baseline is damaged.", where=str(path), fix=REWRITE))


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write it, whole or not at all; an ``InputError`` where the path cannot be written to."""
    write_text(path, baseline.model_dump_json(indent=1) + "\n")


def current_environment(device: str, threads: int) -> Environment:
    """This machine, with an engine on it."""
    machine = describe_machine()
    return Environment(
        **{name: machine[name] for name in ("cpu", "vector_units", "system")},
        gpus=tuple(map(str, read_gpus()[0])),
        device=device,
        threads=threads,
        libraries={"python": machine["python"], **machine["libraries"]},
    )


def hash_of_set(labelled: DetectionSet) -> str:
    """SHA-256 over names, sizes, labels and boxes: paired figures need the same images with the same labels."""
    digest = hashlib.sha256("\n".join(labelled.labels).encode())
    for image in labelled.images:
        digest.update(f"{image.path.name} {image.size_hw}".encode())
        digest.update(image.boxes_xyxy.astype("<f4").tobytes() + image.class_ids.astype("<i8").tobytes())
    return digest.hexdigest()


def set_for_baseline(labelled: DetectionSet, found: Sequence[Detections]) -> BaselineSet:
    """What is kept of a set: ``found`` as they are, one an image."""
    images = tuple(
        FoundInImage(
            boxes_xyxy=tuple((_short(a), _short(b), _short(c), _short(d)) for a, b, c, d in one.boxes_xyxy),
            scores=tuple(map(_short, one.scores)),
            class_ids=tuple(map(int, one.class_ids)),
            masks=None if one.masks is None else tuple(one.masks.rle(row)["counts"] for row in range(len(one))),
        )
        for one in found
    )
    labels = found[0].labels if found else labelled.labels
    return BaselineSet(name=labelled.name, labels=labels, data_sha256=hash_of_set(labelled), images=images)


def detections_of_baseline(kept: BaselineSet, labelled: DetectionSet) -> list[Detections]:
    """The detections back, one an image; their phrases are not kept.

    Raises:
        InputError: The set has changed since, or the file is inconsistent.
    """
    if kept.data_sha256 != hash_of_set(labelled) or len(kept.images) != len(labelled.images):
        raise InputError(
            "The data set is not the one that the baseline was measured on.",
            where=labelled.name,
            expected=f"{len(kept.images)} images, sha256 {kept.data_sha256[:16]}",
            got=f"{len(labelled.images)} images, sha256 {hash_of_set(labelled)[:16]}",
            fix="name the same data, or write the baseline anew: medprompt bench regress … --update-baseline",
        )
    try:
        return [
            Detections(
                np.array(one.boxes_xyxy, dtype=np.float32).reshape(-1, 4),
                np.array(one.scores, dtype=np.float32),
                np.array(one.class_ids, dtype=np.int64),
                np.zeros(len(one.scores), dtype=np.int64),
                kept.labels,
                ("baseline",),
                image.size_hw,
                masks=None if one.masks is None else _masks(one.masks, image.size_hw),
            )
            for one, image in zip(kept.images, labelled.images, strict=True)
        ]
    except ValueError as error:
        raise InputError("The baseline is damaged.", where=kept.name, got=str(error), fix=REWRITE) from error


def _masks(counts: Sequence[str], size_hw: tuple[int, int]) -> Masks:
    return Masks.of_rle([{"size": size_hw, "counts": text} for text in counts], size_hw)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _short(value: np.floating) -> float:
    """The shortest decimal that reads back as the same float32."""
    return float(str(np.float32(value)))
