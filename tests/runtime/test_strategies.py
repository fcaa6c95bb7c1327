"""Images with their own phrases, on an engine whose scores stand in the bank itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import BankError, InputError
from medprompt.core.manifest import Postprocess, Preprocess
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.phrase_set import subset_phrases
from medprompt.prompts.schema import Prompts
from medprompt.results.coco import coco_results
from medprompt.results.run import PromptSubset
from medprompt.runtime import Detector, EngineChoice, detect_by_best, detect_in_groups, prompt_cache
from medprompt.runtime.batch import infer_images
from medprompt.runtime.engines.base import Engine
from medprompt.runtime.strategies import (
    BestPhrases,
    MappedPhrases,
    best_phrases_from_text,
    best_rows,
    grouped,
    phrase_responses,
)
from tests.runtime.bundles import ENCODER, SIZE_HW, make_manifest

CLASSES = [
    {"label": "A", "threshold": 0.25, "phrases": ["a0", "a1", "a2"]},
    {"label": "B", "phrases": [{"text": "b0", "weight": 0.5}, "b1"]},
]
ANSWERS = np.array(
    [[0.9, 0.1, 0.1], [0.2, 0.2, 0.4], [0.8, 0.25, 0.1], [0.1, 1.0, 0.1], [0.1, 0.45, 0.3]], dtype=np.float32
)
"""Score of each phrase (rows) at each of three queries on a white image, before weights."""

BOXES = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.52], [0.6, 0.6, 1, 1]], dtype=np.float32)


class Answering(Engine):
    """Query q answers its best phrase: brightness x vector x weight, as the canonical graph does under max pooling."""

    def __init__(self) -> None:
        self.fed: list[dict[str, NDArray[Any]]] = []

    @classmethod
    def available(cls) -> str:
        return ""

    @classmethod
    def open(cls, model: Any, threads: int | None = None) -> Answering:
        return cls()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.fed.append(dict(feeds))
        level = feeds["image"].reshape(len(feeds["image"]), -1).mean(axis=1) / 255
        scored = feeds["vectors"][0] * feeds["phrase_to_class"].max(axis=1)[:, None]
        speakers = np.tile(scored.argmax(axis=0), (len(level), 1))
        return {
            "boxes_xyxy": np.tile(BOXES, (len(level), 1, 1)),
            "scores": (level[:, None] * scored.max(axis=0)).astype(np.float32),
            "class_ids": feeds["phrase_to_class"].argmax(axis=1)[speakers],
            "phrase_ids": speakers,
        }

    def close(self) -> None:
        """Nothing to free."""


def make_bank() -> PromptBank:
    prompts = Prompts.model_validate({"classes": CLASSES})
    return PromptBank(prompts, ENCODER, {"vectors": ANSWERS}, {"vectors": "phrase"}, np.zeros(0, dtype=np.int64))


def make_detector(
    placement: Literal["host", "graph"] = "host", bank: PromptBank | None = None, **changes: Any
) -> Detector:
    preprocess = Preprocess(size_hw=SIZE_HW, resample="bilinear", placement=placement)
    served = bank or make_bank()
    manifest = make_manifest(preprocess=preprocess, **{"postprocess": Postprocess(top_k=3, queries=3), **changes})
    return Detector(Bundle(Path("b"), manifest, served, "0" * 64), Answering(), served, EngineChoice("test", "test"))


def fed(detector: Detector) -> list[dict[str, NDArray[Any]]]:
    assert isinstance(detector.engine, Answering)
    return detector.engine.fed


def white(height: int = 20, width: int = 40, level: int = 255) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def found(detections: Detections) -> list[tuple[str, str, float]]:
    return [(row["label"], row["phrase"], row["score"]) for row in detections.rows()]


@pytest.fixture(params=["host", "graph"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return make_detector(request.param)


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (None, [("A", "a0", 0.9), ("B", "b0", 0.5), ("A", "a1", 0.4)]),
        (["b1", "a2"], [("A", "a2", 0.8), ("B", "b1", 0.45), ("B", "b1", 0.3)]),
        (["A1 ", "b0"], [("B", "b0", 0.5), ("A", "a1", 0.4)]),
        (["a0", "a1", "a2", "b0", "b1"], [("A", "a0", 0.9), ("B", "b0", 0.5), ("A", "a1", 0.4)]),
    ],
    ids=["all", "two", "under the class's threshold", "all by name"],
)
def test_phrases_of_one_image(
    detector: Detector, phrases: list[str] | None, expected: list[tuple[str, str, float]]
) -> None:
    answer = detector(white(), phrases)
    assert found(answer) == expected
    assert answer.labels == ("A", "B")
    assert answer.phrases == (
        detector.bank.prompts.texts if phrases is None else subset_phrases(detector.bank, phrases).prompts.texts
    )


@pytest.mark.parametrize(
    ("nms", "kept"),
    [({}, [0.9, 0.5]), ({"nms_iou": 0.5}, [0.9, 0.5]), ({"nms_iou": 0.5, "nms_across_classes": True}, [0.9])],
    ids=["off", "by class", "across classes"],
)
def test_suppression_as_in_plain_inference(nms: dict[str, Any], kept: list[float]) -> None:
    whole = make_detector(postprocess=Postprocess(top_k=3, **nms))
    assert whole(white(), ["a0", "b0"]).scores.tolist() == pytest.approx(kept)
    assert detect_by_best(whole, white(), 1).scores.tolist() == pytest.approx(kept)
    for phrases in (["a0", "b0"], ["a1", "a2", "b1"], ["a2", "b0", "b1"]):
        alone = make_detector(bank=subset_phrases(make_bank(), phrases), postprocess=Postprocess(top_k=3, **nms))
        assert found(whole(white(), phrases)) == found(alone(white()))


@pytest.mark.parametrize(("phrases", "words"), [(["a0"], "left without"), ([], "left without"), (["c", "a0"], "these")])
def test_bad_phrases(detector: Detector, phrases: list[str], words: str) -> None:
    for ask in (lambda: detector(white(), phrases), lambda: detect_in_groups(detector, [white()], [phrases])):
        with pytest.raises(BankError, match=words):
            ask()
    assert fed(detector) == []


def test_each_set_is_assembled_once(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []
    whole = prompt_cache.prompt_inputs

    def counting(bank: PromptBank, specs: Any) -> Any:
        made.append(bank.prompts.texts)
        return whole(bank, specs)

    monkeypatch.setattr(prompt_cache, "prompt_inputs", counting)
    sets = [["b0", "a0"], ["a0", "b0"], ["a1", "b1"], ["A0", "b0", "b0"]]

    def ask(number: int) -> list[tuple[str, str, float]]:
        return found(detector(white(level=200 + number % 5), sets[number % 4]))

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(80)))
    assert sorted(made) == [("a0", "b0"), ("a1", "b1")]
    assert together == [ask(number) for number in range(80)]
    assert together[0] != together[2]


def test_only_so_many_sets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "MAX_SETS", 2)
    detector = make_detector()
    first = detector.prompts.of(["a0", "b0"])
    assert detector.prompts.of(["b0", "a0"]) is first
    for other in (["a1", "b0"], ["a2", "b0"]):
        detector.prompts.of(other)
    again = detector.prompts.of(["a0", "b0"])
    assert again is not first
    assert again.sha256 == first.sha256 == subset_phrases(make_bank(), ["a0", "b0"]).content_hash()


def test_batches_are_grouped_by_set_and_keep_their_order(detector: Detector) -> None:
    images = [white(20, 40, level) for level in (250, 240, 230, 220)]
    phrases = [["a0", "b0"], None, ["b0", "a0"], ["a2", "b1"]]
    answers = detect_in_groups(detector, images, phrases)
    assert [len(feeds["image"]) for feeds in fed(detector)] == [2, 1, 1]
    assert [found(one) for one in answers] == [
        found(detector(image, texts)) for image, texts in zip(images, phrases, strict=True)
    ]
    assert detect_in_groups(detector, [], []) == []
    with pytest.raises(ValueError, match="got 1 for 2"):
        detect_in_groups(detector, images[:2], [None])


def test_sources_of_several_sizes_in_groups(detector: Detector) -> None:
    images = [white(10, 10), white(20, 40), white(10, 10)]
    answers = detect_in_groups(detector, images, [["a0", "b0"]] * 3)
    assert [one.size_hw for one in answers] == [(10, 10), (20, 40), (10, 10)]
    assert [one.boxes_xyxy[0, 2] for one in answers] == pytest.approx([5, 20, 5])


@pytest.mark.parametrize(
    ("most", "expected", "passes"),
    [
        (1, [("A", "a0", 0.9), ("B", "b0", 0.5)], 2),
        (2, [("A", "a0", 0.9), ("B", "b0", 0.5), ("A", "a1", 0.4)], 2),
        (3, [("A", "a0", 0.9), ("B", "b0", 0.5), ("A", "a1", 0.4)], 1),
        (99, [("A", "a0", 0.9), ("B", "b0", 0.5), ("A", "a1", 0.4)], 1),
    ],
)
def test_the_best_phrases_of_an_image(
    detector: Detector, most: int, expected: list[tuple[str, str, float]], passes: int
) -> None:
    answer = detect_by_best(detector, white(), most)
    assert found(answer) == expected
    assert len(fed(detector)) == passes
    assert fed(detector)[0]["image"] is fed(detector)[-1]["image"]
    whole = {1: ("a0", "b0"), 2: ("a0", "a1", "b0", "b1")}.get(most, make_bank().prompts.texts)
    assert answer.phrases == whole
    if passes == 1:
        plain = detector(white())
        for name in ("boxes_xyxy", "scores", "class_ids", "phrase_ids"):
            np.testing.assert_array_equal(getattr(answer, name), getattr(plain, name))


def test_a_black_image_keeps_the_first_phrases() -> None:
    answer = detect_by_best(make_detector(), white(level=0), 1)
    assert len(answer) == 0
    assert answer.phrases == ("a0", "b0")


def test_responses_are_the_best_scores_won() -> None:
    outputs = {
        "phrase_ids": np.array([[0, 0, 0], [2, 0, 2]]),
        "scores": np.array([[1, 1, 1], [0.2, 0.5, 0.3]], np.float32),
    }
    assert phrase_responses(outputs, 1, 4).tolist() == pytest.approx([0.5, 0, 0.3, 0])
    assert phrase_responses({name: value[:, :0] for name, value in outputs.items()}, 0, 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("responses", "classes", "most", "rows"),
    [
        ([0.1, 0.2, 0.3, 0.1], [0, 0, 0, 1], 1, [2, 3]),
        ([0.1, 0.2, 0.3, 0.1], [0, 0, 0, 1], 2, [1, 2, 3]),
        ([0.5, 0.5, 0.5, 0.0], [0, 0, 0, 0], 2, [0, 1]),
        ([0, 0, 0, 0], [0, 0, 1, 1], 1, [0, 2]),
        ([0, 0.1, 0, 0.2], [0, 0, 1, 1], 9, [0, 1, 2, 3]),
        ([0.3], [0], 1, [0]),
    ],
    ids=["one", "two", "ties by place", "no response", "more than there are", "one phrase"],
)
def test_best_rows(responses: Sequence[float], classes: list[int], most: int, rows: list[int]) -> None:
    assert best_rows(np.array(responses, np.float32), np.array(classes, np.int64), most) == rows


@pytest.mark.parametrize("text", ["", "top", "top:", "top:0", "top:-1", "top:x", "top:1.5", "best:2", "2", "top:²"])
def test_selections_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError):
        best_phrases_from_text(text)


def test_a_selection_is_read() -> None:
    assert best_phrases_from_text("top:12") == BestPhrases(12)
    assert BestPhrases(12).name == "top:12"


@pytest.mark.parametrize(
    ("phrases", "groups"),
    [([], []), ([("a", "b"), ("c",), ("b", "a")], [[0, 2], [1]]), ([("a",)], [[0]])],
)
def test_grouping(phrases: list[tuple[str, ...]], groups: list[list[int]]) -> None:
    assert list(grouped(phrases).values()) == groups


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for place, path in enumerate(paths):
        Image.new("L", (30, 20), 255 - place).save(path)
    paths[2].write_bytes(b"torn")
    return paths


def test_a_run_by_map_serves_set_by_set_and_reports_in_order(detector: Detector, files: list[Path]) -> None:
    mapped = MappedPhrases(dict(zip(files, [("a0", "b0"), ("a2", "b1"), ("a0", "b0"), ("a0", "b0")], strict=True)))
    run = infer_images(detector, files, prompting=mapped)
    assert run.prompting == "map"
    assert [item.path for item in run.items] == files
    assert [item.status for item in run.items] == [
        "OK_WITH_WARNINGS",
        "OK_WITH_WARNINGS",
        "REJECTED",
        "OK_WITH_WARNINGS",
    ]
    assert [feeds["vectors"].shape[1] for feeds in fed(detector)] == [2, 2, 2]
    assert [feeds["image"].max() for feeds in fed(detector)] == [255, 252, 254]
    first, second = (subset_phrases(make_bank(), texts) for texts in (["a0", "b0"], ["a2", "b1"]))
    assert [item.prompt_set for item in run.items] == [
        PromptSubset(first.content_hash()[:16], ("a0", "b0")),
        PromptSubset(second.content_hash()[:16], ("a2", "b1")),
        None,
        PromptSubset(first.content_hash()[:16], ("a0", "b0")),
    ]
    assert run.bank_sha256 == make_bank().content_hash()
    assert run.labels == ("A", "B")
    items = run.as_json()["items"]
    assert items[1]["prompt_set"] == {"hash": second.content_hash()[:16], "phrases": ["a2", "b1"]}
    assert items[2]["prompt_set"] is None
    rows = coco_results(run)
    assert {row["prompt_set"] for row in rows if row["image_id"] == 2} == {second.content_hash()[:16]}
    assert {row["category_id"] for row in rows} == {1, 2}


@pytest.mark.parametrize(("select", "asked"), [(1, ("a0", "b0")), (3, None)])
def test_a_run_by_selection(detector: Detector, files: list[Path], select: int, asked: tuple[str, ...] | None) -> None:
    run = infer_images(detector, files[:1], prompting=BestPhrases(select))
    assert run.prompting == f"top:{select}"
    assert (run.items[0].prompt_set and run.items[0].prompt_set.phrases) == asked


def test_a_plain_run_says_nothing_of_sets(detector: Detector, files: list[Path]) -> None:
    run = infer_images(detector, files[:1])
    content = run.as_json()
    assert (content["prompting"], content["items"][0]["prompt_set"]) == ("bank", None)
    assert all("prompt_set" not in row for row in coco_results(run))
    assert content["items"][0]["detections"] == list(detector(white(20, 30)).rows())
