"""Is the site check calibrated, and what does it see? Halves of one set, planted shifts, another set; intervals too.

``python -m medprompt.benchmarks.research.site_check BUNDLE --data DATA --cache FOLDER`` takes the figures of each image
once, a file a set and shift, and draws from them. ``DATA`` holds ``bccd`` and ``nuclei``.
"""

from __future__ import annotations

import argparse
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.site.sensitivity import sensitivity_of_images
from medprompt.core.detections import Detections
from medprompt.core.files import atomic_write
from medprompt.core.markdown import markdown_table
from medprompt.data import LabelledImage, read_detection_set
from medprompt.images.read import load_image
from medprompt.metrics.matching import Matcher
from medprompt.runtime.detector import Detector
from medprompt.runtime.site import row_of_image, row_of_outputs
from medprompt.site.check import LEVEL
from medprompt.site.image_statistics import IMAGE_STATISTICS
from medprompt.site.record import MAX_IMAGES
from medprompt.site.two_sample import PERMUTATIONS, compare_samples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Rows = dict[str, Floats]

SETS = {"bccd": ("bccd:train", "bccd:val"), "nuclei": ("nuclei/train.json", "nuclei/val.json")}
SHIFTED = 80
"""Images of each set that are shifted."""

SITE = 30
DRAWS = 200
QUICK = 499
"""Random splits where only power is asked for: fewer than the product's are as exact, and see a little less."""

FIGURES = len(IMAGE_STATISTICS)


def _other_stain(image: Pixels) -> Pixels:
    """Optical density (Beer and Lambert) of red 15 % more, of blue 10 % less."""
    density = -np.log((image.astype(np.float64) + 1) / 256) * (1.15, 1.0, 0.9)
    return np.clip(256 * np.exp(-density) - 1, 0, 255).round().astype(np.uint8)


def _blurred(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))


def _compressed(image: Pixels) -> Pixels:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=50)
    return np.asarray(Image.open(stored).convert("RGB"))


def _magnified(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    top, left = height // 10, width // 10
    return np.asarray(Image.fromarray(image[top : height - top, left : width - left]).resize((width, height)))


def _normalised(image: Pixels) -> Pixels:
    return np.asarray((255 * (image / 255) ** 0.85).round(), dtype=np.uint8)


SHIFTS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "stain: density of red + 15 %, of blue - 10 %": _other_stain,
    "blur: Gaussian, 1 pixel": _blurred,
    "JPEG of quality 50": _compressed,
    "magnification x 1.25": _magnified,
    "normalisation: gamma 0.85": _normalised,
}


def rows_of_sets(bundle: Path, data: Path, cache: Path) -> Rows:
    """Figures of all images, plain and shifted, and what was found in each, by name; what is in the cache is kept."""
    cache.mkdir(parents=True, exist_ok=True)
    rows: Rows = {}
    with Detector.load(bundle, threshold=0.0) as detector:
        for name, splits in SETS.items():
            for source in splits:
                part = f"{name}/{source.rpartition('/')[2]}"
                rows |= _kept(cache, part, partial(_labelled_rows, detector, str(data / source), part))
            paths = [image.path for source in splits for image in read_detection_set(str(data / source)).images]
            drawn = np.random.default_rng(0).permutation(len(paths))[:SHIFTED]
            rows[f"{name}/shifted"] = drawn.astype(np.float64)
            for shift in SHIFTS:
                part = f"{name}/{shift}"
                rows |= _kept(cache, part, partial(_shifted_rows, detector, [paths[i] for i in drawn], shift, part))
    return rows


def _kept(cache: Path, part: str, make: Callable[[], Rows]) -> Rows:
    path = cache / f"{re.sub('[^a-z0-9.]+', '-', part.lower())}.npz"
    if not path.is_file():
        with atomic_write(path) as aside, aside.open("wb") as file:
            np.savez(file, **make())  # type: ignore[arg-type]
    with np.load(path) as stored:
        return {name: stored[name] for name in stored}


