"""``medprompt prompts search`` and ``augment --rank`` as their users meet them."""

import json
import sys

import pytest

from medprompt.cli import main
from medprompt.prompts.file import prompts_from_yaml
from tests.export.prompt_tuning.sets import drawn_set

PROMPTS = """classes:
  - {label: disc, phrases: [red cell, polyp]}
  - {label: spot, phrases: [bump]}
"""


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_checkpoint, cli):
    """``run("search", …) -> (exit code, stdout, stderr)`` in a folder with prompts and two labelled sets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(PROMPTS)
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        labelled = drawn_set(tmp_path / name)
        if name == "val":  # other images: PNGs may carry trailing bytes
            for entry in labelled.images:
                entry.path.write_bytes(entry.path.read_bytes() + b"other")
        write_coco(tmp_path / name / "labels.json", labelled)
    checkpoint = tiny_checkpoint("owlvit")

    def call(command, *words):
        first = [checkpoint] if command == "search" else []
        return cli("prompts", command, *first, *words)

    call.checkpoint = checkpoint
    return call


def write_coco(path, labelled):
    boxes = [
        {"id": 10 * n + k + 1, "image_id": n, "category_id": int(c), "iscrowd": 0}
        | {"bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])]}
        for n, entry in enumerate(labelled.images)
        for k, (b, c) in enumerate(zip(entry.boxes_xyxy, entry.class_ids, strict=True))
    ]
    images = [
        {"id": n, "file_name": entry.path.name, "height": entry.size_hw[0], "width": entry.size_hw[1]}
        for n, entry in enumerate(labelled.images)
    ]
    categories = [{"id": n, "name": label} for n, label in enumerate(labelled.labels)]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


SEARCH = ("--prompts", "p.yaml", "--data", "train/labels.json", "--test-data", "val/labels.json", "--out", "q.yaml")


def test_search_writes_prompts_and_shows_both_sets(run, tmp_path):
    code, out, err = run("search", *SEARCH, "--budget", 9, "--cache", "cache")
    assert code == 0, err
    assert "9 candidates" in out
    assert "searched" in out and "reported" in out
    assert "the phrases of spot contain no attribute word" in err
    found = prompts_from_yaml(tmp_path / "q.yaml")
    assert [entry.label for entry in found.classes] == ["disc", "spot"]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4
    assert run("search", *SEARCH)[0] == 2  # q.yaml exists


def test_search_as_json(run):
    code, out, _ = run("search", *SEARCH, "--budget", 9, "--method", "beam", "--beam", 2, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["candidates"] == 9
    assert report["data"]["found"]["ap"] >= report["data"]["start"]["ap"]
    gains = [report[side]["found"]["ap"] - report[side]["start"]["ap"] for side in ("data", "report")]
    assert report["optimism"] == pytest.approx(gains[0] - gains[1], abs=3e-6)
    assert set(report["phrases"]) == {"disc", "spot"}
    assert report["candidates_per_minute"] > 0


def test_search_on_a_part_of_the_images(run):
    code, out, err = run("search", *SEARCH, "--budget", 2, "--shots", 1, "--json")
    assert code == 0, err
    assert json.loads(out)["data"]["images"] == 1  # both classes are on the first one drawn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--test-data": "train/labels.json"}, "share images"),
        ({"--shots": "99"}, "fewer images than shots"),
        ({"--prompts": "other.yaml"}, "no class for: spot"),
        ({"--prompts": "more.yaml"}, "none of: third"),
        ({"--data": "none.json"}, "cannot be read"),
        ({"--data": "empty.json"}, "no image"),
        ({"--prompts": "missing.yaml"}, "cannot be read"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(run, tmp_path, change, message):
    (tmp_path / "other.yaml").write_text("classes: [{label: disc, phrases: [red cell]}]")
    (tmp_path / "more.yaml").write_text(PROMPTS + "  - {label: third, phrases: [third thing]}\n")
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    options = {**dict(zip(SEARCH[::2], SEARCH[1::2], strict=True)), **change}
    code, out, err = run("search", *(word for pair in options.items() for word in pair))
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "q.yaml").exists()


def test_a_folder_that_is_no_checkpoint(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["medprompt", "prompts", "search", str(tmp_path / "train"), *SEARCH])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "no config.json" in capsys.readouterr().err


@pytest.mark.parametrize("source", [("--images", "train"), ("--data", "train/labels.json")])
def test_augment_keeps_the_best_ranked(run, tmp_path, source):
    code, out, err = run("augment", "p.yaml", "--out", "q.yaml", "--most", 2, "--rank", run.checkpoint, *source)
    assert code == 0, err
    made = prompts_from_yaml(tmp_path / "q.yaml")
    assert [len(entry.phrases) for entry in made.classes] == [4, 1]
    assert "was there" in out
    assert "left out" in out
    assert out.endswith("q.yaml: 5 phrases, 2 of them new\n")


@pytest.mark.parametrize(
    "words",
    [
        ("--rank", "x"),
        ("--images", "train"),
        ("--rank", "x", "--images", "train", "--data", "train/labels.json"),
    ],
)
def test_ranking_wants_a_checkpoint_and_one_set(run, words):
    code, _, err = run("augment", "p.yaml", "--out", "q.yaml", *words)
    assert code == 2
    assert "one set of images" in err
