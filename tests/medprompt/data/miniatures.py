"""Each known data set in miniature, as it lies on disk once unpacked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.medprompt.data.made import coco, picture, voc

SIZE = (40, 60)
PATCH = (slice(5, 15), slice(10, 30))
"""Rows and columns of the object in most pictures: its box is 10, 5, 30, 15."""
BOX = [10, 5, 20, 10]
"""The same as COCO has it."""


def mask(path: Path, *patches: tuple[slice, slice], size_hw: tuple[int, int] = SIZE) -> None:
    """Write a binary mask."""
    pixels = np.zeros(size_hw, dtype=np.uint8)
    for patch in patches:
        pixels[patch] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def masked(folder: Path, images: str, masks: str, names: Sequence[str], pattern: str = "{}.png") -> None:
    """Write images and a mask for each."""
    for seed, name in enumerate(names):
        picture(folder / images / name, SIZE, seed)
        mask(folder / masks / pattern.format(Path(name).stem), PATCH)


def isic(folder: Path) -> None:
    """Two images to train on, one to test."""
    for part, names in {"Training": ("ISIC_0000000.jpg", "ISIC_0000001.jpg"), "Test": ("ISIC_0000003.jpg",)}.items():
        stem = f"ISBI2016_ISIC_Part1_{part}"
        masked(folder, f"{stem}_Data", f"{stem}_GroundTruth", names, "{}_Segmentation.png")


def polyps(*names: str) -> Callable[[Path], None]:
    """``images/`` and ``masks/``."""
    return lambda folder: masked(folder, "images", "masks", names)


def kvasir(folder: Path) -> None:
    """Three images, two of them to train on."""
    masked(folder, "images", "masks", ("a.jpg", "b.jpg", "c.jpg"), "{}.jpg")
    (folder / "train.txt").write_text("a\nb\n")
    (folder / "val.txt").write_text("c\n")


def clinicdb(folder: Path) -> None:
    """As published: TIFF."""
    masked(folder, "Original", "Ground Truth", ("1.tif", "2.tif"), "{}.tif")


def etis(folder: Path) -> None:
    """As published: masks begin with p."""
    masked(folder, "ETIS-LaribPolypDB", "Ground Truth", ("1.tif",), "p{}.tif")


def tn3k(folder: Path) -> None:
    """Three images to train and validate on, one to test, with the same names."""
    masked(folder, "trainval-image", "trainval-mask", ("0000.jpg", "0001.jpg", "0002.jpg"), "{}.jpg")
    masked(folder, "test-image", "test-mask", ("0000.jpg",), "{}.jpg")
    (folder / "tn3k-trainval-fold0.json").write_text(json.dumps({"train": [0, 2], "val": [1]}))


def cpm17(folder: Path) -> None:
    """A map with two objects."""
    for seed, part in enumerate(("train", "test")):
        picture(folder / part / "Images/image_00.png", SIZE, seed)
        numbers = np.zeros(SIZE)
        numbers[PATCH] = 4
        numbers[30:32, 0:3] = 9
        (folder / part / "Labels").mkdir()
        savemat(folder / part / "Labels/image_00.mat", {"inst_map": numbers})


def bccd(folder: Path) -> None:
    """A picture a split."""
    boxes = [("RBC", 10, 5, 30, 15), ("Platelets", 1, 1, 3, 3)]
    for seed, split in enumerate(("train", "val", "test")):
        picture(folder / f"JPEGImages/BloodImage_{seed}.jpg", SIZE, seed)
        voc(folder, split, {f"BloodImage_{seed}": (SIZE, boxes)})


def dfuc(folder: Path) -> None:
    """Two ulcers, and a foot without."""
    for split in ("train", "val"):
        for seed, name in enumerate(("1.jpg", "2.jpg")):
            picture(folder / split / name, SIZE, seed)
        (folder / f"{split}.csv").write_text("name,xmin,ymin,xmax,ymax\n1.jpg,10,5,30,15\n1.jpg,0,0,4,4\n2.jpg,,,,\n")


def tbx11k(folder: Path) -> None:
    """A patient, and a healthy one."""
    names = ["ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis"]
    for seed, split in enumerate(("train", "val")):
        sick, healthy = f"tb/tb{seed}.png", f"health/h{seed}.png"
        for number, name in enumerate((sick, healthy)):
            picture(folder / "imgs" / name, SIZE, 10 * seed + number)
        images = {sick: (SIZE, [(names[1], 10, 5, 30, 15)]), healthy: (SIZE, [])}
        coco(folder / f"annotations/json/TBX11K_{split}.json", images, names)
