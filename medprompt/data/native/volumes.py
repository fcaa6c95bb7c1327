"""Volumes and volumes of labels beside them, as the hippocampus labels of ADNI scans (HarP) are.

A sample is an axial slice that cuts a label; every connected piece of a label on it is an object.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError
from medprompt.data.masks import need_scipy, objects_from_masks, pieces_of_mask
from medprompt.data.native.sample import Job, Sample, rles, zeros
from medprompt.data.native.volume import Volume, grey_from_levels, need_volumes, volume_from_file
from medprompt.data.registry import KnownSet, Part

SUFFIXES = (".nii", ".nii.gz", ".mnc", ".mhd", ".mha")
BRIGHTEST = 99.5
"""Percentile of a scan's levels that becomes white; MRI has no unit. A choice, no part of the data set."""


def jobs_from_volumes(known: KnownSet, source: Path, part: Part) -> list[Job]:
    """List the scans of a split, each with the label volumes whose names start as its own."""
    need_volumes()
    need_scipy()
    labels = volumes_of_folder(source / part.labels)
    jobs = []
    for folder in part.folders:
        for scan in volumes_of_folder(source / folder):
            stem = stem_of_volume(scan).removesuffix("_ACPC")
            own = [label for label in labels if _belongs(stem_of_volume(label), stem)]
            jobs.append(Job(str(scan), partial(_samples, known, scan, own, source / part.labels)))
    return jobs


def volumes_of_folder(folder: Path) -> list[Path]:
    """Volume files of a folder, sorted.

    Raises:
        DataError: There is none.
    """
    found = sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
    if not found:
        raise DataError("A folder of volumes is empty.", where=str(folder), expected=f"files ending in {SUFFIXES}")
    return found


def stem_of_volume(path: Path) -> str:
    """The file name without its suffix, of which ``.nii.gz`` is one."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _belongs(label: str, scan: str) -> bool:
    """Labels are called as their scan, or so with ``_L`` or ``_R``."""
    return label in (scan, f"{scan}_L", f"{scan}_R")


def _samples(known: KnownSet, scan: Path, labels: list[Path], folder: Path) -> list[Sample]:
    if not labels:
        stem = stem_of_volume(scan).removesuffix("_ACPC")
        raise DataError("A scan has no label.", where=str(folder), expected=f"{stem}_L.nii, {stem}_R.nii", got="none")
    volume = volume_from_file(scan)
    sides = [_label(label, volume) for label in labels]
    white = float(np.percentile(volume.levels, BRIGHTEST))
    samples = []
    for number in np.flatnonzero(np.any([side.any(axis=(1, 2)) for side in sides], axis=0)):
        found = [objects_from_masks(pieces_of_mask(side[number]), known.min_pixels) for side in sides]
        boxes = np.concatenate([boxes for boxes, *_ in found])
        masks = [rle for _, pieces, _ in found for rle in rles(pieces)]
        grey = grey_from_levels(volume.levels[number], float(volume.levels.min()), white)
        height, width = grey.shape
        name, small = f"{stem_of_volume(scan)}-{number:04d}.png", sum(count for *_, count in found)
        samples.append(Sample(name, grey, (height, width), boxes, zeros(boxes), small, masks))
    return samples


def _label(path: Path, volume: Volume) -> NDArray[Any]:
    """Bool ``[D, H, W]``: the voxels of a label, which must lie on the scan's grid."""
    label = volume_from_file(path)
    mine, other = _grid(volume), _grid(label)
    if volume.levels.shape != label.levels.shape or not np.allclose(mine, other, atol=1e-3):
        raise DataError(
            "A label does not lie on its scan.",
            where=str(path),
            expected=f"{volume.levels.shape}, origin, spacing and axes {np.round(mine, 3).tolist()}",
            got=f"{label.levels.shape}, {np.round(other, 3).tolist()}",
            fix="resample the label to the scan",
        )
    return np.asarray(label.levels != label.levels.min())


def _grid(volume: Volume) -> list[float]:
    grid = volume.grid
    return [*grid.GetOrigin(), *grid.GetSpacing(), *grid.GetDirection()]
