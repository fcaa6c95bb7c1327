"""Mosaics: every image is there, its boxes lie on it, and what is left over is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprompt.benchmarks.research.mosaic import measure, mosaics
from medprompt.core.errors import DataError
from medprompt.core.tiling import Tiling
from medprompt.data import DetectionSet, read_detection_set
from medprompt.images.read import load_image
from medprompt.runtime import Detector
from medprompt.runtime.strategies import Prompting, Tiled
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> DetectionSet:
    return read_detection_set(str(write_set(tmp_path_factory.mktemp("mosaic") / "set", LEVELS + LEVELS[:1])))


def test_pieces_and_boxes(labelled: DetectionSet) -> None:
    ((canvas, made),) = mosaics(labelled, 2)  # the fifth image is left over
    assert canvas.shape == (80, 120, 3) and made.size_hw == (80, 120)
    third = labelled.images[2]
    assert (canvas[40:, :60] == load_image(third.path)).all()
    assert len(made.boxes_xyxy) == sum(len(image.boxes_xyxy) for image in labelled.images[:4])
    mine = made.boxes_xyxy[len(labelled.images[0].boxes_xyxy) :][: len(third.boxes_xyxy)]  # the second has none
    assert (mine == third.boxes_xyxy + np.array([0, 40, 0, 40])).all()


def test_images_of_two_sizes_are_refused(labelled: DetectionSet) -> None:
    odd = replace(labelled, images=(replace(labelled.images[0], size_hw=(1, 1)), *labelled.images[1:]))
    with pytest.raises(DataError, match="one size"):
        list(mosaics(odd, 2))


def test_tiles_of_the_images_own_size_find_what_one_piece_does_not(labelled: DetectionSet, tmp_path: Path) -> None:
    """The fake engine finds quarters: of the mosaic in one piece, of each image in tiles."""
    with Detector.load(fake_bundle(tmp_path / "bundle"), "fake", threshold=0.0) as detector:
        tiled = Tiled(Prompting(), Tiling(60, 0.0))
        single = measure(labelled, 1, detector, (0.5, 0.5))
        one_piece = measure(labelled, 2, detector, (0.5, 0.5))
        tiles = measure(labelled, 2, lambda image: tiled.detect(detector, tmp_path, image), (0.5, 0.5))
    assert single[1] == 1.0
    assert one_piece[1] < tiles[1]
