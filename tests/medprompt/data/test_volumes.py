"""Slices of volumes: where a nodule lies on one, and the boxes of a label volume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.core import errors
from medprompt.core.errors import DataError, EngineError
from medprompt.data import read_detection_set
from medprompt.data.native import nodules, volumes
from medprompt.data.native.prepare import prepare_set
from medprompt.data.native.volume import grey_from_levels, volume_from_file
from medprompt.data.native.volumes import stem_of_volume
from medprompt.data.registry import known_set

SimpleITK = pytest.importorskip("SimpleITK")

SPACING, ORIGIN = (2.0, 1.0, 3.0), (-10.0, -20.0, -30.0)
SHAPE = (5, 30, 40)
"""Slices, rows, columns."""
STRAIGHT = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
TURNED = (-1.0, 0, 0, 0, -1, 0, 0, 0, 1)
"""Some scans of LUNA16 are stored with columns and rows from the other end."""


def levels() -> np.ndarray:
    """Every voxel another level, from air to bone."""
    return np.linspace(-1200, 1500, int(np.prod(SHAPE))).reshape(SHAPE).astype(np.int16)


def write(path: Path, content: np.ndarray, direction: tuple[float, ...] = STRAIGHT) -> None:
    """Write a volume so that its voxels lie where they would if it were stored straight."""
    stored = content[:, ::-1, ::-1] if direction == TURNED else content
    far = [ORIGIN[axis] + SPACING[axis] * (content.shape[2 - axis] - 1) for axis in range(3)]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetSpacing(SPACING)
    image.SetOrigin((far[0], far[1], ORIGIN[2]) if direction == TURNED else ORIGIN)
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), path.suffix == ".mhd")


def luna(folder: Path, rows: str, direction: tuple[float, ...] = STRAIGHT) -> None:
    """Scan 1.2.3 in subset0, and a table of nodules."""
    write(folder / "subset0/1.2.3.mhd", levels(), direction)
    (folder / "annotations.csv").write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n{rows}")


CENTRE = "1.2.3,10,-5,-24,8\n"
"""Column 10, row 15, slice 2; radius 4 mm, which is 2 columns and 4 rows."""


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED], ids=["straight", "turned"])
@pytest.mark.parametrize(
    ("rows", "boxes"),
    [
        (CENTRE, {2: [[8.5, 11.5, 12.5, 19.5]]}),
        (CENTRE + "9.9.9,0,0,0,5\n", {2: [[8.5, 11.5, 12.5, 19.5]]}),  # of a scan in another folder
        ("1.2.3,-10,-20,-30,8\n", {0: [[0, 0, 2.5, 4.5]]}),  # clipped at the corner
        (CENTRE + "1.2.3,40,-5,-18,8\n", {2: [[8.5, 11.5, 12.5, 19.5]], 4: [[23.5, 11.5, 27.5, 19.5]]}),
        (
            CENTRE + "1.2.3,40,-5,-21,10\n",  # cut by the slice of the other, 3 mm off its centre
            {
                2: [[8.5, 11.5, 12.5, 19.5], [23.5, 11.5, 27.5, 19.5]],
                3: [[10.5 - 7**0.5 / 2, 15.5 - 7**0.5, 10.5 + 7**0.5 / 2, 15.5 + 7**0.5], [23, 10.5, 28, 20.5]],
            },
        ),
    ],
)
def test_nodules(tmp_path: Path, rows: str, boxes: dict[int, list[list[float]]], direction: tuple[float, ...]) -> None:
    luna(tmp_path / "from", rows, direction)
    made = prepare_set(known_set("luna16"), tmp_path / "from", tmp_path / "out")
    assert made.left_out == ()
    found = read_detection_set(str(tmp_path / "out/train.json"))
    assert [image.path.name for image in found.images] == [f"1.2.3-{number:04d}.png" for number in boxes]
    for image, wanted, number in zip(found.images, boxes.values(), boxes, strict=True):
        assert image.boxes_xyxy == pytest.approx(np.array(wanted), abs=1e-3)
        grey = np.asarray(Image.open(image.path))
        assert (grey == grey_from_levels(levels()[number], -1000, 400)).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1.2.3,x,0,0,5\n", "table of nodules"),
        ("1.2.3,0,0\n", "table of nodules"),
        ("1.2.3,0,nan,0,5\n", "table of nodules"),
        ("1.2.3,10,-5,-60,8\n", "outside its scan"),
        ("1.2.3,10,-5,0,8\n", "outside its scan"),
        ("", "No image could be read"),
    ],
)
def test_bad_nodules(tmp_path: Path, rows: str, message: str) -> None:
    luna(tmp_path / "from", rows)
    with pytest.raises(DataError, match=message):
        prepare_set(known_set("luna16"), tmp_path / "from", tmp_path / "out", strict=True)


def test_a_subset_without_a_scan_and_a_damaged_scan(tmp_path: Path) -> None:
    luna(tmp_path / "from", CENTRE)
    (tmp_path / "from/subset1").mkdir()
    with pytest.raises(DataError, match="has no scan"):
        prepare_set(known_set("luna16"), tmp_path / "from", tmp_path / "out")
    (tmp_path / "from/subset1").rmdir()
    next((tmp_path / "from/subset0").glob("*raw")).unlink()
    with pytest.raises(DataError, match="No image could be read"):
        prepare_set(known_set("luna16"), tmp_path / "from", tmp_path / "out")


def labelled(*patches: tuple[slice, slice, slice]) -> np.ndarray:
    content = np.zeros(SHAPE, dtype=np.float32)
    for patch in patches:
        content[patch] = 1
    return content


LEFT = (slice(1, 3), slice(5, 10), slice(4, 8))
RIGHT = (slice(2, 4), slice(20, 22), slice(30, 35))
SCAN = "ADNI_002_S_0295_13722"


def harp(folder: Path, left: np.ndarray, right: np.ndarray, direction: tuple[float, ...] = STRAIGHT) -> None:
    """One scan with labels of both sides."""
    write(folder / f"100/{SCAN}_ACPC.nii", levels(), direction)
    write(folder / f"Labels_100_NIFTI/{SCAN}_L.nii", left, direction)
    write(folder / f"Labels_100_NIFTI/{SCAN}_R.nii.gz", right, direction)


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED], ids=["straight", "turned"])
@pytest.mark.parametrize("offset", [0, 26896.988])  # some released labels hold two large numbers instead of 0 and 1
def test_label_volumes(tmp_path: Path, direction: tuple[float, ...], offset: float) -> None:
    harp(tmp_path / "from", labelled(LEFT) + np.float32(offset), labelled(RIGHT), direction)
    made = prepare_set(known_set("adni-hippocampus"), tmp_path / "from", tmp_path / "out")
    assert (made.images, made.boxes) == ({"train": 3}, {"train": 4})
    assert "test: no 35" in made.notes
    content = json.loads((tmp_path / "out/train.json").read_text())
    names = [Path(image["file_name"]).name for image in content["images"]]
    assert names == [f"{SCAN}_ACPC-{number:04d}.png" for number in (1, 2, 3)]
    left, right = [4, 5, 4, 5], [30, 20, 5, 2]
    assert [(entry["image_id"], entry["bbox"]) for entry in content["annotations"]] == [
        (1, left),
        (2, left),
        (2, right),
        (3, right),
    ]


def test_pieces_of_a_label_are_objects_and_single_voxels_are_small_components(tmp_path: Path) -> None:
    two = labelled((slice(1, 2), slice(5, 10), slice(4, 8)), (slice(1, 2), slice(15, 20), slice(4, 8)))
    two[1, 0, 0] = 1
    harp(tmp_path / "from", two, labelled())
    made = prepare_set(known_set("adni-hippocampus"), tmp_path / "from", tmp_path / "out")
    assert (made.images, made.boxes) == ({"train": 1}, {"train": 2})
    assert "train: 1 small components of masks are no objects" in made.notes


def no_label(folder: Path) -> None:
    for path in (folder / "Labels_100_NIFTI").iterdir():
        path.rename(path.with_name("x" + path.name))


def other_grid(folder: Path) -> None:
    write(folder / f"Labels_100_NIFTI/{SCAN}_L.nii", labelled(LEFT)[:, ::2])


def other_place(folder: Path) -> None:
    path = folder / f"Labels_100_NIFTI/{SCAN}_L.nii"
    image = SimpleITK.ReadImage(str(path))
    image.SetOrigin((0, 0, 0))
    SimpleITK.WriteImage(image, str(path))


def flat(folder: Path) -> None:
    path = folder / f"100/{SCAN}_ACPC.nii"
    path.unlink()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 4), np.uint8)), str(path))


def broken(folder: Path) -> None:
    (folder / f"100/{SCAN}_ACPC.nii").write_bytes(b"no volume")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_label, "has no label"),
        (other_grid, "does not lie on its scan"),
        (other_place, "does not lie on its scan"),
        (flat, "is not a volume"),
        (broken, "volume cannot be read"),
    ],
)
def test_volumes_that_do_not_fit(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    harp(tmp_path / "from", labelled(LEFT), labelled(RIGHT))
    spoil(tmp_path / "from")
    with pytest.raises(DataError, match=message):
        prepare_set(known_set("adni-hippocampus"), tmp_path / "from", tmp_path / "out", strict=True)


def test_an_empty_folder_of_volumes(tmp_path: Path) -> None:
    for name in ("100", "Labels_100_NIFTI"):
        (tmp_path / "from" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="folder of volumes is empty"):
        prepare_set(known_set("adni-hippocampus"), tmp_path / "from", tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "low", "high", "grey"),
    [
        ([-2000, -1000, -300, 400, 3000], -1000, 400, [0, 0, 128, 255, 255]),
        ([5, 5], 5, 5, [0, 0]),
        ([], 0, 1, []),
    ],
)
def test_grey_levels(values: list[float], low: float, high: float, grey: list[int]) -> None:
    assert grey_from_levels(np.array(values), low, high).tolist() == grey


@pytest.mark.parametrize(("name", "stem"), [("a.b.nii.gz", "a.b"), ("a.nii", "a"), ("a.mnc", "a")])
def test_stems(name: str, stem: str) -> None:
    assert stem_of_volume(Path(name)) == stem


def test_an_absent_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install .scipy"):
        volume_from_file(tmp_path / "x.mhd")
    for module in (nodules, volumes):
        part = next(iter(known_set("luna16").layouts[0].values()))
        jobs = module.jobs_from_nodules if module is nodules else module.jobs_from_volumes
        with pytest.raises(EngineError, match="SimpleITK"):
            jobs(known_set("luna16"), tmp_path, part)