def _shifted_rows(detector: Detector, paths: Sequence[Path], shift: str, name: str) -> Rows:
    images = (SHIFTS[shift](load_image(path)) for path in paths)
    return {name: np.array([row_of_image(image, detector, _least(detector)) for image in images])}


def _least(detector: Detector) -> float:
    return detector.manifest.default_threshold


def _labelled_rows(detector: Detector, source: str, name: str) -> Rows:
    labelled = read_detection_set(source).covered_by(detector.bank.labels)
    figures, found = zip(*(_seen(detector, image) for image in labelled.images), strict=True)
    (matches,) = Matcher(labelled, found).match()
    reported = matches.scores >= _least(detector)
    rows = {f"{name}/plain": np.array(figures)}
    for index, label in enumerate(matches.labels):
        hits = matches.images[reported & matches.hits & (matches.classes == index)]
        counts = (hits, matches.box_images[matches.box_classes == index])
        rows[f"{name}/labels/{label}"] = np.stack([np.bincount(one, minlength=len(found)) for one in counts], axis=1)
    return rows


def _seen(detector: Detector, image: LabelledImage) -> tuple[Floats, Detections]:
    pixels = load_image(image.path)
    outputs = detector.outputs(detector.image_feeds([pixels]), detector.prompts.whole)
    size_hw = (pixels.shape[0], pixels.shape[1])
    found = detector.detections(outputs, 0, size_hw, detector.prompts.whole)
    return row_of_outputs(pixels, detector, outputs, _least(detector)), found


def plain_rows(rows: Rows, name: str) -> Floats:
    """All images of a set as they are, train before val."""
    return np.concatenate([rows[key] for key in rows if key.startswith(f"{name}/") and key.endswith("/plain")])


def p_values(
    rows: Rows, name: str, changed: str, site: int, columns: int | None = None, splits: int = PERMUTATIONS
) -> Floats:
    """The p of ``DRAWS`` checks: ``site`` images, of the set as it is or changed, against others of it as they are."""
    plain, drawn, found = plain_rows(rows, name), rows[f"{name}/shifted"].astype(np.int64), []
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        chosen = random.permutation(len(drawn) if changed else len(plain))[:site]
        here = (rows[f"{name}/{changed}"] if changed else plain)[chosen]
        others = np.setdiff1d(np.arange(len(plain)), drawn[chosen] if changed else chosen)
        recorded = plain[random.permutation(others)[:MAX_IMAGES]]
        found.append(compare_samples(recorded[:, :columns], here[:, :columns], LEVEL, splits, seed).p)
    return np.array(found)


def false_alarms(rows: Rows) -> Iterator[list[str]]:
    """A line of the table for each set and number of images."""
    for name in SETS:
        half = len(plain_rows(rows, name)) // 2
        for site in (10, 20, SITE, half):
            p = p_values(rows, name, "", site)
            yield [name, f"{site}{' (half)' if site == half else ''}", *(_share(p <= at) for at in (LEVEL, 0.05))]


def detections_of_shifts(rows: Rows) -> Iterator[list[str]]:
    """A line for each set and shift: with ``SITE`` images, with 10, and by the images' figures alone."""
    for name in SETS:
        for shift in SHIFTS:
            with_all = (p_values(rows, name, shift, site, splits=QUICK) for site in (SITE, 10))
            alone = p_values(rows, name, shift, SITE, FIGURES, QUICK)
            yield [name, shift, *(_share(p <= LEVEL) for p in (*with_all, alone))]


