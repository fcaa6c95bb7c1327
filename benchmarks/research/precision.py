"""AP and decisions of one bundle's model in fp32, naive fp16, fp16, auto, bf16, int8 and fp8, on labelled images.

Run it as ``python -m medprompt.benchmarks.research.precision BUNDLE CHECKPOINT --data FOLDER:val --choose
FOLDER:train``. Types are chosen, and int8 and fp8 are calibrated, on the ``--choose`` images; all is measured on the
``--data`` images and against the fp32 model. Half types are measured through simulated-half models, see
``medprompt.export.precision.simulated_half``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from medprompt.benchmarks.accuracy.evaluation import reporting_thresholds
from medprompt.benchmarks.accuracy.predictions import own_labels, short_name
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.latency.reference_pipeline import reference_family
from medprompt.benchmarks.research.command import run_command
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.detections import Detections
from medprompt.core.files import write_json
from medprompt.core.manifest import ParityRecord
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.families.base import Family
from medprompt.export.graph.onnx_export import write_onnx
from medprompt.export.parity.images import ParityImages
from medprompt.export.precision.choose import KINDS, QUANTISED, Precision, PrecisionSelector
from medprompt.export.precision.measure import DecisionMeasure, ModelDetector, detect_or_none
from medprompt.export.precision.search import PrecisionPlan
from medprompt.images.read import load_image
from medprompt.metrics.agreement import check_decisions
from medprompt.metrics.coco import Accuracy, measure_accuracy
from medprompt.metrics.masks import MASK_FIGURES, measure_masks

COLUMNS = (
    *("data", "model", "AP", "AP50", "ΔAP", "Dice", "ΔDice", "decisions", "kept", "extra", "max Δscore"),
    "lower-precision work",
)

ASKED: tuple[Precision, ...] = ("fp16", "auto", "bf16", "int8", "fp8")

MAX_CHOOSE_IMAGES = 64
"""Images that types are chosen on."""


@dataclass(frozen=True)
class Variant:
    """A model to measure.

    Attributes:
        name: For tables.
        precision: Which tolerance it is held to, see ``Family.tolerances``.
        model: The ONNX file that is run.
        share: Share of the matrix work that is not fp32.
        plan: How its types were chosen; None for fp32 and the naive model.
    """

    name: str
    precision: str
    model: Path
    share: float
    plan: PrecisionPlan | None = None


@dataclass(frozen=True)
class VariantOnSet:
    """One model on one labelled set.

    Attributes:
        data: The set.
        variant: The model.
        accuracy: Against the labels.
        delta_ap: AP less that of fp32.
        parity: Decisions against those of fp32.
        dice: Of the masks that are reported, mean of images and classes; None where the model has no masks.
        delta_dice: Dice less that of fp32.
    """

    data: str
    variant: Variant
    accuracy: Accuracy
    delta_ap: float
    parity: ParityRecord
    dice: float | None = None
    delta_dice: float | None = None

    def row(self) -> tuple[str, ...]:
        """For tables, see ``COLUMNS``."""
        return (
            short_name(self.data),
            self.variant.name,
            f"{self.accuracy.ap:.4f}",
            f"{self.accuracy.ap50:.4f}",
            f"{self.delta_ap:+.4f}",
            "-" if self.dice is None else f"{self.dice:.4f}",
            "-" if self.delta_dice is None else f"{self.delta_dice:+.5f}",
            str(self.parity.decisions),
            f"{self.parity.kept:.2%}",
            str(self.parity.extra),
            f"{self.parity.max_score_delta:.4f}",
            f"{self.variant.share:.1%}",
        )


def compare_precisions(
    bundle: Path,
    checkpoint: Path,
    labelled: Sequence[DetectionSet],
    choose: Sequence[DetectionSet],
    *,
    precisions: Sequence[Precision] = ASKED,
    progress: Progress | None = None,
) -> list[VariantOnSet]:
    """Choose every precision on some images and measure it on others.

    Args:
        bundle: A bundle with an fp32 model.
        checkpoint: The checkpoint that it was made from.
        labelled: What is measured on; every set is evaluated with its own classes.
        choose: What types are chosen and ranges calibrated on.
        precisions: Precisions beside fp32.
        progress: Notified of each step.

    Raises:
        DataError: A category that the bundle has no class for.
        InputError: See ``load_bundle`` and ``reference_family``.
    """
    progress = progress or Silent()
    loaded = load_bundle(bundle)
    family = reference_family(loaded, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        variants = list(_variants(family, loaded, _images_of(choose), Path(folder), precisions, progress))
        found: list[VariantOnSet] = []
        for entry in labelled:
            progress.step(f"measure on {short_name(entry.name)}", len(variants))
            found.extend(_on_set(loaded, entry, variants, family, progress))
        return found


def _images_of(sets: Sequence[DetectionSet]) -> ParityImages:
    """Images of all sets, taken in turn, so that each set is heard."""
    max_images = max(1, MAX_CHOOSE_IMAGES // len(sets))
    paths = [
        image.path for entry in sets for image in entry.images[:: max(1, len(entry.images) // max_images)][:max_images]
    ]
    return ParityImages(tuple(paths), f"{len(paths)} images of {', '.join(short_name(s.name) for s in sets)}")


def _variants(
    family: Family,
    bundle: Bundle,
    images: ParityImages,
    folder: Path,
    precisions: Sequence[Precision],
    progress: Progress,
) -> Iterator[Variant]:
    yield Variant("fp32", "fp32", bundle.model, 0.0)
    with ModelDetector(bundle, bundle.model) as detector:
        references = [detector(image) for image in images]
    for precision in precisions:
        progress.step(f"choose {precision}")
        tolerance = family.tolerances.get(KINDS[precision], family.tolerances["fp32"])
        measure = DecisionMeasure(bundle, images, references, tolerance)
        calibration = images if precision in QUANTISED else None
        chooser = PrecisionSelector.of_bundle(bundle.path, family.blocks, precision, measure, calibration, progress)
        naive = chooser.naive() if precision == "fp16" else None
        if naive is not None:
            yield Variant("naive fp16", "fp16", _written(naive, folder / "naive.onnx"), 1.0)
        report, typed = chooser.chosen()
        half = report.plan.half
        shown = _written(chooser.measurable(half), folder / f"{precision}.onnx")
        yield Variant(precision, KINDS[precision], shown, report.plan.half_flops_share, report.plan)
        if precision == "auto":
            served = _written(typed, folder / "typed.onnx")
            yield Variant("auto, as served", "fp16", served, report.plan.half_flops_share, report.plan)


def _written(model: onnx.ModelProto, path: Path) -> Path:
    write_onnx(model, path)
    return path


def _on_set(
    bundle: Bundle, labelled: DetectionSet, variants: Sequence[Variant], family: Family, progress: Progress
) -> Iterator[VariantOnSet]:
    reference: list[Detections] = []
    exact: tuple[Accuracy, float | None] | None = None
    post, threshold = bundle.manifest.postprocess, bundle.manifest.default_threshold
    for variant in variants:
        found, thresholds = _answers(bundle, labelled, variant.model, reference)
        accuracy, dice = measure_accuracy(labelled, found), _dice(bundle, labelled, found, thresholds)
        if exact is None:
            reference, exact = found, (accuracy, dice)
        tolerance = family.tolerances.get(variant.precision, family.tolerances["fp32"])
        pairs = list(zip(reference, found, strict=True))
        parity = check_decisions(pairs, threshold, tolerance, labelled.name, post.top_k)
        progress.advance()
        change = None if dice is None or exact[1] is None else dice - exact[1]
        yield VariantOnSet(labelled.name, variant, accuracy, accuracy.ap - exact[0].ap, parity, dice, change)


def _dice(
    bundle: Bundle, labelled: DetectionSet, found: Sequence[Detections], thresholds: Sequence[float]
) -> float | None:
    if bundle.manifest.postprocess.mask_threshold is None:
        return None
    dice = measure_masks(labelled, found, thresholds).values[..., MASK_FIGURES.index("dice")]
    return float(np.nanmean(dice))


def _answers(
    bundle: Bundle, labelled: DetectionSet, model: Path, reference: Sequence[Detections]
) -> tuple[list[Detections], tuple[float, ...]]:
    """Detections on each image, and from which score each class is reported."""
    with ModelDetector(bundle, model, bundle.bank.subset(own_labels(bundle.bank, labelled))) as detector:
        images = [load_image(entry.path) for entry in labelled.images]
        thresholds = reporting_thresholds(labelled.labels, detector)
        if not reference:
            return [detector(image) for image in images], thresholds
        return [detect_or_none(detector, *pair) for pair in zip(images, reference, strict=True)], thresholds


def _as_json(entry: VariantOnSet) -> dict[str, Any]:
    variant = {**asdict(entry.variant), "model": None}
    parity = entry.parity.model_dump(mode="json")
    figures = {name: getattr(entry, name) for name in ("delta_ap", "dice", "delta_dice")}
    return {"data": entry.data, "variant": variant, **figures, "parity": parity, "accuracy": asdict(entry.accuracy)}


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.precision", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="the checkpoint it was made from")
    parser.add_argument(
        "--data", action="append", required=True, help="measured on: FILE.json or FOLDER:SPLIT; repeats"
    )
    parser.add_argument("--choose", action="append", help="types are chosen on these; the --data images by default")
    parser.add_argument("--precision", action="append", choices=ASKED, help="beside fp32; repeats; all by default")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    args = parser.parse_args()
    sets = [read_detection_set(source) for source in args.data]
    choose = [read_detection_set(source) for source in args.choose or args.data]
    with Steps("precision") as steps:
        asked = args.precision or ASKED
        found = compare_precisions(args.bundle, args.checkpoint, sets, choose, precisions=asked, progress=steps)
    print_table("Precision against fp32", COLUMNS, [entry.row() for entry in found])
    content = {"sets": [_as_json(entry) for entry in found], "machine": describe_machine()}
    write_json(args.json, content)


if __name__ == "__main__":
    run_command(_main)
