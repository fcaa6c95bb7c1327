"""Known data sets in miniature become COCO files that are read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from medprompt.core.errors import DataError, InputError
from medprompt.data import read_detection_set
from medprompt.data.check import check_data
from medprompt.data.native.prepare import layout_of_folder, prepare_set
from medprompt.data.registry import known_set
from tests.medprompt.data import miniatures
from tests.medprompt.data.miniatures import BOX, PATCH, SIZE, mask, masked

SETS: list[tuple[str, Callable[[Path], None], dict[str, tuple[int, int]]]] = [
    ("polyp-cvc300", miniatures.polyps("1.png", "2.png"), {"test": (2, 2)}),
    ("polyp-clinicdb", miniatures.clinicdb, {"train": (2, 2)}),
    ("polyp-colondb", miniatures.polyps("1.png"), {"test": (1, 1)}),
    ("polyp-kvasir", miniatures.kvasir, {"train": (2, 2), "val": (1, 1)}),
    ("polyp-etis", miniatures.etis, {"test": (1, 1)}),
    ("isic2016", miniatures.isic, {"train": (2, 2), "test": (1, 1)}),
    ("dfuc2020", miniatures.dfuc, {"train": (2, 2), "val": (2, 2)}),
    ("bccd", miniatures.bccd, {"train": (1, 2), "val": (1, 2), "test": (1, 2)}),
    ("cpm17", miniatures.cpm17, {"train": (1, 2), "test": (1, 2)}),
    ("tbx11k", miniatures.tbx11k, {"train": (2, 1), "val": (2, 1)}),
    ("tn3k", miniatures.tn3k, {"train": (2, 2), "val": (1, 1), "test": (1, 1)}),
]

BOXES_ALONE = ("dfuc2020", "bccd", "tbx11k")


@pytest.mark.parametrize(("name", "make", "counts"), SETS, ids=[name for name, _, _ in SETS])
def test_each_set_in_miniature(
    tmp_path: Path, name: str, make: Callable[[Path], None], counts: dict[str, tuple[int, int]]
) -> None:
    make(tmp_path / "from")
    known = known_set(name)
    made = prepare_set(known, tmp_path / "from", tmp_path / "out")
    assert {split: (made.images[split], made.boxes[split]) for split in made.images} == counts
    assert made.left_out == ()
    for split in counts:
        content = json.loads((tmp_path / f"out/{split}.json").read_text())
        assert content["annotations"][0]["bbox"] == BOX
        found = read_detection_set(str(tmp_path / f"out/{split}.json"))
        assert found.labels == known.labels
        assert found.images[0].path.is_relative_to(tmp_path / f"out/images/{split}")
        assert found.images[0].boxes_xyxy[0].tolist() == [10, 5, 30, 15]
        assert check_data(str(tmp_path / f"out/{split}.json")).passed
        assert found.masked == (name not in BOXES_ALONE)
    about = json.loads((tmp_path / "out/about.json").read_text())
    assert (about["name"], about["terms"], about["images"]) == (name, known.terms, dict(made.images))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_folder_gives_the_same_bytes_and_images_are_not_touched(tmp_path: Path) -> None:
    miniatures.kvasir(tmp_path / "from")
    before = bytes_of(tmp_path / "from")
    for name in ("one", "two"):
        prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / name)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert bytes_of(tmp_path / "from") == before
    assert (tmp_path / "one/images/train/a.jpg").read_bytes() == before["images/a.jpg"]


def test_images_may_stay_where_they_are(tmp_path: Path) -> None:
    miniatures.kvasir(tmp_path / "from")
    prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / "out", copy=False)
    assert read_detection_set(str(tmp_path / "out/val.json")).images[0].path == tmp_path / "from/images/c.jpg"
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_classes_may_stay_apart(tmp_path: Path) -> None:
    miniatures.tbx11k(tmp_path / "from")
    known = known_set("tbx11k").with_own_categories()
    prepare_set(known, tmp_path / "from", tmp_path / "out")
    found = read_detection_set(str(tmp_path / "out/val.json"))
    assert (len(found.labels), found.labels[found.images[0].class_ids[0]]) == (3, "ObsoletePulmonaryTuberculosis")
    with pytest.raises(DataError, match="no classes that are merged"):
        known_set("bccd").with_own_categories()


def test_pieces_and_small_components(tmp_path: Path) -> None:
    folder = tmp_path / "from"
    masked(folder, "images", "masks", ("1.png", "2.png"))
    mask(folder / "masks/1.png", PATCH, (slice(30, 35), slice(0, 5)), (slice(20, 24), slice(50, 56)))
    mask(folder / "masks/2.png")
    made = prepare_set(known_set("polyp-cvc300"), folder, tmp_path / "out")
    assert made.boxes == {"test": 2}  # 24 pixels are a speck, 25 are none
    assert made.notes == (
        "test: 60 images are published, 2 are here",
        "test: 1 small components of masks are no objects",
    )


def test_what_cannot_be_read_is_left_out_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "from"
    masked(folder, "images", "masks", ("1.png", "2.png", "3.png", "4.png", "5.png"))
    (folder / "masks/2.png").unlink()
    mask(folder / "masks/3.png", size_hw=(5, 5))
    (folder / "images/4.png").write_bytes(b"")
    (folder / "masks/5.png").write_bytes(b"")
    known = known_set("polyp-cvc300")
    made = prepare_set(known, folder, tmp_path / "out")
    assert made.images == {"test": 1}
    assert [line.partition(": ")[0] for line in made.left_out] == [f"images/{n}.png" for n in (2, 3, 4, 5)]
    assert "differ in size. 5 x 5" in made.left_out[1]
    assert json.loads((tmp_path / "out/about.json").read_text())["left_out"] == list(made.left_out)
    with pytest.raises(DataError, match="has no mask"):
        prepare_set(known, folder, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    masked(tmp_path / "from", "images", "masks", ("1.png",))
    (tmp_path / "from/masks/1.png").unlink()
    with pytest.raises(DataError, match="No image could be read"):
        prepare_set(known_set("polyp-cvc300"), tmp_path / "from", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_an_output_that_exists(tmp_path: Path) -> None:
    miniatures.kvasir(tmp_path / "from")
    (tmp_path / "out").mkdir()
    for force in (False, True):
        with pytest.raises(InputError, match="did not write it"):
            prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / "out", force=force)
    prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / "made")
    with pytest.raises(InputError, match="exists already"):
        prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / "made")
    prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / "made", force=True)
    assert (tmp_path / "made/train.json").is_file()


@pytest.mark.parametrize("there", [[], ["photos"], [f"x{n}" for n in range(9)], None])
def test_a_wrong_folder_is_refused(tmp_path: Path, there: list[str] | None) -> None:
    for name in there or []:
        (tmp_path / "from" / name).mkdir(parents=True)
    if there == []:
        (tmp_path / "from").mkdir()
    with pytest.raises(DataError, match="does not hold ISIC 2016") as caught:
        prepare_set(known_set("isic2016"), tmp_path / "from", tmp_path / "out")
    assert "ISBI2016_ISIC_Part1_Test_Data" in caught.value.expected
    assert caught.value.got == (
        "no folder, or an empty one" if not there else ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
    )
    assert "challenge.isic-archive.com" in caught.value.fix


def test_a_set_that_is_there_in_part(tmp_path: Path) -> None:
    miniatures.isic(tmp_path / "from")
    (tmp_path / "from/ISBI2016_ISIC_Part1_Training_Data").rename(tmp_path / "elsewhere")
    made = prepare_set(known_set("isic2016"), tmp_path / "from", tmp_path / "out")
    assert made.images == {"test": 1}
    assert made.notes[0] == "train: no ISBI2016_ISIC_Part1_Training_Data"


def test_the_layout_that_is_there_as_a_whole_comes_first(tmp_path: Path) -> None:
    masked(tmp_path, "images", "masks", ("a.jpg",))
    layout, notes = layout_of_folder(known_set("polyp-kvasir"), tmp_path)
    assert (list(layout), layout["train"].names, notes) == (["train"], None, [])
    (tmp_path / "train.txt").write_text("a")
    (tmp_path / "val.txt").write_text("a")
    assert layout_of_folder(known_set("polyp-kvasir"), tmp_path)[0]["val"].names == "val.txt"


def spoil_list(folder: Path) -> None:
    (folder / "train.txt").write_text("a\nghost\n")


def spoil_fold(folder: Path) -> None:
    (folder / "tn3k-trainval-fold0.json").write_text('{"train": [0]}')


def spoil_images(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()


def spoil_column(folder: Path) -> None:
    (folder / "train.csv").write_text("name,left,top\n1.jpg,1,2\n")


def spoil_table(folder: Path) -> None:
    (folder / "train.csv").write_text("")


def spoil_text(folder: Path) -> None:
    (folder / "train.csv").write_bytes(b"\xff\xfe\xff")


def spoil_number(folder: Path) -> None:
    (folder / "train.csv").write_text("Name, xmin, ymin, xmax, ymax\n1.jpg,1,2,x,4\n")


def spoil_row(folder: Path) -> None:
    (folder / "train.csv").write_text("name,xmin,ymin,xmax,ymax\nghost.jpg,1,2,3,4\n")


def spoil_category(folder: Path) -> None:
    path = folder / "annotations/json/TBX11K_train.json"
    path.write_text(path.read_text().replace("Active", "Passive"))


def spoil_ids(folder: Path) -> None:
    path = folder / "annotations/json/TBX11K_train.json"
    path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 7'))


@pytest.mark.parametrize(
    ("name", "make", "spoil", "message"),
    [
        ("polyp-kvasir", miniatures.kvasir, spoil_list, "without ghost"),
        ("polyp-kvasir", miniatures.kvasir, spoil_images, "folder of images is empty"),
        ("tn3k", miniatures.tn3k, spoil_fold, "list of a split cannot be read"),
        ("dfuc2020", miniatures.dfuc, spoil_column, "lacks columns"),
        ("dfuc2020", miniatures.dfuc, spoil_table, "no row"),
        ("dfuc2020", miniatures.dfuc, spoil_text, "table of boxes cannot be read"),
        ("dfuc2020", miniatures.dfuc, spoil_number, "line 2"),
        ("dfuc2020", miniatures.dfuc, spoil_row, "such as ghost"),
        ("tbx11k", miniatures.tbx11k, spoil_category, "PassiveTuberculosis"),
        ("tbx11k", miniatures.tbx11k, spoil_ids, "no category has the id 7"),
    ],
)
def test_damaged_labels_are_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], spoil: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "from")
    spoil(tmp_path / "from")
    with pytest.raises(DataError, match=message) as caught:
        prepare_set(known_set(name), tmp_path / "from", tmp_path / "out")
    assert caught.value.fix and "do:" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", [{"inst_map": np.zeros((2, 2))}, {"other": np.zeros(SIZE)}, {"inst_map": np.full(SIZE, 0.5)}, b"no mat"]
)
def test_damaged_maps_are_left_out(tmp_path: Path, content: Any) -> None:
    miniatures.cpm17(tmp_path / "from")
    path = tmp_path / "from/train/Labels/image_00.mat"
    path.unlink()
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    made = prepare_set(known_set("cpm17"), tmp_path / "from", tmp_path / "out")
    assert (made.images, len(made.left_out)) == ({"train": 0, "test": 1}, 1)


def test_missing_pictures_of_boxes_are_left_out(tmp_path: Path) -> None:
    miniatures.bccd(tmp_path / "from")
    (tmp_path / "from/JPEGImages/BloodImage_1.jpg").unlink()
    xml = tmp_path / "from/Annotations/BloodImage_2.xml"
    xml.write_text(xml.read_text().replace("<xmin>1</xmin>", ""))
    made = prepare_set(known_set("bccd"), tmp_path / "from", tmp_path / "out")
    assert made.images == {"train": 1, "val": 0, "test": 0}
    assert "BloodImage_1" in made.left_out[0] and "not a number" in made.left_out[1]


def test_boxes_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    miniatures.dfuc(tmp_path / "from")
    (tmp_path / "from/train.csv").write_text("name,xmin,ymin,xmax,ymax\n1.jpg,10,5,inf,15\n2.jpg,1,2,3,4\n")
    made = prepare_set(known_set("dfuc2020"), tmp_path / "from", tmp_path / "out")
    assert (made.images["train"], made.boxes["train"]) == (1, 1)
    assert "not a number" in made.left_out[0]


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    miniatures.tbx11k(tmp_path / "from")
    path = tmp_path / "from/annotations/json/TBX11K_train.json"
    path.write_text(path.read_text().replace("health/h0.png", "tb-tb0.png"))
    Image.new("RGB", (60, 40)).save(tmp_path / "from/imgs/tb-tb0.png")
    with pytest.raises(DataError, match="one name"):
        prepare_set(known_set("tbx11k"), tmp_path / "from", tmp_path / "out")


def test_pixels_of_masks_are_kept(tmp_path: Path) -> None:
    """An L is not its box: what training and measuring by masks read back is the L."""
    miniatures.kvasir(tmp_path / "from")
    shape = np.zeros(SIZE, dtype=np.uint8)
    shape[5:15, 10:14] = shape[13:15, 10:30] = 255
    for path in list((tmp_path / "from/masks").iterdir()):
        path.unlink()
        Image.fromarray(shape).save(path.with_suffix(".png"))
    prepare_set(known_set("polyp-kvasir"), tmp_path / "from", tmp_path / "out")
    masks = read_detection_set(str(tmp_path / "out/val.json")).images[0].masks
    assert masks is not None
    np.testing.assert_array_equal(masks[0], shape > 0)
    (note,) = json.loads((tmp_path / "out/val.json").read_text())["annotations"]
    assert note["area"] == (shape > 0).sum()


def test_an_outline_of_the_labels_is_kept(tmp_path: Path) -> None:
    miniatures.tbx11k(tmp_path / "from")
    path = tmp_path / "from/annotations/json/TBX11K_train.json"
    content = json.loads(path.read_text())
    triangle = [[10.0, 5.0, 30.0, 5.0, 10.0, 15.0]]
    content["annotations"][0]["segmentation"] = triangle
    path.write_text(json.dumps(content))
    prepare_set(known_set("tbx11k"), tmp_path / "from", tmp_path / "out")
    (note,) = json.loads((tmp_path / "out/train.json").read_text())["annotations"]
    assert note["segmentation"] == triangle and 80 < note["area"] < 120
