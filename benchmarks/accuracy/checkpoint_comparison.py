"""AP of a bundle and of its checkpoint in PyTorch on labelled images, and the decisions that it keeps.

The short comparison, of the demo; ``medprompt bench accuracy`` measures all of
``medprompt.benchmarks.accuracy.evaluation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medprompt.benchmarks.accuracy.predictions import Reference, predict_dataset, reference_of_checkpoint
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.manifest import ParityRecord
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet
from medprompt.metrics.agreement import check_decisions
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.detector import Detector
from medprompt.runtime.verify import tolerance_of_device

COLUMNS = (
    "data",
    "images",
    "AP PyTorch",
    "AP bundle",
    "ΔAP",
    "AP50 bundle",
    "decisions",
    "kept",
    "max Δscore",
    "parity",
)


@dataclass(frozen=True)
class SetComparison:
    """A bundle and PyTorch on one labelled set, both asked for the set's own classes.

    Attributes:
        name: The data set.
        labels: Its classes.
        images: How many images.
        boxes: How many labelled boxes.
        reference: PyTorch's accuracy.
        bundle: The bundle's.
        parity: The bundle's decisions against PyTorch's.
    """

    name: str
    labels: tuple[str, ...]
    images: int
    boxes: int
    reference: Accuracy
    bundle: Accuracy
    parity: ParityRecord

    @property
    def delta_ap(self) -> float:
        """The bundle's AP less PyTorch's."""
        return self.bundle.ap - self.reference.ap

    def row(self) -> tuple[str, ...]:
        """For tables, see ``COLUMNS``."""
        return (
            short_name(self.name),
            str(self.images),
            f"{self.reference.ap:.4f}",
            f"{self.bundle.ap:.4f}",
            f"{self.delta_ap:+.4f}",
            f"{self.bundle.ap50:.4f}",
            str(self.parity.decisions),
            f"{self.parity.kept:.2%}",
            f"{self.parity.max_score_delta:.4f}",
            "passed" if self.parity.passed else "FAILED",
        )


@dataclass(frozen=True)
class AccuracyReport:
    """All sets.

    Attributes:
        sets: One comparison a set.
        device: The bundle's engine.
        bundle_sha256, checkpoint_sha256: What was compared.
        machine: See ``describe_machine``.
    """

    sets: tuple[SetComparison, ...]
    device: str
    bundle_sha256: str
    checkpoint_sha256: str
    machine: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether parity passed on every set."""
        return all(entry.parity.passed for entry in self.sets)

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {
            "device": self.device,
            "bundle_sha256": self.bundle_sha256,
            "checkpoint_sha256": self.checkpoint_sha256,
            "passed": self.passed,
            "sets": [_set_as_json(entry) for entry in self.sets],
            "machine": self.machine,
        }


def compare_accuracy(
    bundle: Bundle | Path | str,
    checkpoint: Path,
    labelled: Sequence[DetectionSet],
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> AccuracyReport:
    """Run a bundle and its checkpoint on labelled images, each set with the phrases of its own classes.

    Args:
        bundle: A bundle, or its folder.
        checkpoint: The checkpoint that it was made from.
        labelled: The data sets; their categories are matched to the bundle's classes by name.
        device: The bundle's engine.
        threads: CPU threads of the engine and of PyTorch; their own choice where None.
        progress: Notified of each image.

    Raises:
        DataError: A category that the bundle has no class for.
        InputError: See ``load_bundle``, ``reference_of_checkpoint`` and ``Detector.load``.
    """
    progress = progress or Silent()
    loaded = load_bundle(bundle)
    banks = [loaded.bank.subset(own_labels(loaded.bank, entry)) for entry in labelled]
    reference = reference_of_checkpoint(loaded, checkpoint, threads)
    compared, served = [], device
    for entry, bank in zip(labelled, banks, strict=True):
        with Detector.load(loaded, device, prompts=bank, threshold=0.0, threads=threads) as detector:
            served = detector.choice.device
            progress.step(f"bundle and PyTorch on {short_name(entry.name)}", len(entry.images))
            compared.append(_compared(reference, detector, entry, progress))
    manifest = loaded.manifest
    return AccuracyReport(tuple(compared), served, loaded.sha256, manifest.checkpoint_sha256, describe_machine())


def short_name(name: str) -> str:
    """The last two parts of a data set's name, without suffix: enough to tell sets apart in a table."""
    return "/".join(Path(name).with_suffix("").parts[-2:])


def own_labels(bank: PromptBank, labelled: DetectionSet) -> list[str]:
    """The bank's names of a set's categories."""
    labelled.relabelled(bank.labels)  # refuses a category without a class
    wanted = {label.casefold() for label in labelled.labels}
    return [label for label in bank.labels if label.casefold() in wanted]


def _compared(reference: Reference, detector: Detector, labelled: DetectionSet, progress: Progress) -> SetComparison:
    predictions = predict_dataset(detector, labelled, progress, reference)
    tolerance = tolerance_of_device(detector.bundle, detector.choice.device)
    return SetComparison(
        name=labelled.name,
        labels=detector.bank.labels,
        images=len(predictions.bundle),
        boxes=sum(len(entry.boxes_xyxy) for entry in labelled.images),
        reference=measure_accuracy(labelled, predictions.reference),
        bundle=measure_accuracy(labelled, predictions.bundle),
        parity=check_decisions(
            list(zip(predictions.reference, predictions.bundle, strict=True)),
            detector.manifest.default_threshold,
            tolerance,
            labelled.name,
            detector.manifest.postprocess.top_k,
        ),
    )


def _set_as_json(entry: SetComparison) -> dict[str, Any]:
    return {
        "name": entry.name,
        "labels": list(entry.labels),
        "images": entry.images,
        "boxes": entry.boxes,
        "reference": asdict(entry.reference),
        "bundle": asdict(entry.bundle),
        "delta_ap": entry.delta_ap,
        "parity": entry.parity.model_dump(mode="json"),
    }
