"""Batches that do not fit into memory, and images that come one by one."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from medprompt.core.errors import InputError, OutOfMemoryError
from medprompt.runtime import Detector
from medprompt.runtime.engines.base import refused
from tests.runtime.bundles import make_folder, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("streamed") / "bundle", engines=(record("fake"),))


class TestMemory:
    def short(self, detector: Detector, most: int, error: Exception) -> list[int]:
        """An engine without memory for more than ``most`` images; the sizes that it was given."""
        sizes: list[int] = []
        run = detector.engine.run

        def run_or_fail(feeds):
            sizes.append(len(feeds["image"]))
            if sizes[-1] > most:
                raise error
            return run(feeds)

        detector.engine.run = run_or_fail  # type: ignore[method-assign]
        return sizes

    @pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA out of memory")])
    @pytest.mark.parametrize(("count", "most", "sizes"), [(5, 3, [5, 3, 2]), (2, 1, [2, 1, 1]), (3, 3, [3])])
    def test_a_batch_is_halved_once(
        self, folder: Path, error: Exception, count: int, most: int, sizes: list[int]
    ) -> None:
        images = [np.full((20, 30, 3), 40 * n, np.uint8) for n in range(count)]
        with Detector.load(folder) as detector:
            alone = [detector(image) for image in images]
            given = self.short(detector, most, error)
            found = detector.batch(images)
        assert given == sizes
        assert [one.scores.tolist() for one in found] == [one.scores.tolist() for one in alone]

    @pytest.mark.parametrize(("count", "most"), [(1, 0), (8, 3)])
    def test_then_it_is_an_error(self, folder: Path, count: int, most: int) -> None:
        with Detector.load(folder) as detector:
            self.short(detector, most, OutOfMemoryError("out of memory"))
            with pytest.raises(OutOfMemoryError):
                detector.batch([np.zeros((20, 30, 3), np.uint8)] * count)

    @pytest.mark.parametrize(
        ("text", "memory"),
        [
            ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
            ("std::bad_alloc", True),
            ("Failed to allocate memory for requested buffer of size 4294967296", True),
            ("Got invalid dimensions for input: image", False),
        ],
    )
    def test_libraries_say_it_in_their_own_words(self, text: str, memory: bool) -> None:
        assert isinstance(refused("ONNX Runtime", "m.onnx", RuntimeError(text)), OutOfMemoryError) == memory


class TestStream:
    def test_frames_come_back_in_order(self, folder: Path) -> None:
        images = [np.full((20, 30, 3), 20 * n, np.uint8) for n in range(10)]
        with Detector.load(folder) as detector:
            found = list(detector.stream(iter(images)))
            assert [one.scores.tolist() for one in found] == [detector(image).scores.tolist() for image in images]
            assert list(detector.stream(())) == []

    def test_an_error_of_the_source_is_raised_at_its_place(self, folder: Path) -> None:
        def frames():
            yield np.zeros((20, 30, 3), np.uint8)
            raise OSError("camera gone")

        with Detector.load(folder) as detector:
            stream = detector.stream(frames())
            next(stream)
            with pytest.raises(OSError, match="camera gone"):
                next(stream)

    def test_leaving_early_ends_an_endless_source(self, folder: Path) -> None:
        with Detector.load(folder) as detector:
            stream = detector.stream(itertools.repeat(np.zeros((20, 30, 3), np.uint8)))
            next(stream)
            stream.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "medprompt-ahead"]


@pytest.mark.parametrize("ahead", [0, -1])
def test_images_that_may_wait_are_at_least_one(ahead: int, folder: Path) -> None:
    with Detector.load(folder) as detector, pytest.raises(InputError, match="ahead"):
        next(detector.stream([np.zeros((4, 4, 3), np.uint8)], ahead=ahead))
