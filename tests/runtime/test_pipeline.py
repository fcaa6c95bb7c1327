"""Requests in flight: how many, in which order, what becomes of errors, and that answers are those of one at a time."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, ImageError, OutOfMemoryError
from medprompt.core.tiling import Tiling
from medprompt.results.resume import previous_from_file
from medprompt.results.run import write_results
from medprompt.runtime import batch as module
from medprompt.runtime.batch import infer_images
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.infer_work import InferOptions, requests_at_once, work_of
from medprompt.runtime.pipeline import Steps, finished, in_flight
from medprompt.runtime.strategies import BestPhrases, Prompting, Tiled
from tests.runtime.scripted import detector, image, script
from tests.runtime.test_detector import GRAPH


class Queued(Fake):
    """Computes at ``collect``, of what it was fed at ``submit``; sees requests too many, out of turn or left behind."""

    def __init__(self, in_flight: int = 2, on_gpu: bool = False, fails: Callable[[NDArray[Any]], bool] | None = None):
        super().__init__()
        self.in_flight = in_flight
        self.on_gpu = on_gpu  # type: ignore[misc]
        self.fails = fails or (lambda image: False)
        self.flying: list[dict[str, NDArray[Any]]] = []
        self.told: list[str] = []
        self.sizes: list[int] = []

    def submit(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        assert len(self.flying) < self.in_flight, "more requests in flight than the engine takes"
        self.flying.append({name: array.copy() for name, array in feeds.items()})
        self.told.append("submit")
        self.sizes.append(len(feeds["image"]))
        return self.flying[-1]

    def collect(self, pending: Any) -> dict[str, NDArray[Any]]:
        assert pending is self.flying.pop(0), "collected out of turn"
        self.told.append("collect")
        if self.fails(pending["image"]):
            raise OutOfMemoryError("CUDA out of memory")
        return self.run(pending)


def shades(count: int, **size: int) -> list[NDArray[np.uint8]]:
    return [image(level=20 * n, **size) for n in range(count)]


def asked(engine: Queued, images: list[NDArray[np.uint8]], **options: Any) -> list[Detections]:
    detect = detector(engine, 0.0)
    return list(in_flight(detect, (detect.steps(one) for one in images), **options))


def alone(images: list[NDArray[np.uint8]]) -> list[Detections]:
    return [detector(Fake(), 0.0)(one) for one in images]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_as_many_are_in_flight_as_the_engine_takes(most: int, count: int) -> None:
    engine = Queued(most)
    assert asked(engine, shades(count)) == alone(shades(count))
    full = min(most, count)
    assert engine.told[:full] == ["submit"] * full and not engine.flying
    # One lands, and the next, prepared already, is sent before anything else is done.
    assert engine.told[full:] == ["collect", "submit"] * (count - full) + ["collect"] * full


def test_nothing_waits_for_the_image_after_it() -> None:
    engine = Queued(3)
    assert asked(engine, shades(3), ready=lambda: False) == alone(shades(3))
    assert engine.told == ["submit", "collect"] * 3


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (3, [3, 1, 3]), (8, [4, 3])])
def test_alike_neighbours_are_one_request(batch: int, sizes: list[int]) -> None:
    images = [*shades(4), *shades(3, height=24)]
    engine, manifest = Queued(), {"preprocess": GRAPH}
    detect = detector(engine, 0.0, **manifest)
    found = list(in_flight(detect, (detect.steps(one) for one in images), batch=batch))
    assert engine.sizes == sizes
    assert found == [detector(Fake(), 0.0, **manifest)(one) for one in images]


def test_a_batch_that_fails_is_asked_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    engine = Queued(fails=lambda image: len(image) > 1)
    assert asked(engine, shades(7), batch=3) == alone(shades(7))
    assert Counter(engine.sizes) == {3: 2, 1: 7}
    assert "did not fit" in caplog.text


@pytest.mark.parametrize("batch", [1, 4])
def test_an_error_is_that_of_its_image(batch: int) -> None:
    engine = Queued(fails=lambda image: bool((image == 40).any()))
    detect = detector(engine, 0.0)

    def told(one: NDArray[np.uint8]) -> Steps[Detections | str]:
        try:
            return (yield from detect.steps(one))
        except EngineError as error:
            return error.problem

    found = list(in_flight(detect, map(told, shades(5)), batch=batch))
    assert found == [*alone(shades(2)), "CUDA out of memory", *alone(shades(5)[3:])]


@pytest.mark.parametrize("batch", [1, 2])
def test_an_answer_that_says_nothing_is_that_of_its_image(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fake.run

    def run(self: Fake, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = whole(self, feeds)
        outputs["scores"][feeds["image"].max(axis=(1, 2, 3)) == 20] = np.nan
        return outputs

    monkeypatch.setattr(Fake, "run", run)
    detect = detector(Queued(), 0.0)
    found = in_flight(detect, (detect.steps(one) for one in shades(4)), batch=batch)
    assert next(found).scores.max() == 0
    with pytest.raises(EngineError, match="NaN"):
        next(found)


def test_an_error_of_the_source_comes_at_its_turn() -> None:
    detect = detector(Queued(3), 0.0)

    def works() -> Iterator[Steps[Detections]]:
        yield detect.steps(image(level=20))
        yield detect.steps(image(level=40))
        raise OSError("camera gone")

    found = in_flight(detect, works())
    assert [next(found), next(found)] == alone(shades(3)[1:])
    with pytest.raises(OSError, match="camera gone"):
        next(found)


def test_what_is_no_image_is_refused_at_its_turn() -> None:
    engine = Queued(3)
    found = detector(engine, 0.0).stream([image(level=20), np.zeros((2, 2), np.uint8), image()])  # type: ignore[list-item]
    assert next(found) == alone(shades(2))[1]
    with pytest.raises(ImageError, match="not an RGB image"):
        next(found)
    assert not engine.flying


def test_leaving_early_leaves_nothing_in_flight() -> None:
    engine = Queued(3)
    detect = detector(engine, 0.0)
    found = in_flight(detect, (detect.steps(one) for one in shades(9)))
    next(found)
    assert engine.flying
    found.close()
    assert not engine.flying


@pytest.mark.parametrize("prompting", [BestPhrases(1), Tiled(Prompting(), Tiling(20))])
def test_images_of_several_requests(prompting: Prompting) -> None:
    engine = Queued(2)
    detect, path = detector(engine, 0.0), Path("x")
    found = list(in_flight(detect, (prompting.steps(detect, path, one) for one in shades(3))))
    single = detector(Fake(), 0.0)
    assert found == [prompting.detect(single, path, one) for one in shades(3)]
    assert engine.told.count("submit") > 3 and not engine.flying


def test_images_of_very_many_requests() -> None:
    """Tiles of two images in turn, and no deeper into the stack for each."""
    engine = Queued(2)
    detect = detector(engine, 0.0)

    def tiles(count: int) -> Steps[int]:
        for _ in range(count):
            yield from detect.steps(image(8, 12))
        return count

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert list(in_flight(detect, [tiles(90), tiles(80), tiles(3)])) == [90, 80, 3]
    finally:
        sys.setrecursionlimit(limit)


def test_one_at_a_time_is_the_same() -> None:
    detect = detector(Fake(), 0.0)
    assert finished(detect, detect.steps(image(level=20))) == alone(shades(2))[1]


def test_what_the_engine_resizes_is_handed_over_as_it_is() -> None:
    engine = script([(0.9, 0, 0)])
    engine.resizes = True
    frames = [image(8, 12), image(30, 50)]
    detect = detector(engine)
    assert [one.size_hw for one in detect.batch([*frames, frames[0]])] == [(8, 12), (30, 50), (8, 12)]
    assert [fed["image"].shape for fed in engine.fed] == [(2, 8, 12, 3), (1, 30, 50, 3)]
    assert np.shares_memory(engine.fed[1]["image"], frames[1]) and "resize_rows" not in engine.fed[1]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for n, path in enumerate(paths):
        Image.new("RGB", (30, 20), (40 * n, 0, 0)).save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:40])
    return paths


@pytest.mark.parametrize("at_most", [1, 1 << 28], ids=["one in memory", "many"])
@pytest.mark.parametrize(("in_flight", "on_gpu"), [(1, False), (3, False), (2, True)])
def test_a_folder_is_answered_as_one_by_one(
    files: list[Path], in_flight: int, on_gpu: bool, at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = infer_images(detector(Fake(), 0.0), files)
    monkeypatch.setattr(module, "AHEAD_BYTES", at_most)
    engine = Queued(in_flight, on_gpu)
    run = infer_images(detector(engine, 0.0), files)
    assert run.as_json() == single.as_json()
    assert [item.status for item in run.items][1:4] == ["OK", "REJECTED", "OK"]
    assert not engine.flying
    # What is alike is one request, as far as the memory that may be taken reaches.
    assert engine.sizes == ([5] if on_gpu and at_most > 1 else [1] * 5)


def test_large_images_are_in_memory_one_at_a_time(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD_BYTES", 1)
    begun: list[str] = []
    engine = Queued(3)
    engine.run = lambda feeds: (begun.append("answered"), Fake.run(engine, feeds))[1]  # type: ignore[method-assign]
    infer_images(detector(engine, 0.0), files, on_file=lambda file: begun.append("read"))
    assert begun == ["read", "answered", "read", "answered", "read", "read", "answered"] + ["read", "answered"] * 2


def test_a_fault_of_the_reading_thread_is_its_items(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: Any, frame: int = 1) -> Any:
        raise MemoryError if file.path == files[0] else RuntimeError("patient Zzyzx")

    monkeypatch.setattr("medprompt.images.file.ImageFile.picture", broken)
    run = infer_images(detector(Queued(), 0.0), files[:2])
    assert [item.status for item in run.items] == ["ERROR", "ERROR"]
    assert "memory" in run.items[0].error and "Zzyzx" not in run.items[1].error
    assert all(len(item.sha256) == 64 for item in run.items)


def test_an_interrupt_keeps_what_was_answered(files: list[Path]) -> None:
    engine, saved = Queued(2), []

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if (feeds["image"] == 120).any():
            raise KeyboardInterrupt
        return Fake.run(engine, feeds)

    engine.run = run  # type: ignore[method-assign]
    saving = module.Saving(saved.append, every_s=1e9)
    with pytest.raises(KeyboardInterrupt):
        infer_images(detector(engine, 0.0), files, saving=saving)
    assert [item.path for item in saved[0].items] == files[:3] and not saved[0].complete


def in_own_process(work: Callable[..., None], *values: object) -> None:
    """Call a function of this module in a process that hears Ctrl-C as a terminal's does.

    In this one, a signal that comes a moment too late would end the test run.
    """
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.runtime import test_pipeline
test_pipeline.{work.__name__}(*{values!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, f"{ended.returncode}: {ended.stderr}"


@pytest.mark.parametrize(("most", "on_gpu"), [(1, False), (3, False), (2, True)])
def test_ctrl_c_waits_for_what_is_in_flight_and_the_rest_is_resumed(tmp_path: Path, most: int, on_gpu: bool) -> None:
    in_own_process(interrupted_and_resumed, str(tmp_path), most, on_gpu)


def interrupted_and_resumed(folder: str, most: int, on_gpu: bool) -> None:
    files, out = [Path(folder) / f"{n:02d}.png" for n in range(60)], Path(folder) / "r.json"
    for n, path in enumerate(files):
        Image.new("RGB", (8, 8), (4 * n, 0, 0)).save(path)
    engine, asked, signals = Queued(most, on_gpu), Counter[int](), iter([signal.SIGINT])

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        asked.update(int(one.max()) for one in feeds["image"])
        for number in signals if len(asked) > 2 else ():
            signal.raise_signal(number)
        return Fake.run(engine, feeds)

    engine.run = run  # type: ignore[method-assign]
    saving = module.Saving(partial(write_results, path=out), every_s=1e9)
    with pytest.raises(KeyboardInterrupt):
        infer_images(detector(engine, 0.0), files, saving=saving)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    kept = json.loads(out.read_text())
    assert len(kept["items"]) == sum(engine.sizes) == sum(asked.values()) < len(files) and not kept["complete"]
    whole = infer_images(detector(engine, 0.0), files, previous=previous_from_file(out))
    assert asked == Counter(4 * n for n in range(60)), "each image once"
    assert [item.path for item in whole.items] == files
    assert all(item.detections is not None for item in whole.items)


def test_a_second_ctrl_c_waits_for_nothing(files: list[Path]) -> None:
    in_own_process(interrupted_twice, str(files[0].parent))


def interrupted_twice(folder: str) -> None:
    files = sorted(Path(folder).glob("*.png"))
    engine, saved = Queued(2), []

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if (feeds["image"] == 120).any():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return Fake.run(engine, feeds)

    engine.run = run  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        infer_images(detector(engine, 0.0), files, saving=module.Saving(saved.append, every_s=1e9))
    assert [item.path for item in saved[0].items] == files[:3]


@pytest.mark.parametrize(("count", "at_once"), [(7, 1), (8, 2)])
def test_many_images_are_computed_two_at_once(count: int, at_once: int, tmp_path: Path) -> None:
    for n in range(count):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    assert requests_at_once(work_of(tmp_path, InferOptions())) == at_once


def test_a_live_source_is_looked_at_frame_by_frame(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    sources = (str(tmp_path / "a.mp4"), "rtsp://tower/1")
    assert [requests_at_once(work_of(one, InferOptions())) for one in sources] == [2, 1]


class TestShare:
    def test_closing_one_leaves_the_others(self) -> None:
        engine = Fake()
        first = detector(engine, 0.3)
        second = first.share(labels=["WBC"])
        third = second.share(threshold=0.5)
        assert first.engine is second.engine and (first.bank.labels, third.bank.labels) == (("RBC", "WBC"), ("WBC",))
        assert (second.thresholds, third.thresholds) == (pytest.approx((0.3,)), pytest.approx((0.5,)))
        first.close()
        first.close()
        assert len(second(image()))
        for use in (lambda: first(image()), first.share):
            with pytest.raises(EngineError, match="closed"):
                use()
        second.close()
        assert engine._open
        third.close()
        assert not engine._open

    def test_what_cannot_be_served_holds_nothing(self) -> None:
        engine = Fake()
        first: Detector = detector(engine)
        with pytest.raises(Exception, match="out of range"):
            first.share(threshold=2.0)
        first.close()
        assert not engine._open
