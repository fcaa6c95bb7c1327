"""``medprompt bench site``: a site's images against those that a bundle was proven on, and a few labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.benchmarks.accuracy.evaluation import reporting_thresholds
from medprompt.benchmarks.accuracy.predictions import predict_dataset
from medprompt.benchmarks.site.sensitivity import (
    DESIGN_EFFECT,
    WORST,
    ClassAtSite,
    classes_at_thresholds,
    classes_recalibrated,
    images_for,
    needed_by_class,
)
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import ImageError
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table
from medprompt.data import DetectionSet
from medprompt.generation.calibration import DIGITS, image_marks, sketch_of_marks
from medprompt.images.read import load_image
from medprompt.images.sources import find_images, spread
from medprompt.metrics.matching import Matcher
from medprompt.prompts.schema import Calibration, Prompts
from medprompt.runtime.detector import Detector
from medprompt.runtime.site import row_of_image, usable_record, why_left_out
from medprompt.site.check import LEVEL, SiteCheck, check_rows
from medprompt.site.detector_statistics import counted_labels, detector_columns
from medprompt.site.image_statistics import IMAGE_STATISTICS
from medprompt.site.record import MAX_IMAGES, SiteRecord, record_of_rows

KIND = "site"
METHOD = (
    "Figures of each image and of the detector's answer about it, without labels, against those recorded of the "
    "images that the bundle was proven on: a permutation test over all figures together, with false alarms in "
    f"{LEVEL:.0%} of checks. With labels: intervals over images; thresholds that were chosen here are judged on other "
    "images than they were chosen on."
)


@dataclass(frozen=True)
class LabelledSite:
    """What a few labels of a site say: each class at the bundle's thresholds, and at those chosen here."""

    name: str
    images: int
    own: tuple[ClassAtSite, ...]
    recalibrated: tuple[ClassAtSite, ...]
    sketch: str
    unread: tuple[str, ...]


@dataclass(frozen=True)
class SiteReport:
    """What is known of a site.

    Attributes:
        check: None where nothing was compared, for the images were only recorded.
        boxes_an_image: Detections of each class in an image here: about how many boxes there will be to label.
        within: Half the width of the 95 % interval that is wished for.
        unread: One line for each image that could not be read.
    """

    bundle: Bundle
    rows: NDArray[np.float64]
    check: SiteCheck | None
    boxes_an_image: Mapping[str, float]
    within: float
    device: str
    unread: tuple[str, ...]
    labelled: LabelledSite | None = None

    @property
    def outcome(self) -> str:
        """See ``SiteCheck.outcome``; ``measured`` where nothing was compared."""
        return self.check.outcome if self.check else "measured"

    def record(self, source: str, threshold: float) -> SiteRecord:
        """These images as what a bundle was proven on."""
        return record_of_rows(list(self.rows), self.bundle.bank, threshold, source, self.bundle.sha256)

    def tables(self) -> list[Table]:
        """For people."""
        compared = [self.check.table()] if self.check and self.check.test else []
        labelled = [_labelled_table(self.labelled, self.within)] if self.labelled else [self._plan()]
        return [*compared, *labelled]

    def as_json(self) -> dict[str, Any]:
        """A report about the bundle, which can be attached to it."""
        labelled = self.labelled
        return {
            "kind": KIND,
            "bundle_sha256": self.bundle.sha256,
            "outcome": self.outcome,
            "method": METHOD,
            "device": self.device,
            "check": self.check.as_json() if self.check else None,
            "labelled_images_needed": {"within": self.within, **self._needed()},
            "labelled": _labelled_json(labelled) if labelled else None,
            "unread": list(self.unread),
            "tables": [one.as_json() for one in self.tables()],
        }

    def _needed(self) -> dict[str, int | None]:
        if self.labelled:
            return dict(needed_by_class(self.labelled.own, self.labelled.images, self.within))
        return {label: images_for(self.within, count) for label, count in self.boxes_an_image.items()}

    def _plan(self) -> Table:
        needed = self._needed()
        rows = [(label, f"{self.boxes_an_image[label]:.3g}", _count(needed[label])) for label in needed]
        caption = (
            f"for a sensitivity of ± {self.within:g} (95 %), if it is {WORST:g}, the worst case, and {DESIGN_EFFECT:g} "
            "boxes of an image count as one; with a few labels both are measured"
        )
        return Table("Labelled images needed", ("class", "found an image here", "images to label"), rows, caption)


