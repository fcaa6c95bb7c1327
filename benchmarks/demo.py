"""The whole product once, on what ships with it: export, detect, compare with PyTorch, show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from medprompt.benchmarks.accuracy.evaluation import EvaluationReport, SetResult, evaluate_bundle
from medprompt.benchmarks.accuracy.predictions import own_labels, short_name
from medprompt.benchmarks.latency.machine import format_machine
from medprompt.benchmarks.latency.measure import LatencyOptions, bench_bundle
from medprompt.benchmarks.latency.timing import LatencyReport
from medprompt.benchmarks.report.contact_sheet import contact_sheet
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.core.files import write_json
from medprompt.core.manifest import EngineRecord
from medprompt.core.outputs import folder_written_aside
from medprompt.core.overlay import draw_overlay, save_overlay
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table
from medprompt.data import DetectionSet, LabelledImage, read_detection_set
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.images.read import load_image
from medprompt.metrics.coco import SizedAccuracy
from medprompt.runtime.detector import Detector

DEMO = Path(str(files("medprompt") / "demo"))
CHECKPOINT, PROMPTS, IMAGES = DEMO / "checkpoint", DEMO / "prompts.yaml", DEMO / "images"

MEASURED_FILE = "measured.json"
"""In the checkpoint: its figures on the whole validation splits, such as ``{"ap50/bccd": 0.66}``."""

ROUNDS = 10
WARMUP = 2

ACCURACY_COLUMNS = (
    *("data", "images", "AP PyTorch", "AP bundle", "ΔAP", "AP50 bundle"),
    *("decisions", "kept", "max Δscore", "parity"),
)

MAX_SECONDS = 60.0
"""No further round after this long: on a busy machine the demo shall end, and says how many rounds it had."""


@dataclass(frozen=True)
class Shown:
    """What was found in one image of a data set; the picture's path is relative to the output folder."""

    image: LabelledImage
    data: str
    detections: Detections
    picture: str

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "file": self.image.path.name,
            "data": self.data,
            "labelled": len(self.image.boxes_xyxy),
            "picture": self.picture,
            "detections": list(self.detections.rows()),
        }


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured.

    Attributes:
        out: The folder it made.
        engines: The engines tried at export, with their parity.
        measured: The checkpoint's own figures on whole validation splits; empty where it brings none.
    """

    out: Path
    engines: tuple[EngineRecord, ...]
    accuracy: EvaluationReport
    latency: LatencyReport
    shown: tuple[Shown, ...]
    measured: dict[str, float]

    @property
    def pictures(self) -> Path:
        """All overlays on one sheet."""
        return self.out / "contact-sheet.png"

    def as_json(self) -> dict[str, Any]:
        """Everything measured: the content of ``results.json``."""
        return {
            "engines": [record.model_dump(mode="json") for record in self.engines],
            "accuracy_on_samples": {
                "device": self.accuracy.device,
                "bundle_sha256": self.accuracy.bundle_sha256,
                "checkpoint_sha256": self.latency.context["checkpoint_sha256"],
                "passed": not self.accuracy.failed,
                "sets": [_compared(entry) for entry in self.accuracy.sets],
                "machine": self.accuracy.machine,
            },
            "latency": self.latency.as_json(),
            "checkpoint_on_validation_splits": self.measured,
            "images": [entry.as_json() for entry in self.shown],
        }

    def tables(self) -> tuple[Table, ...]:
        """What the command line prints."""
        return (self._accuracy_table(), self._latency_table())

    def _accuracy_table(self) -> Table:
        card = ", ".join(f"{name} {value:.3f}" for name, value in self.measured.items() if name.count("/") == 1)
        return Table(
            f"Bundle against PyTorch, on {self.accuracy.device}",
            ACCURACY_COLUMNS,
            [_accuracy_row(_compared(entry)) for entry in self.accuracy.sets],
            f"{len(self.shown)} images demonstrate; they do not measure the model. On the whole validation splits: "
            + (card or "see the checkpoint's model card."),
        )

    def _latency_table(self) -> Table:
        facts, rounds = self.latency.context, self.latency.rounds
        columns = ("from RGB array to boxes", "p50 ms", "p90 ms", "wall, × the first (95 %)", "CPU, × the first")
        return Table(
            f"Latency, threads: {facts['threads']}, batch 1, {rounds} rounds in turn",
            columns,
            [self._latency_row(name) for name in self.latency.series],
            format_machine(dict(self.latency.machine)),
        )

    def _latency_row(self, name: str) -> tuple[str, ...]:
        figures, ratio = self.latency.series[name].as_json(), self.latency.ratio(name)
        return (
            name,
            f"{figures['p50_ms']:.1f}",
            f"{figures['p90_ms']:.1f}",
            str(ratio),
            f"{self.latency.cpu_ratio(name).median:.2f}",
        )


def _compared(entry: SetResult) -> dict[str, Any]:
    """A set as JSON values: both sides' AP, the difference, and the bundle's decisions against PyTorch's."""
    whole = entry.as_json()
    sides = {"reference": entry.reference, "bundle": entry.bundle}
    figures = {name: _figures(side.coco) for name, side in sides.items() if side}
    return {
        **{key: whole[key] for key in ("name", "images", "boxes", "parity")},
        "labels": list(entry.predictions.bundle[0].labels),
        **figures,
        "delta_ap": figures["bundle"]["ap"] - figures["reference"]["ap"],
    }


def _figures(coco: SizedAccuracy) -> dict[str, Any]:
    names = ("ap", "ap50")
    by_label = {f"{name}_by_label": {label: row[name] for label, row in coco.by_label.items()} for name in names}
    return {name: coco.overall[name] for name in names} | by_label


