"""Few-shot draws: repeatable, enough of every class, and never an image on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprompt.core.errors import DataError
from medprompt.data import DetectionSet, LabelledImage, check_apart
from medprompt.export.shots import draw_shots, few_shot, part_of, with_classes

BOX = [2.0, 2.0, 8.0, 8.0]


def labelled(*classes: list[int], labels: tuple[str, ...] = ("A", "B")) -> DetectionSet:
    """One image for each list of class ids."""
    images = tuple(
        LabelledImage(
            Path(f"{place}.png"), (10, 10), np.array([BOX] * len(ids), np.float32).reshape(-1, 4), np.array(ids, int)
        )
        for place, ids in enumerate(classes)
    )
    return DetectionSet("made", labels, images)


def counts(data: DetectionSet, places: tuple[int, ...]) -> list[int]:
    return [sum(class_id in data.images[place].class_ids for place in places) for class_id in range(len(data.labels))]


MIXED = labelled(*([[0]] * 10 + [[1]] * 6 + [[0, 1]] * 4 + [[]] * 2))


@pytest.mark.parametrize("shots", [1, 3, 5, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_gets_its_shots(shots: int, seed: int) -> None:
    drawn = draw_shots(MIXED, shots, seed)
    assert drawn == draw_shots(MIXED, shots, seed)
    assert not set(drawn.tuned_on) & set(drawn.held_back)
    assert min(counts(MIXED, drawn.tuned_on + drawn.held_back)) >= shots
    assert min(counts(MIXED, drawn.tuned_on)) >= 1
    assert len(drawn.tuned_on + drawn.held_back) <= 2 * shots


def test_seeds_differ() -> None:
    assert len({draw_shots(MIXED, 3, seed) for seed in range(6)}) > 1


def test_all_takes_all_and_holds_a_fifth_back() -> None:
    drawn = draw_shots(MIXED, None, 0)
    assert sorted(drawn.tuned_on + drawn.held_back) == list(range(22))
    assert len(drawn.held_back) == 4
    assert all(len(MIXED.images[place].class_ids) for place in drawn.held_back)


@pytest.mark.parametrize(
    ("data", "shots", "held_back"),
    [
        (labelled([0, 1]), 1, 0),
        (labelled([0], [1]), 1, 0),
        (labelled([0], [0], [1]), None, 1),
        (labelled([0, 1], [0, 1]), 2, 1),
        (labelled([0, 1], []), None, 0),
    ],
    ids=["one image", "one image a class", "a spare one", "two whole ones", "an empty one teaches nothing"],
)
def test_what_is_held_back_leaves_every_class_an_image(data: DetectionSet, shots: int | None, held_back: int) -> None:
    drawn = draw_shots(data, shots, 0)
    assert len(drawn.held_back) == held_back
    assert min(counts(data, drawn.tuned_on)) >= 1


@pytest.mark.parametrize(
    ("data", "shots", "problem", "got"),
    [
        (labelled([0], [0]), None, "no box in the data", "no box of B"),
        (labelled([], labels=("A",)), 1, "no box in the data", "no box of A"),
        (labelled([0, 1], [0]), 2, "fewer images than shots", "B 1"),
        (labelled([0, 1], [0]), 3, "fewer images than shots", "A 2, B 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(data: DetectionSet, shots: int | None, problem: str, got: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        draw_shots(data, shots, 0)
    assert caught.value.got == got
    assert caught.value.exit_code == 2


def test_categories_without_a_class_are_background() -> None:
    known = with_classes(labelled([0, 1, 1], [0], []), ["b", "C"])
    assert known.labels == ("b", "C")
    assert [image.class_ids.tolist() for image in known.images] == [[0, 0], [], []]
    assert [image.boxes_xyxy.shape for image in known.images] == [(2, 4), (0, 4), (0, 4)]


def test_the_same_bytes_under_another_name_are_found(tmp_path: Path) -> None:
    for name, content in (("0.png", b"one"), ("1.png", b"two"), ("2.png", b"one")):
        (tmp_path / name).write_bytes(content)
    box = (np.array([BOX], np.float32), np.array([0]))
    whole = DetectionSet("made", ("A",), tuple(LabelledImage(tmp_path / f"{n}.png", (10, 10), *box) for n in range(3)))
    check_apart(part_of(whole, [0], "data"), part_of(whole, [1], "report"))
    with pytest.raises(DataError, match="share images") as caught:
        check_apart(part_of(whole, [0, 1], "data"), part_of(whole, [2], "report"))
    assert caught.value.got == f"1 in both, such as {tmp_path / '0.png'} = {tmp_path / '2.png'}"


@given(
    st.lists(st.lists(st.integers(0, 1), max_size=3), min_size=30, max_size=60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_few_shots_are_enough_for_each_class_and_nest(
    classes_by_image: list[list[int]], few: int, more: int, seed: int
) -> None:
    whole = labelled([0, 1], [0], [1], [0], [1], [0, 1], *classes_by_image, labels=("a", "b", "c"))
    least, most = sorted((few, more))
    smaller, larger = few_shot(whole, least, seed), few_shot(whole, most, seed)
    assert {image.path for image in smaller.images} <= {image.path for image in larger.images}
    for class_id in (0, 1):
        assert sum(class_id in image.class_ids for image in smaller.images) >= least
    assert len(smaller.images) <= 2 * least and all(len(image.class_ids) for image in smaller.images)
    again = [image.path for image in few_shot(whole, least, seed).images]
    assert [image.path for image in smaller.images] == again == sorted(again, key=lambda path: int(path.stem))
    assert smaller.labels == whole.labels


def test_more_few_shots_than_images_of_a_class() -> None:
    few = labelled([0], [0], [0, 1], labels=("a", "b", "c"))
    with pytest.raises(DataError, match="b 1"):
        few_shot(few, 2, 0)
    assert len(few_shot(few, 1, 0).images) in (1, 2)  # "c" is on no image: nobody waits for it
