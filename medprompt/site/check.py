"""Are a site's images like those that a bundle was proven on? The test, and its answer in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medprompt.core.terminal import Table
from medprompt.site.image_statistics import IMAGE_STATISTICS
from medprompt.site.record import MAX_IMAGES, SiteRecord
from medprompt.site.two_sample import TwoSampleTest, compare_samples

Floats = NDArray[np.float64]

LEVEL = 0.01
"""Chance of a false alarm: a site that checks every week is told so wrongly once in two years."""

LEAST_IMAGES = 10
"""Of fewer, one odd picture decides."""

LARGE_SHIFT = 1.5
"""Shift of a figure, in standard deviations, that would have to be seen nine times of ten for images to fit."""

RANGE = 2.5, 50, 97.5
"""Percentiles that tables show."""

NAMED = 4
"""Figures that a sentence names."""


@dataclass(frozen=True)
class Difference:
    """One figure there and here.

    Attributes:
        recorded, here: 2.5th, 50th and 97.5th percentile.
        outside: Share of images here beyond the recorded 2.5th … 97.5th percentile; 0.05 is expected.
        p: Chance that any figure differs as much, see ``TwoSampleTest``.
        moved: Whether the place differs most; else the spread.
        residual: See ``TwoSampleTest``.
    """

    name: str
    unit: str
    recorded: tuple[float, float, float]
    here: tuple[float, float, float]
    outside: float
    p: float
    moved: bool
    residual: float

    @property
    def words(self) -> str:
        """Such as ``brightness higher: 201 (recorded 180, 171 … 190)``."""
        unit = f" {self.unit}" if self.unit in ("px", "%") else ""
        low, middle, high = self.recorded
        if self.moved:
            how = "higher" if self.here[1] >= middle else "lower"
            return f"{self.name} {how}: {self.here[1]:.4g}{unit} (recorded {middle:.4g}, {low:.4g} … {high:.4g})"
        how = "more" if self.here[2] - self.here[0] > high - low else "less"
        now = f"{self.here[0]:.4g} … {self.here[2]:.4g}{unit}"
        return f"{self.name} varies {how}: {now} (recorded {low:.4g} … {high:.4g})"


@dataclass(frozen=True)
class SiteCheck:
    """What came of a check.

    Attributes:
        recorded, images: Images there and here.
        source: Which images were recorded.
        test: None for fewer than ``LEAST_IMAGES``.
        differences: Every figure that was compared, the most surprising first.
        left_out: Why the detector's own figures were not compared; empty where they were.
    """

    recorded: int
    images: int
    source: str
    test: TwoSampleTest | None
    differences: tuple[Difference, ...]
    left_out: str = ""

    @property
    def outcome(self) -> Literal["passed", "failed", "no verdict"]:
        """``failed`` where the site differs; ``no verdict`` for images too few to say that it fits."""
        if self.test is None:
            return "no verdict"
        if self.test.p <= LEVEL:
            return "failed"
        return "passed" if self.test.detectable <= LARGE_SHIFT else "no verdict"

    @property
    def told(self) -> tuple[str, ...]:
        """What differs, in words; where no figure does by itself, which no longer go with the others."""
        if self.outcome != "failed":
            return ()
        alone = [one.words for one in self.differences if one.p <= LEVEL]
        if alone:
            return tuple(alone)
        odd = sorted(self.differences, key=lambda one: -abs(one.residual))[:NAMED]
        return (f"no figure by itself, but they do not go together as recorded: foremost {_names(odd)}",)

    @property
    def verdict(self) -> str:
        """In a sentence or two."""
        about = f"{self.images} images here against {self.recorded} recorded ({self.source})"
        if self.test is None:
            return f"too few images: {about}; at least {LEAST_IMAGES} of each are needed"
        if self.outcome == "failed":
            more = f"; and {len(self.told) - NAMED} more" if len(self.told) > NAMED else ""
            return f"differs (p {self.test.p:.4f}), {about}: {'; '.join(self.told[:NAMED])}{more}"
        seen = f"a shift of {self.test.detectable:.2g} standard deviations would be seen nine times of ten"
        if self.outcome == "passed":
            return f"fits (p {self.test.p:.2f}), {about}: {seen}"
        needed = _images_needed(self.recorded, self.test.detectable, self.images)
        return f"too few images for a verdict (p {self.test.p:.2f}), {about}: only {seen}; {needed}"

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "outcome": self.outcome,
            "verdict": self.verdict,
            "p": self.test.p if self.test else None,
            "p_joint": self.test.joint if self.test else None,
            "level": LEVEL,
            "detectable_sd": self.test.detectable if self.test else None,
            "images": self.images,
            "recorded_images": self.recorded,
            "recorded": self.source,
            "detector_left_out": self.left_out or None,
            "differs_in": list(self.told),
            "figures": [vars(one) for one in self.differences],
        }

    def table(self) -> Table:
        """Every figure, for people; those that differ come first."""
        rows = [
            (one.name, one.unit, _span(one.recorded), _span(one.here), f"{one.outside:.0%}", f"{one.p:.4f}")
            for one in self.differences
        ]
        columns = ("figure", "unit", "recorded: median (95 %)", "here", "outside", "p")
        return Table("Images here against those recorded", columns, rows, self.verdict)


def check_rows(record: SiteRecord, rows: Floats, left_out: str = "") -> SiteCheck:
    """Compare a site's rows ``[N, F]`` (see ``site_row``) with a record's.

    ``left_out`` is why the detector's own figures, the last columns, are not to be compared; empty where they are.
    """
    names = list(record.columns)[: len(IMAGE_STATISTICS) if left_out else None]
    recorded = record.matrix[:, : len(names)]
    here = rows[:, : len(names)] if len(rows) else np.zeros((0, len(names)))
    if min(len(here), len(recorded)) < LEAST_IMAGES:
        return SiteCheck(len(recorded), len(here), record.source, None, (), left_out)
    test = compare_samples(recorded, here, LEVEL)
    found = [_difference(record, name, index, recorded, here, test) for index, name in enumerate(names)]
    found.sort(key=lambda one: (one.p, -one.outside))
    return SiteCheck(len(recorded), len(here), record.source, test, tuple(found), left_out)


def _images_needed(recorded: int, detectable: float, images: int) -> str:
    """How many images a verdict needs, in words."""
    factor = detectable / math.sqrt(1 / recorded + 1 / images)
    room = (LARGE_SHIFT / factor) ** 2 - 1 / recorded
    if room < 1 / MAX_IMAGES:
        return f"with {recorded} recorded images no number here would do: record more"
    return f"with {math.ceil(1 / room)} there is one"


def _difference(
    record: SiteRecord, name: str, index: int, recorded: Floats, here: Floats, test: TwoSampleTest
) -> Difference:
    there, now = _percentiles(recorded[:, index]), _percentiles(here[:, index])
    beyond = (here[:, index] < there[0]) | (here[:, index] > there[2])
    place, spread = float(test.place[index]), float(test.spread[index])
    return Difference(
        name=name,
        unit=record.columns[name],
        recorded=there,
        here=now,
        outside=float(beyond.mean()),
        p=min(place, spread),
        moved=place <= spread,
        residual=float(test.residuals[index]),
    )


def _percentiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = (float(value) for value in np.percentile(values, RANGE))
    return low, middle, high


def _span(cuts: tuple[float, float, float]) -> str:
    low, middle, high = cuts
    return f"{middle:.4g} ({low:.4g} … {high:.4g})"


def _names(differences: list[Difference]) -> str:
    return ", ".join(one.name for one in differences)
