"""Masks in what a run writes: results, COCO files, tables, pictures; read back by others, and by a run that goes on."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import medprompt
from medprompt.core.convert import plain_rows, supervision_fields
from medprompt.core.errors import InputError
from medprompt.core.masks import Masks
from medprompt.core.overlay import COLOURS, draw_overlay
from medprompt.results.coco import COCO_RESULTS, coco_dataset, coco_results, write_coco
from medprompt.results.resume import previous_from_file
from medprompt.results.run import Item, write_results
from medprompt.results.schema import Results
from tests.medprompt.results.test_results_schema import SCHEMA, faults
from tests.medprompt.results.test_run import FOUND, RUN, detections
from tests.runtime.bundles import make_folder, record

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that makes masks, two pictures, and what a run of it wrote."""
    folder = tmp_path_factory.mktemp("masks")
    make_folder(folder / "bundle", masks=True, engines=(record("ort-cpu"),))
    (folder / "images").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(60, 110, (32, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    infer(folder, out="r.json", coco="c.json", coco_dataset="d.json", csv="t.csv", overlays="o")
    return folder


def infer(world: Path, **options: Any) -> Any:
    paths = {name: world / value if isinstance(value, str) else value for name, value in options.items()}
    return medprompt.infer(world / "bundle", world / "images", threshold=0.1, device="ort-cpu", **paths)


def test_each_detection_of_the_results_has_its_mask(world: Path) -> None:
    content = json.loads((world / "r.json").read_text())
    assert faults(content, SCHEMA) == []
    read = Results.model_validate_json((world / "r.json").read_bytes())
    found = [item.detections.masks for item in infer(world).items]
    assert [item.masks for item in read.items] == found
    assert all(len(masks) and masks.areas.all() for masks in found)


def test_a_run_that_goes_on_reads_its_masks(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (world / "r.json").read_bytes()
    monkeypatch.setattr("medprompt.runtime.decode.source_masks", lambda *_: pytest.fail("asked again"))
    infer(world, out="r.json", overlays="o", resume=True)
    assert (world / "r.json").read_bytes() == before


def first_mask(content: dict[str, Any]) -> dict[str, Any]:
    mask: dict[str, Any] = content["items"][0]["detections"][0]["segmentation"]
    return mask


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: first_mask(content).update(counts="04"),
        lambda content: first_mask(content).update(counts="é"),
        lambda content: first_mask(content).update(size=[48, 32]),
        lambda content: content["items"][0]["detections"][0].pop("segmentation"),
    ],
    ids=["too few pixels", "no run lengths", "another size", "one without"],
)
def test_damaged_masks_are_not_resumed(world: Path, tmp_path: Path, damage: Any) -> None:
    content = json.loads((world / "r.json").read_text())
    damage(content)
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="resume"):
        previous_from_file(tmp_path / "r.json")


def test_pycocotools_reads_the_coco_files(world: Path) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(world / "d.json"))
        results = dataset.loadRes(str(world / "c.json"))
    masks = [item.detections.masks for item in infer(world).items]
    areas = [area for one in masks for area in one.areas.tolist()]
    for coco in (dataset, results):
        assert [coco.annToMask(one).sum() for one in coco.dataset["annotations"]] == areas
    assert [one["area"] for one in dataset.dataset["annotations"]] == areas
    assert COCO_RESULTS.foreign(world / "c.json") == ""


MASKED = replace(
    detections([[1, 2, 11, 22], [-3, 0, 5.25, 60], [20, 20, 22, 22]], [1, 0, 0]),
    masks=Masks.of(np.array([np.pad(np.ones((18, 9), bool), ((3, 29), (2, 29))), *np.zeros((2, 50, 40), bool)])),
)


def test_tables_have_no_masks_and_other_tools_get_pixels(world: Path) -> None:
    assert "segmentation" not in (world / "t.csv").read_text()
    assert list(plain_rows(MASKED)) == list(plain_rows(replace(MASKED, masks=None)))
    pixels = supervision_fields(MASKED)["mask"]
    assert (pixels.shape, pixels.dtype, pixels.sum()) == ((3, 50, 40), bool, 162)
    assert supervision_fields(MASKED[:0])["mask"].shape == (0, 50, 40)
    assert "mask" not in supervision_fields(replace(MASKED, masks=None))


def test_without_masks_every_file_is_as_it_was(tmp_path: Path) -> None:
    assert all("segmentation" not in row for row in coco_results(RUN))
    assert [one["segmentation"] for one in coco_dataset(RUN)["annotations"]] == [[], []]
    write_results(RUN, tmp_path / "r.json")
    assert "segmentation" not in (tmp_path / "r.json").read_text()
    write_coco(RUN, tmp_path / "c.json")
    assert COCO_RESULTS.foreign(tmp_path / "c.json") == ""


@pytest.mark.parametrize("scale", [1, 16], ids=["enlarged", "as it is"])
def test_masks_are_filled_and_outlined_in_the_colour_of_their_class(scale: int) -> None:
    small = np.zeros((2, 50, 40), bool)
    small[0, 10:30, 10:30] = small[1, 35:45, 0:10] = True
    pixels = small.repeat(scale, axis=1).repeat(scale, axis=2)
    boxes = (np.array([[5, 5, 39, 32], [0, 33, 30, 48]]) * scale).tolist()
    found = replace(detections(boxes, [1, 0], (50 * scale, 40 * scale)), masks=Masks.of(pixels))
    before = np.full((*found.size_hw, 3), 100, np.uint8)
    picture = np.asarray(draw_overlay(before, found))
    factor = picture.shape[0] / 50

    def at(y: float, x: float) -> list[int]:
        level: list[int] = picture[int(y * factor), int(x * factor)].tolist()
        return level

    colours = [[int(COLOURS[one][start : start + 2], 16) for start in (1, 3, 5)] for one in (1, 0)]
    for (y, x), colour in zip(((20, 20), (40, 5)), colours, strict=True):
        assert np.abs(np.array(at(y, x)) - (0.7 * 100 + 0.3 * np.array(colour))).max() <= 1
    assert [at(10, 20), at(40, 0)] == colours
    assert [at(48.5, 35.5), at(30.5, 20)] == [[100, 100, 100]] * 2
    assert before.min() == 100


def test_a_mask_may_be_empty_or_the_whole_image() -> None:
    found = replace(detections([[0, 0, 40, 50]], [0]), masks=Masks.of(np.ones((1, 50, 40), bool)))
    assert np.asarray(draw_overlay(np.zeros((50, 40, 3), np.uint8), found))[50:, :, 0].min() > 0
    draw_overlay(np.zeros((50, 40, 3), np.uint8), MASKED)


def test_parquet_parts_hold_masks_where_there_are_some(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from medprompt.runtime.serving.parquet import DETECTIONS, ResultsFolder

    folder = ResultsFolder(tmp_path / "rows")
    masked = Item(Path("m.png"), MASKED)
    for item in (Item(Path("e.png"), MASKED[:0]), masked):
        folder.add([item.as_json()])
    counts = [row["segmentation"]["counts"] for row in MASKED.rows()]
    assert folder.detections()["segmentation"].to_pylist() == counts
    plain = ResultsFolder(tmp_path / "plain")
    plain.add([FOUND.as_json()])
    assert plain.detections().schema == DETECTIONS
