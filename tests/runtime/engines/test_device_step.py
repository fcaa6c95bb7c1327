"""A step on the device that makes an input of the engine: here a resize by the nearest pixel, on the double."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.device_step import StepAddresses, StepPlan
from medprompt.runtime.engines.tensorrt_worker import Workers
from tests.runtime.bundles import SIZE_HW
from tests.runtime.engines.cuda_double import CudaDouble, cudaError_t
from tests.runtime.engines.rigs import Rig, feeds

HEIGHT, WIDTH = SIZE_HW


@dataclass
class NearestResize:
    """uint8 ``[B, H, W, 3]`` of any size to the engine's ``image``: rows first, through scratch, then columns."""

    cuda: CudaDouble
    planned: list[Any] = field(default_factory=list)
    launches: int = 0
    fed = {"image": np.dtype(np.uint8)}  # noqa: RUF012  # read only
    makes = frozenset({"image"})

    def plan(self, shapes: Any) -> StepPlan:
        batch, height, width, _ = shapes["image"]
        if height > 1000:
            raise EngineError("The image is too large.")
        self.planned.append((height, width))
        rows, columns = (np.arange(to) * of // to for to, of in ((HEIGHT, height), (WIDTH, width)))
        between = (batch, HEIGHT, width, 3)

        def launch(at: StepAddresses, stream: int) -> None:
            self.launches += 1
            self._kernel(stream, at.fed["image"], shapes["image"], at.tables["rows"], len(rows), at.scratch, between, 1)
            made = (batch, HEIGHT, WIDTH, 3)
            self._kernel(stream, at.scratch, between, at.tables["columns"], len(columns), at.made["image"], made, 2)

        return StepPlan(
            {"image": (batch, HEIGHT, WIDTH, 3)}, launch, {"rows": rows, "columns": columns}, int(np.prod(between))
        )

    def _kernel(
        self, stream: int, source: int, shape: Any, table: int, count: int, target: int, made: Any, axis: int
    ) -> None:
        def compute() -> bool:
            places = [(source, int(np.prod(shape))), (table, count * 8), (target, int(np.prod(made)))]
            if not all(self.cuda.has("device", *place) for place in places):
                return False
            index = np.frombuffer((ctypes.c_uint8 * (count * 8)).from_address(table), np.int64)
            self._array(target, made)[:] = np.take(self._array(source, shape), index, axis=axis)
            return True

        self.cuda.enqueue(stream, compute)

    @staticmethod
    def _array(address: int, shape: Any) -> Any:
        return np.frombuffer((ctypes.c_uint8 * int(np.prod(shape))).from_address(address), np.uint8).reshape(shape)


@dataclass
class Stepped:
    rig: Rig
    step: NearestResize
    workers: Workers

    def score(self, image: np.ndarray) -> float:
        """The best score, which is 1.8 times the mean brightness."""
        return float(self.workers.run(self.fed(image))["scores"][-1, 2])

    @staticmethod
    def fed(image: np.ndarray) -> dict[str, Any]:
        return {**feeds(), "image": image}


@pytest.fixture
def stepped(rig: Rig) -> Stepped:
    step = NearestResize(rig.cuda)
    assert rig.engine._loaded is not None
    return Stepped(rig, step, Workers(replace(rig.engine._loaded, step=step)))


def picture(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def expected(image: np.ndarray) -> Any:
    height, width = image.shape[1:3]
    resized = image[:, np.arange(HEIGHT) * height // HEIGHT][:, :, np.arange(WIDTH) * width // WIDTH]
    return pytest.approx(1.8 * resized[-1].mean() / 255, rel=1e-5)


SIZES = [(30, 40), (480, 64), (HEIGHT, WIDTH), (1, 1), (31, 41), (30, 40), (200, 300), (30, 40)]


def test_sources_of_every_size_are_served_by_one_context(stepped: Stepped) -> None:
    for size in SIZES * 2:
        for _ in range(3):
            image = picture(*size)
            assert stepped.score(image) == expected(image)
    assert len(stepped.rig.library.contexts) == 1
    assert stepped.step.planned == list(dict.fromkeys(SIZES))
    stepped.workers.close()


def test_a_step_becomes_part_of_the_graph(stepped: Stepped) -> None:
    captures = stepped.rig.engine.captures
    for _ in range(6):
        stepped.score(picture(30, 40))
    assert stepped.step.launches == (2 if captures else 6)
    assert stepped.rig.cuda.calls["cudaGraphLaunch"] == (5 if captures else 0)


def test_tables_are_sent_once_for_a_size(stepped: Stepped) -> None:
    stepped.score(picture(30, 40))
    before = stepped.rig.cuda.copied["h2d"]
    for _ in range(4):
        stepped.score(picture(30, 40))
    assert stepped.rig.cuda.copied["h2d"] - before == 4 * len(feeds())


def test_two_requests_in_flight_share_scratch_in_turn(stepped: Stepped) -> None:
    images = [picture(*size) for size in SIZES]
    pending: list[Any] = []
    for image in images:
        pending.append((image, stepped.workers.submit(stepped.fed(image))))
        if len(pending) == 2:
            shown, request = pending.pop(0)
            assert request.collect()["scores"][-1, 2] == expected(shown)
    shown, request = pending.pop()
    assert request.collect()["scores"][-1, 2] == expected(shown)
    stepped.workers.close()
    stepped.rig.engine.close()
    assert stepped.rig.cuda.nothing_left()


def test_batches_and_frames_as_rows(stepped: Stepped) -> None:
    images = picture(30, 40, batch=3)
    assert stepped.score(images) == expected(images)
    assert float(stepped.workers.run(stepped.fed(list(images)))["scores"][-1, 2]) == expected(images)  # type: ignore[arg-type]


def test_a_step_that_refuses_leaves_a_working_engine(stepped: Stepped) -> None:
    with pytest.raises(EngineError, match="too large"):
        stepped.score(picture(1001, 4))
    assert stepped.score(picture(30, 40)) == expected(picture(30, 40))


def test_memory_for_a_step_may_be_out(stepped: Stepped) -> None:
    stepped.score(picture(30, 40))
    stepped.rig.cuda.fail_next["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match="A CUDA call failed"):
        stepped.score(picture(300, 400))
    for size in SIZES:
        assert stepped.score(picture(*size)) == expected(picture(*size))


def test_the_parts_of_a_run_count_the_step_as_computing(stepped: Stepped) -> None:
    image = picture(30, 40)
    parts = stepped.workers.stages_ms(stepped.fed(image))
    assert parts == {"host to device": len(feeds()) + 2, "compute": 3, "device to host": 4}
    assert stepped.score(image) == expected(image)