def _accuracy_row(compared: dict[str, Any]) -> tuple[str, ...]:
    parity = compared["parity"]
    return (
        short_name(compared["name"]),
        str(compared["images"]),
        f"{compared['reference']['ap']:.4f}",
        f"{compared['bundle']['ap']:.4f}",
        f"{compared['delta_ap']:+.4f}",
        f"{compared['bundle']['ap50']:.4f}",
        str(parity["decisions"]),
        f"{parity['kept']:.2%}",
        f"{parity['max_score_delta']:.4f}",
        "passed" if parity["passed"] else "FAILED",
    )


def run_demo(
    out: Path,
    progress: Progress | None = None,
    force: bool = False,
    *,
    checkpoint: Path = CHECKPOINT,
    prompts: Path = PROMPTS,
    samples: Path = IMAGES,
    threads: int = 1,
    rounds: int = ROUNDS,
) -> DemoReport:
    """Export a checkpoint, detect in sample images, and compare accuracy, decisions and latency with PyTorch.

    Args:
        out: Folder to make: ``bundle/``, ``pictures/``, ``contact-sheet.png``, ``results.json``.
        progress: Notified of each step.
        force: Replace ``out`` if it exists.
        checkpoint: The shipped one by default.
        prompts: Its prompts file.
        samples: A folder of folders, each with images and their ``labels.json`` (COCO).
        threads: CPU threads of bundle and PyTorch. One by default: where others use the machine, PyTorch's threads
            wait for one another, and it looks many times slower than it is.
        rounds: Timed calls of each.

    Raises:
        InputError: See ``bundle_from_checkpoint`` and ``read_detection_set``; nothing is written then.
        ParityError: The bundle decides otherwise than PyTorch; nothing is written.
    """
    progress = progress or Silent()
    out = Path(out)
    sets = sample_sets(samples)
    inputs = (checkpoint, prompts, samples)
    with folder_written_aside(out, "a folder of medprompt demo", inputs=inputs, force=force) as folder:
        exported = bundle_from_checkpoint(
            checkpoint, prompts, folder / "bundle", ExportOptions(images=samples), progress=progress
        )
        bundle = load_bundle(exported.path)
        shown = _shown(bundle, sets, folder / "pictures", threads, progress)
        accuracy = evaluate_bundle(
            bundle, sets, checkpoint=checkpoint, threads=threads, resamples=0, strict=True, progress=progress
        )
        images = [load_image(entry.image.path) for entry in shown]
        latency = bench_bundle(
            bundle,
            checkpoint,
            images,
            LatencyOptions(
                _proven_devices(exported.manifest.engines), threads, rounds, WARMUP, max_seconds=MAX_SECONDS
            ),
            progress,
        )
        report = DemoReport(out, exported.manifest.engines, accuracy, latency, shown, measured_figures(checkpoint))
        progress.step("write results")
        _write(report, folder)
    return report


def sample_sets(folder: Path) -> tuple[DetectionSet, ...]:
    """Read every ``labels.json`` one level below a folder.

    Raises:
        InputError: There is none, or one is damaged.
    """
    found = sorted(Path(folder).glob("*/labels.json"))
    if not found:
        raise InputError(
            "There are no labelled sample images.",
            where=str(folder),
            expected="FOLDER/<data set>/labels.json, beside its images",
            fix="reinstall medprompt, or name a folder that has them",
        )
    return tuple(read_detection_set(str(path)) for path in found)


def measured_figures(checkpoint: Path) -> dict[str, float]:
    """The figures that a checkpoint brings along; none where it has no ``measured.json``.

    Raises:
        InputError: The file is damaged.
    """
    path = Path(checkpoint) / MEASURED_FILE
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in figures.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            "The checkpoint's figures cannot be read.",
            where=str(path),
            got=str(error),
            fix="install medprompt again: the demo checkpoint is not whole",
        ) from error


def _proven_devices(engines: Sequence[EngineRecord]) -> list[str]:
    """Engines whose parity passed, the fastest first: the one that ``auto`` takes."""
    proven = [record for record in engines if record.parity and record.parity.passed]
    return [record.device for record in sorted(proven, key=lambda record: record.latency_ms or float("inf"))]


def _shown(
    bundle: Bundle, sets: Sequence[DetectionSet], pictures: Path, threads: int, progress: Progress
) -> tuple[Shown, ...]:
    """Detect in every image with the classes of its own set, and draw."""
    shown = []
    progress.step("detect and draw", sum(len(entry.images) for entry in sets))
    for labelled in sets:
        data = Path(labelled.name).parent.name
        with Detector.load(bundle, labels=own_labels(bundle.bank, labelled), threads=threads) as detector:
            for image in labelled.images:
                picture = pictures / f"{data}-{image.path.stem}.png"
                shown.append(_drawn(detector, image, data, picture))
                progress.advance()
    return tuple(shown)


def _drawn(detector: Detector, image: LabelledImage, data: str, picture: Path) -> Shown:
    pixels = load_image(image.path)
    found = detector(pixels)
    save_overlay(draw_overlay(pixels, found), picture)
    return Shown(image, data, found, f"{picture.parent.name}/{picture.name}")


def _write(report: DemoReport, folder: Path) -> None:
    captions = [
        f"{entry.data} {entry.image.path.stem}: {len(entry.detections)} found, {len(entry.image.boxes_xyxy)} labelled"
        for entry in report.shown
    ]
    sheet = contact_sheet([folder / entry.picture for entry in report.shown], captions)
    save_overlay(sheet, folder / report.pictures.name)
    write_json(folder / "results.json", report.as_json())