def check_bundle_at_site(
    bundle: Bundle | Path | str,
    images: Sequence[Path],
    *,
    against: SiteRecord | None = None,
    compare: bool = True,
    labelled: DetectionSet | None = None,
    within: float = 0.05,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SiteReport:
    """Compare a site's images with those that a bundle was proven on, and measure it on those that are labelled.

    Args:
        bundle: The bundle, or its folder.
        images: Files and folders; of more than ``MAX_IMAGES`` files as many are taken, evenly spaced.
        against: What to compare with; the bundle's own record where None.
        compare: False to take figures alone.
        labelled: Images of the site with labels.
        within: Half the width of the 95 % interval of sensitivity that is wished for.
        device: The bundle's engine.
        threads: CPU threads of the engine.
        seed: Of the parts in which thresholds are judged.
        progress: Notified of each image.

    Raises:
        BundleError: There is no record to compare with.
        DataError: A category without a class, or no labelled image that can be read.
        InputError: See ``find_images`` and ``Detector.load``.
    """
    progress, loaded = progress or Silent(), load_bundle(bundle)
    record = usable_record(loaded, against) if compare else None
    threshold = record.threshold if record else loaded.manifest.default_threshold
    files = find_images(images)
    files = [files[index] for index in spread(len(files), MAX_IMAGES)]
    known = labelled.covered_by(loaded.bank.labels) if labelled else None
    with Detector.load(loaded, device, threshold=0.0, threads=threads) as detector:
        progress.step("look at images", len(files))
        rows, unread = _rows(detector, files, threshold, progress)
        check = check_rows(record, rows, why_left_out(record, detector)) if record else None
        found = _measured(detector, known, seed, progress) if known else None
        return SiteReport(
            bundle=loaded,
            rows=rows,
            check=check,
            boxes_an_image=_boxes_an_image(rows, detector.bank.labels),
            within=within,
            device=detector.choice.device,
            unread=(*unread, *(found.unread if found else ())),
            labelled=found,
        )


def site_prompts(report: SiteReport, date: str) -> Prompts:
    """The bundle's prompts with the thresholds that its labels chose, as ``medprompt set-thresholds`` takes them.

    Classes for which nothing could be chosen keep theirs.

    Raises:
        ValueError: The report has no labels.
    """
    found = report.labelled
    if found is None:
        raise ValueError("there are no labels to choose thresholds on")
    chosen = {one.label.casefold(): round(one.threshold, DIGITS) for one in found.recalibrated if one.threshold}
    own = report.bundle.bank.prompts
    classes = [
        entry.model_copy(update={"threshold": chosen.get(entry.label.casefold(), entry.threshold)})
        for entry in own.classes
    ]
    set_now = {entry.label: chosen[entry.label.casefold()] for entry in classes if entry.label.casefold() in chosen}
    record = Calibration(
        labels=tuple(set_now),
        data=found.name,
        images=found.images,
        sketch=found.sketch,
        checkpoint=report.bundle.manifest.checkpoint_sha256,
        weights=False,
        thresholds=True,
        date=date,
        chosen=set_now,
    )
    return own.model_copy(update={"classes": tuple(classes), "calibration": (*(own.calibration or ()), record)})


def _rows(
    detector: Detector, files: Sequence[Path], threshold: float, progress: Progress
) -> tuple[NDArray[np.float64], list[str]]:
    """The figures of each image that can be read, and a line for each that cannot."""
    rows, unread = [], []
    for path in files:
        try:
            rows.append(row_of_image(load_image(path), detector, threshold))
        except ImageError as error:
            unread.append(f"{path.name}: {error.got or error.problem}")
        progress.advance()
    return np.array(rows), unread


def _measured(detector: Detector, labelled: DetectionSet, seed: int, progress: Progress) -> LabelledSite:
    """All classes answer together, as they are served."""
    progress.step("detect in labelled images", len(labelled.images))
    predictions = predict_dataset(detector, labelled, progress, strict=False)
    (matches,) = Matcher(predictions.labelled, predictions.bundle).match()
    return LabelledSite(
        name=labelled.name,
        images=matches.image_count,
        own=classes_at_thresholds(matches, reporting_thresholds(matches.labels, detector)),
        recalibrated=classes_recalibrated(matches, seed),
        sketch=sketch_of_marks(image_marks(predictions.labelled)),
        unread=predictions.unread,
    )


def _boxes_an_image(rows: NDArray[np.float64], labels: Sequence[str]) -> dict[str, float]:
    """Mean detections of each class; of all together where classes are not counted one by one."""
    if not len(rows):
        return {}
    names = [*IMAGE_STATISTICS, *detector_columns(labels)]
    columns = {label: f"detections of {label}" for label in counted_labels(labels)} or {"any": "detections"}
    return {label: float(rows[:, names.index(column)].mean()) for label, column in columns.items()}


def _labelled_table(found: LabelledSite, within: float) -> Table:
    needed = dict(needed_by_class(found.own, found.images, within))
    rows = [
        (own.label, own.boxes, *_cells(own), *_cells(new), _count(needed[own.label]))
        for own, new in zip(found.own, found.recalibrated, strict=True)
    ]
    columns = (
        *("class", "boxes", "threshold", "sensitivity (95 %)", "wrong an image"),
        *("chosen here", "sensitivity (95 %)", "wrong an image", f"images for ± {within:g}"),
    )
    caption = f"{found.images} labelled images; what is chosen here is judged on other images than it was chosen on"
    return Table(f"The bundle on {found.name}", columns, rows, caption)


def _cells(one: ClassAtSite) -> Iterator[str]:
    yield "-" if one.threshold is None else f"{one.threshold:.3f}"
    yield str(one.sensitivity)
    yield f"{one.false_positives.value:.2f} ({one.false_positives.low:.2f} … {one.false_positives.high:.2f})"


def _count(images: int | None) -> str:
    return "-" if images is None else str(images)


def _labelled_json(found: LabelledSite) -> dict[str, Any]:
    def entry(one: ClassAtSite) -> dict[str, Any]:
        return {
            "boxes": one.boxes,
            "threshold": one.threshold,
            "sensitivity": one.sensitivity.as_json(),
            "false_positives_an_image": one.false_positives.as_json(),
            "design_effect": None if np.isnan(one.design_effect) else one.design_effect,
        }

    return {
        "name": found.name,
        "images": found.images,
        "at_the_bundles_thresholds": {one.label: entry(one) for one in found.own},
        "recalibrated": {one.label: entry(one) for one in found.recalibrated},
    }
