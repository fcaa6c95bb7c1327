"""Data that a run meets: damaged, missing, empty, unknown; and the hash that names it."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from medprompt.cli import main
from medprompt.core.errors import DataError
from medprompt.data import read_detection_set
from medprompt.export.finetune.run import IMAGES_FILE
from medprompt.export.finetune.sets import class_emphasis, data_from_recipe, data_sha256
from medprompt.export.finetune.trainer import finetune
from medprompt.prompts.schema import Prompts
from tests.export.finetune.drawn import PROMPTS, drawn_coco, recipe_of

LABELS = ("disc", "spot")


@pytest.fixture
def data(tmp_path):
    """Six JPEG images in a folder of their own; the path of the COCO file."""
    (tmp_path / "data").mkdir()
    return Path(drawn_coco(tmp_path / "data", suffix="jpg"))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-200])


def changed(data, **fields):
    data.write_text(json.dumps(json.loads(data.read_text()) | fields))


@pytest.fixture
def train(tiny_checkpoint, data, tmp_path):
    def call(prompts=PROMPTS, strict=False, warn=lambda text: None, **changes):
        recipe = recipe_of(str(data), steps=1, **changes)
        return finetune(tiny_checkpoint("owlvit"), prompts, recipe, tmp_path / "out", strict=strict, warn=warn)

    return call


def test_an_image_that_is_listed_and_missing_is_named(train, data, tmp_path):
    (data.parent / "3.jpg").unlink()
    with pytest.raises(DataError, match="labels list is missing") as caught:
        train()
    assert caught.value.got.startswith("missing_image: ")
    assert "3.jpg; looked in" in caught.value.got
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_set_without_images_is_refused(train, data):
    changed(data, images=[], annotations=[])
    with pytest.raises(DataError, match="has no image") as caught:
        train()
    assert caught.value.where == str(data)


def test_an_empty_voc_split_is_refused(data, tmp_path):
    listing = tmp_path / "voc" / "ImageSets" / "Main" / "train.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("")
    recipe = recipe_of(str(data), data=[{"train": "voc:train"}])
    with pytest.raises(DataError, match="has no image"):
        data_from_recipe(recipe, LABELS, tmp_path)


def test_every_class_without_a_phrase_is_listed(train, data):
    categories = [{"id": n, "name": name} for n, name in enumerate(("ring", "disc", "spot", "rod"))]
    changed(data, categories=categories)
    used = json.loads(data.read_text())["annotations"]
    more = [{**used[0], "id": 900 + n, "category_id": n, "bbox": [3 + 5 * n, 3, 4, 4]} for n in (0, 3)]
    changed(data, annotations=[*used, *more])
    with pytest.raises(DataError, match="no class of the prompts covers") as caught:
        train()
    assert caught.value.got == "no class for: ring, rod"
    only_spots = Prompts.model_validate({"classes": [{"label": "spot", "phrases": ["dot"]}]})
    with pytest.raises(DataError, match="no class for: ring, disc, rod"):
        train(prompts=only_spots)


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_among_good_ones_are_left_out_listed_and_counted(train, data, tmp_path):
    cut_short(data.parent / "1.jpg")
    (data.parent / "4.jpg").write_bytes(b"no image at all")
    told = []
    result = train(warn=told.append)
    assert [entry.path.name for entry in result.skipped] == ["1.jpg", "4.jpg"]
    assert len([text for text in told if str(data) in text]) == 2
    assert "1.jpg: " in told[0] and "4.jpg: " in told[1]
    lines = (tmp_path / "out.run" / IMAGES_FILE).read_text().splitlines()
    assert [line.rpartition("\t")[2] for line in lines] == ["0.jpg", "2.jpg", "3.jpg", "5.jpg"]
    card = (result.checkpoint / "README.md").read_text()
    assert card.count("4 images, 8 boxes; 2 unreadable left out") == 2  # trained on, and measured on
    assert np.isfinite(result.measured["ap/data"])


def test_strict_stops_at_damaged_images(train, data, tmp_path):
    cut_short(data.parent / "1.jpg")
    cut_short(data.parent / "4.jpg")
    with pytest.raises(DataError, match="Images of the data cannot be read") as caught:
        train(strict=True)
    assert caught.value.got.startswith("2 unreadable: ") and "1.jpg" in caught.value.got and "4.jpg" in caught.value.got
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_strict_error_names_ten_and_counts_the_others(tmp_path):
    data = drawn_coco(tmp_path, count=13, suffix="jpg")
    for path in tmp_path.glob("*.jpg"):
        cut_short(path)
    with pytest.raises(DataError) as caught:
        data_from_recipe(recipe_of(data, data=[{"train": data}]), LABELS, Path(), strict=True)
    assert caught.value.got.startswith("13 unreadable: ") and caught.value.got.endswith("; and 3 more")
    with pytest.raises(DataError, match="No image of the data set can be read"):
        data_from_recipe(recipe_of(data), LABELS, Path())


def test_shots_are_drawn_from_images_that_can_be_read(data):
    recipe = recipe_of(str(data), shots=4)
    for name in ("1.jpg", "4.jpg"):
        cut_short(data.parent / name)
    found = data_from_recipe(recipe, LABELS, Path()).training[0]
    assert [image.path.name for image in found.images] == ["0.jpg", "2.jpg", "3.jpg", "5.jpg"]
    with pytest.raises(DataError, match="disc 4, spot 4"):
        data_from_recipe(recipe_of(str(data), shots=5), LABELS, Path())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strict", [False, True])
def test_the_command_says_what_it_left_out(tiny_checkpoint, data, tmp_path, monkeypatch, capsys, strict):
    cut_short(data.parent / "2.jpg")
    (tmp_path / "p.yaml").write_text("classes: [{label: disc, phrases: [a cell]}, {label: spot, phrases: [dot]}]")
    recipe = "data: [{train: set.json, val: set.json}]\nsteps: 1\nbatch: 1\nthreads: 1\nmode: full\n"
    (tmp_path / "r.yaml").write_text(recipe)
    words = ["finetune", tiny_checkpoint("owlvit"), "--prompts", "p.yaml", "--recipe", "r.yaml", "--out", "out"]
    words += ["--data-root", data.parent, "--mode", "head", *(["--strict"] if strict else [])]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medprompt", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert "2.jpg" in err
    if strict:
        assert caught.value.code == 2 and "1 unreadable" in err
        return
    assert not caught.value.code
    assert re.search(r"images left out as unreadable\s+\S?\s*1\b", out)
    assert "mode: head" in (tmp_path / "out" / "recipe.yaml").read_text()


def test_the_hash_of_a_set_is_of_images_and_labels_alone(data, tmp_path):
    reference = data_sha256(read_detection_set(str(data)))
    assert re.fullmatch("[0-9a-f]{64}", reference)
    content = json.loads(data.read_text())
    moved = tmp_path / "moved"
    moved.mkdir()
    for entry in content["images"]:
        (moved / f"x{entry['file_name']}").write_bytes((data.parent / entry["file_name"]).read_bytes())
        entry["file_name"] = f"x{entry['file_name']}"
    content["images"].reverse()
    content["annotations"].reverse()
    (moved / "set.json").write_text(json.dumps(content))
    assert data_sha256(read_detection_set(str(moved / "set.json"))) == reference
    content["annotations"][0]["bbox"][0] += 1
    (moved / "set.json").write_text(json.dumps(content))
    other_box = data_sha256(read_detection_set(str(moved / "set.json")))
    content["categories"][0]["name"] = "ring"
    (moved / "set.json").write_text(json.dumps(content))
    other_label = data_sha256(read_detection_set(str(moved / "set.json")))
    Image.new("RGB", (80, 60)).save(data.parent / "0.jpg")
    other_pixels = data_sha256(read_detection_set(str(data)))
    assert len({reference, other_box, other_label, other_pixels}) == 4


def test_the_hash_tells_held_out_boxes_from_none(data):
    whole = read_detection_set(str(data))
    held_out = whole.holding_out(["spot"])
    without = [entry for entry in json.loads(data.read_text())["annotations"] if entry["category_id"] == 1]
    changed(data, annotations=without)
    assert len({data_sha256(found) for found in (whole, held_out, read_detection_set(str(data)))}) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_card_names_data_mode_and_shots(train, data):
    result = train(shots=3, mode="prompt")
    card = (result.checkpoint / "README.md").read_text()
    trained = data_from_recipe(recipe_of(str(data), shots=3), LABELS, Path()).training[0]
    assert f"{data}: 3 images, 6 boxes;\n  data sha256 `{data_sha256(trained)}`" in card
    assert f"{data}: 6 images, 12 boxes;\n  data sha256 `{data_sha256(read_detection_set(str(data)))}`" in card
    assert "Mode `prompt`: text side trained" in card
    assert "Few-shot: 3 images of each class." in card


@pytest.mark.filterwarnings("ignore")
def test_a_run_does_not_go_on_with_other_images(train, data, tmp_path):
    train(save_every=1)
    cut_short(data.parent / "1.jpg")
    with pytest.raises(DataError, match="not those that the run began with") as caught:
        train(save_every=1)
    assert (caught.value.expected, caught.value.got) == ("6 images, 1.jpg among them", "5 images")
    assert len((tmp_path / "out.run" / IMAGES_FILE).read_text().splitlines()) == 6


@pytest.mark.parametrize(("balance", "emphasis"), [(0.0, ()), (0.5, (1.0, 1.5**0.5)), (1.0, (1.0, 1.5))])
def test_rare_classes_count_more_where_the_recipe_says_so(data, balance, emphasis):
    spots = [entry for entry in json.loads(data.read_text())["annotations"] if entry["category_id"] == 2]
    fewer = [entry for entry in json.loads(data.read_text())["annotations"] if entry not in spots[3:]]
    changed(data, annotations=fewer)  # 6 discs, 3 spots: 4.5 on average
    recipe = recipe_of(str(data), class_balance=balance)
    assert class_emphasis(data_from_recipe(recipe, LABELS, Path()), recipe) == pytest.approx(emphasis)


class TestOutlines:
    """What a model that makes masks asks of the labels."""

    @pytest.fixture
    def train(self, tiny_checkpoint, tmp_path):
        def call(data, warn=lambda text: None, **changes):
            recipe = recipe_of(str(data), data=[{"train": str(data)}], steps=1, decay_steps=0, **changes)
            return finetune(tiny_checkpoint("sam3"), PROMPTS, recipe, tmp_path / "out", warn=warn)

        return call

    @pytest.fixture
    def boxed(self, data):
        """The same without outlines."""
        annotations = json.loads(data.read_text())["annotations"]
        for one in annotations:
            del one["segmentation"]
        changed(data, annotations=annotations)
        return data

    def test_boxes_alone_are_refused(self, train, boxed, tmp_path):
        with pytest.raises(DataError, match="no object of the training data has an outline") as caught:
            train(boxed)
        assert "boxes_only: true" in caught.value.fix
        assert not (tmp_path / "out").exists()

    def test_boxes_alone_can_be_trained_and_leave_the_mask_head(self, train, boxed, tiny_checkpoint):
        told = []
        result = train(boxed, told.append, boxes_only=True, mode="head")
        assert any("its masks are not trained" in line for line in told)
        before, after = (load_file(at / "model.safetensors") for at in (tiny_checkpoint("sam3"), result.checkpoint))
        same = {name for name in before if np.array_equal(before[name], after[name])}
        assert {name for name in before if name.startswith("mask_decoder.")} <= same
        licences = [(at / "LICENSE").read_bytes() for at in (tiny_checkpoint("sam3"), result.checkpoint)]
        assert licences[0] == licences[1]  # what the start carries goes along
        assert not [name for name in same if name.startswith("detr_decoder.layers.")]

    def test_objects_without_one_are_counted_and_outlines_bind_a_run(self, train, data):
        annotations = json.loads(data.read_text())["annotations"]
        del annotations[0]["segmentation"]
        changed(data, annotations=annotations)
        told = []
        train(data, told.append)
        assert any("1 of 12 objects have no outline" in line for line in told)
        annotations[2]["segmentation"] = annotations[3]["segmentation"]
        changed(data, annotations=annotations)
        with pytest.raises(DataError, match="began with another outlines"):
            train(data)

    def test_an_outline_that_cannot_be_read_stops_a_run_before_it_begins(self, train, data, tmp_path):
        annotations = json.loads(data.read_text())["annotations"]
        annotations[5]["segmentation"] = {"size": [6, 8], "counts": "0"}
        changed(data, annotations=annotations)
        with pytest.raises(DataError, match="outline of an object cannot be read"):
            train(data)
        assert not (tmp_path / "out.run").exists()
