"""Chest CT volumes and a table of nodules with centre and diameter, as LUNA16 has them.

A sample is an axial slice through the centre of a nodule. A nodule is taken for a ball: its box on a slice is that of
the circle in which the slice cuts the ball, for every nodule of the scan that the slice cuts.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.native.sample import Job, Sample, zeros
from medprompt.data.native.volume import Volume, grey_from_levels, need_volumes, volume_from_file
from medprompt.data.registry import KnownSet, Part

COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
LUNG_HU = (-1000.0, 400.0)
"""Hounsfield units that become black and white: from air to above soft tissue; a choice, no part of the data set."""

Nodule = tuple[float, float, float, float]
"""Centre in millimetres, as the scanner has it, and diameter."""


def jobs_from_nodules(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the scans of a split that have a nodule."""
    need_volumes()
    nodules = nodules_from_csv(source / part.labels)
    jobs = []
    for folder in part.folders:
        scans = sorted((source / folder).glob("*.mhd"))
        if not scans:
            raise DataError("A folder has no scan.", where=str(source / folder), expected="*.mhd with *.raw or *.zraw")
        jobs += [Job(str(scan), partial(_samples, scan, nodules[scan.stem])) for scan in scans if scan.stem in nodules]
    return jobs


def nodules_from_csv(path: Path) -> dict[str, list[Nodule]]:
    """Nodules by the UID of their scan.

    Raises:
        DataError: The table is missing or damaged.
    """
    nodules: dict[str, list[Nodule]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            for row in csv.DictReader(handle):
                nodules.setdefault(row[COLUMNS[0]], []).append(_nodule(row))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            "The table of nodules cannot be read.", where=str(path), expected=", ".join(COLUMNS), got=repr(error)
        ) from error
    return nodules


def _nodule(row: Mapping[str, str]) -> Nodule:
    x, y, z, diameter = (float(row[column]) for column in COLUMNS[1:])
    if not np.isfinite([x, y, z, diameter]).all():
        raise ValueError(f"{x}, {y}, {z}, {diameter}")
    return x, y, z, diameter


def _samples(scan: Path, nodules: Sequence[Nodule]) -> list[Sample]:
    volume = volume_from_file(scan)
    depth, height, width = volume.levels.shape
    slices = sorted({round(float(volume.voxel_of(nodule[:3])[2])) for nodule in nodules})
    if slices[0] < 0 or slices[-1] >= depth:
        raise DataError("A nodule lies outside its scan.", where=str(scan), got=f"slice {slices[0]} or {slices[-1]}")
    samples = []
    for number in slices:
        boxes = boxes_on_slice(volume, nodules, number)
        grey = grey_from_levels(volume.levels[number], *LUNG_HU)
        samples.append(Sample(f"{scan.stem}-{number:04d}.png", grey, (height, width), boxes, zeros(boxes)))
    return samples


def boxes_on_slice(volume: Volume, nodules: Sequence[Nodule], number: int) -> NDArray[np.float64]:
    """Boxes float64 ``[N, 4]``, in pixels, of the nodules that a slice (from 0 at the feet) cuts, clipped to it."""
    wide, high, deep = volume.spacing_mm
    boxes = []
    for *centre, diameter in nodules:
        x, y, z = volume.voxel_of((centre[0], centre[1], centre[2])) + 0.5  # of corners, not centres, of voxels
        squared = (diameter / 2) ** 2 - ((z - 0.5 - number) * deep) ** 2
        if squared > 0:
            radius = float(np.sqrt(squared))
            boxes.append([x - radius / wide, y - radius / high, x + radius / wide, y + radius / high])
    _, height, width = volume.levels.shape
    return np.clip(np.array(boxes, dtype=np.float64).reshape(-1, 4), 0, [width, height, width, height])
