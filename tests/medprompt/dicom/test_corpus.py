"""pydicom's own test files, sound and broken, through the command: each gets the status that its table names."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
import yaml

from medprompt.dicom.directory import files_of_directory
from medprompt.images.read import load_image

CORPUS = Path(pydicom.data.__file__).parent / "test_files"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
TABLE: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "statuses.yaml").read_text())


def entry(path: Path) -> dict[str, Any]:
    name = path.relative_to(CORPUS).as_posix()
    fitting = [row for row in TABLE if fnmatch(name, row["files"])]
    assert fitting, f"{name} is not in statuses.yaml"
    return fitting[0]


def fits(item: dict[str, Any], expected: dict[str, Any]) -> bool:
    status = " ".join(filter(None, [item["status"], item["code"]]))
    said = [warning for warning in item["warnings"] if expected.get("says", " ") in warning]
    return status == expected["status"] and ("says" not in expected or len(said) == 1)


def test_every_pattern_is_needed() -> None:
    used = [entry(path)["files"] for path in FILES]
    assert set(used) == {row["files"] for row in TABLE}
    assert all(row["why"] for row in TABLE)


def test_every_file_has_its_status(infer: Callable[..., tuple[int, dict[str, Any], str]]) -> None:
    code, results, said = infer(*FILES)
    assert code == 1
    assert "Traceback" not in said
    items: dict[Path, list[dict[str, Any]]] = {}
    for item in results["items"]:
        items.setdefault(Path(item["file"]), []).append(item)
    wrong: list[Any] = []
    for path in FILES:
        expected = entry(path)
        if "lists" in expected:
            listed = files_of_directory(path)
            assert len(listed) == expected["lists"]
            assert all(one in items for one in listed)
            continue
        wrong += [(path.name, item) for item in items[path] if not fits(item, expected)]
        assert len(items[path]) == expected.get("items", 1)
    assert wrong == []
    assert len(items) == len([path for path in FILES if "lists" not in entry(path)])


@pytest.mark.parametrize("name", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_one_picture_in_many_encodings(name: str) -> None:
    plain = load_image(CORPUS / "MR_small.dcm")
    np.testing.assert_array_equal(load_image(CORPUS / f"MR_small_{name}.dcm"), plain)


CHART = [
    *([255, 0, 0], [255, 128, 128], [0, 255, 0], [128, 255, 128], [0, 0, 255], [128, 128, 255]),
    *([0, 0, 0], [64, 64, 64], [192, 192, 192], [255, 255, 255]),
]
"""The ten fields of the colour chart, from top to bottom."""


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("rgb_rle", 0),
        ("rgb_rle_16bit", 0),
        ("rgb_gdcm_KY", 0),
        ("rgb_jpeg_gdcm", 0),
        ("rgb_dcmtk_+eb+cr", 0),
        ("rgb_jls_lossy_line", 2),
        ("rgb_dcmtk_+eb+cy+n1", 5),
        ("rgb_dcmtk_+eb+cy+s4", 5),
        ("ybr_full_422_uncompressed", 5),
    ],
)
def test_one_chart_in_many_colour_spaces(name: str, most: int) -> None:
    """YBR of 8 bits misses a colour by up to 5 levels: that is its own rounding, see the uncompressed one."""
    fields = load_image(CORPUS / f"SC_{name}.dcm")[5::10, 50].astype(int)
    assert np.abs(fields - CHART).max() <= most