def natural_checks(rows: Rows) -> Iterator[list[str]]:
    """Sets that were made by people: training images against validation images, and one set against the other."""
    pairs = [
        ("bccd/bccd:train", "bccd/bccd:val"),
        ("nuclei/train.json", "nuclei/val.json"),
        ("bccd/bccd:val", "nuclei/val.json"),
        ("nuclei/val.json", "bccd/bccd:val"),
    ]
    for recorded, here in pairs:
        first, second = rows[f"{recorded}/plain"], rows[f"{here}/plain"]
        alone = compare_samples(first[:, :FIGURES], second[:, :FIGURES], LEVEL).p
        both = compare_samples(first, second, LEVEL)
        yield [recorded, here, f"{len(first)}", f"{len(second)}", f"{both.p:.4f}", f"{alone:.4f}"]


def interval_coverage(rows: Rows) -> Iterator[list[str]]:
    """How often an interval from a few images holds the sensitivity on all others; a bootstrap's beside it."""
    for name in SETS:
        labels = dict.fromkeys(key.rpartition("/")[2] for key in rows if key.startswith(name) and "/labels/" in key)
        for label in labels:
            counts = np.concatenate([rows[k] for k in rows if k.startswith(name) and k.endswith(f"/labels/{label}")])
            found, boxes = counts.astype(np.int64).T
            whole, effect = sensitivity_of_images(found, boxes)
            for images in (5, 10, 20, 40):
                ours, theirs, width = _coverage(found, boxes, images)
                yield [
                    *(name, label, f"{whole.value:.3f}", f"{effect:.2f}", f"{images}"),
                    *(f"{ours:.1%}", f"± {width / 2:.3f}", f"{theirs:.1%}"),
                ]


def _coverage(found: Ints, boxes: Ints, images: int) -> tuple[float, float, float]:
    """Shares of intervals that hold the rest's sensitivity: ours and a percentile bootstrap's; ours' median width."""
    ours, theirs, widths = [], [], []
    for seed in range(2 * DRAWS):
        order = np.random.default_rng(seed).permutation(len(boxes))
        chosen, rest = order[:images], order[images:]
        if not boxes[chosen].sum():
            continue
        truth = found[rest].sum() / boxes[rest].sum()
        interval, _ = sensitivity_of_images(found[chosen], boxes[chosen])
        draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), 300)
        low, high = np.nanpercentile(draws @ found[chosen] / np.maximum(draws @ boxes[chosen], 1), [2.5, 97.5])
        ours.append(interval.low <= truth <= interval.high)
        theirs.append(low <= truth <= high)
        widths.append(interval.high - interval.low)
    return float(np.mean(ours)), float(np.mean(theirs)), float(np.median(widths))


def _share(flags: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Of ``DRAWS``, with Wilson's 95 % interval."""
    count, total, z = int(np.sum(flags)), len(flags), 1.96
    middle = (count + z * z / 2) / (total + z * z)
    half = z * math.sqrt(count * (total - count) / total + z * z / 4) / (total + z * z)
    return f"{count / total:.1%} ({max(0.0, middle - half):.1%} … {min(1.0, middle + half):.1%})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the figures")
    parser.add_argument("--table", choices=[*TABLES], action="append", help="one table; repeat for several")
    options = parser.parse_args()
    rows = rows_of_sets(options.bundle, options.data, options.cache)
    for title in options.table or TABLES:
        columns, lines = TABLES[title]
        print(f"\n{title}\n", *markdown_table(columns, lines(rows)), sep="\n", flush=True)


TABLES: Mapping[str, tuple[Sequence[str], Callable[[Rows], Iterator[list[str]]]]] = {
    "false alarms": (("set", "images here", f"p ≤ {LEVEL:g}", "p ≤ 0.05"), false_alarms),
    "shifts": (("set", "shift", f"{SITE} images", "10 images", f"{SITE} images, no detector"), detections_of_shifts),
    "sets": (("recorded", "here", "images", "images here", "p", "p, no detector"), natural_checks),
    "intervals": (
        ("set", "class", "of all", "design effect", "images", "held", "half width", "bootstrap held"),
        interval_coverage,
    ),
}


if __name__ == "__main__":
    run_command(main)
