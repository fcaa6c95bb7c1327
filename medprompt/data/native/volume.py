"""Volumes (MetaImage, NIfTI, MINC) by SimpleITK, as slices a person would look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import DataError, need_module


@dataclass(frozen=True)
class Volume:
    """A scan, turned so that slices are axial, rows run to the back of the patient and columns to their left (LPS).

    Attributes:
        levels: ``[D, H, W]``, from the feet to the head.
        grid: SimpleITK's image, for where a point is.
    """

    levels: NDArray[Any]
    grid: Any

    def voxel_of(self, point_mm: tuple[float, float, float]) -> NDArray[np.float64]:
        """Float64 ``[3]``: column, row and slice of a point in the scanner's millimetres; whole at voxels' centres."""
        return np.array(self.grid.TransformPhysicalPointToContinuousIndex(point_mm), dtype=np.float64)

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Float64 ``[3]``: millimetres from column to column, row to row and slice to slice."""
        return np.array(self.grid.GetSpacing(), dtype=np.float64)


need_volumes = partial(need_module, "SimpleITK", "Reading volumes", "SimpleITK", "data")
"""Raises an ``EngineError`` that names the extra where SimpleITK is not installed."""


def volume_from_file(path: Path) -> Volume:
    """Read a volume.

    Raises:
        DataError: It is missing or damaged, or has no three dimensions.
        EngineError: SimpleITK is not installed.
    """
    need_volumes()
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
        turned = SimpleITK.DICOMOrient(image, "LPS") if image.GetDimension() == 3 else None
    except RuntimeError as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError("A volume cannot be read.", where=str(path), got=said[-1]) from error
    if turned is None or turned.GetNumberOfComponentsPerPixel() != 1:
        raise DataError(
            "The file is not a volume.",
            where=str(path),
            expected="three dimensions, one value a voxel",
            got=f"{image.GetDimension()} dimensions, {image.GetNumberOfComponentsPerPixel()} values a voxel",
        )
    return Volume(SimpleITK.GetArrayFromImage(turned), turned)


def grey_from_levels(levels: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale ``low … high`` to 0 … 255, rounded; what lies outside is clipped. Any shape."""
    share = (np.clip(levels.astype(np.float64), low, high) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(share * 255).astype(np.uint8)
