"""Two requests of a thread in flight: one uploads while the other computes. The double is as late as CUDA allows."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from medprompt.core.errors import EngineError, OutOfMemoryError
from medprompt.runtime.engines.feeds import cannot_change, fixed
from tests.runtime.engines.cuda_double import cudaError_t
from tests.runtime.engines.rigs import Rig, feeds

LEVELS = [0, 51, 102, 255, 51, 255, 0, 102]


def best(level: int) -> Any:
    """The best score of three phrases in an image of one level."""
    return pytest.approx(level / 255 * 1.8, abs=1e-6)


def test_answers_come_in_order_and_are_each_requests_own(rig: Rig) -> None:
    engine = rig.engine
    assert engine.in_flight == 2
    pending = [engine.submit(feeds(level=LEVELS[0]))]
    for before, level in pairwise(LEVELS):
        pending.append(engine.submit(feeds(level=level)))
        assert engine.collect(pending.pop(0))["scores"][0, 2] == best(before)
    assert engine.collect(pending.pop())["scores"][0, 2] == best(LEVELS[-1])
    assert len(rig.cuda.streams) == 2
    engine.close()
    assert rig.cuda.nothing_left()


def test_feeds_may_change_as_soon_as_they_are_submitted(rig: Rig) -> None:
    fed = feeds(level=255)
    first = rig.engine.submit(fed)
    fed["image"][:] = 51
    second = rig.engine.submit(fed)
    fed["image"][:] = 0
    assert rig.engine.collect(first)["scores"][0, 2] == best(255)
    assert rig.engine.collect(second)["scores"][0, 2] == best(51)


def test_uploads_do_not_wait_for_what_computes(trt: Rig) -> None:
    """The second request's inputs can be on the device before the first one was computed."""
    trt.engine.run(feeds())
    executions = trt.library.contexts[0].executions
    first = trt.engine.submit(feeds(level=255))
    second = trt.engine.submit(feeds(level=51))
    uploads = max(trt.cuda.streams)
    trt.cuda.cudaStreamSynchronize(uploads)
    assert sum(context.executions for context in trt.library.contexts) == executions
    assert trt.cuda.copied["h2d"] == 3 * len(feeds())
    assert trt.engine.collect(first)["scores"][0, 2] == best(255)
    assert trt.engine.collect(second)["scores"][0, 2] == best(51)


@pytest.mark.parametrize("batches", [(1, 2, 4, 8, 16), (16, 1, 16, 1), (2, 2, 5, 1, 7)])
def test_memory_may_move_while_a_request_is_in_flight(rig: Rig, batches: tuple[int, ...]) -> None:
    pending: list[tuple[int, Any]] = []
    for turn, batch in enumerate(batches * 3):
        level = LEVELS[turn % len(LEVELS)]
        pending.append((level, rig.engine.submit(feeds(batch, level=level))))
        if len(pending) == 2:
            wanted, request = pending.pop(0)
            assert rig.engine.collect(request)["scores"][-1, 2] == best(wanted)
    rig.engine.collect(pending.pop()[1])
    rig.engine.close()
    assert rig.cuda.nothing_left()
    assert rig.library.faults == []


def test_each_slot_has_contexts_and_graphs_of_its_own(trt: Rig) -> None:
    for _ in range(6):
        pending = [trt.engine.submit(feeds(level=level)) for level in (51, 255)]
        assert [trt.engine.collect(one)["scores"][0, 2] for one in pending] == [best(51), best(255)]
    assert len(trt.library.contexts) == 2
    assert len(trt.cuda.execs) == 2


def test_a_run_between_does_not_count_among_them(rig: Rig) -> None:
    pending = [rig.engine.submit(feeds(level=level)) for level in (51, 255)]
    assert rig.engine.run(feeds(level=102))["scores"][0, 2] == best(102)
    assert [rig.engine.collect(one)["scores"][0, 2] for one in pending] == [best(51), best(255)]


def test_a_third_request_is_refused_and_the_others_stay(rig: Rig) -> None:
    pending = [rig.engine.submit(feeds(level=level)) for level in (51, 255)]
    with pytest.raises(EngineError, match="Too many requests") as caught:
        rig.engine.submit(feeds())
    assert caught.value.fix.startswith("collect one")
    assert [rig.engine.collect(one)["scores"][0, 2] for one in pending] == [best(51), best(255)]
    with pytest.raises(EngineError, match="collected already"):
        rig.engine.collect(pending[0])


def test_a_request_that_nobody_collects_gives_its_place_back(rig: Rig) -> None:
    for level in LEVELS:
        rig.engine.submit(feeds(level=0))
        kept = rig.engine.submit(feeds(level=level))
        gc.collect()
        assert rig.engine.collect(kept)["scores"][0, 2] == best(level)
    assert len(rig.cuda.streams) == 2


def test_a_failed_request_leaves_the_other_alone(rig: Rig) -> None:
    first = rig.engine.submit(feeds(level=51))
    with pytest.raises(EngineError, match="exceeds the sizes"):
        rig.engine.submit(feeds(17))
    rig.cuda.fail_next["cudaMemcpyAsync"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match="A CUDA call failed"):
        rig.engine.submit(feeds())
    assert rig.engine.collect(first)["scores"][0, 2] == best(51)
    assert rig.engine.run(feeds(level=255))["scores"][0, 2] == best(255)


def test_memory_that_is_out_for_the_second_leaves_the_first(rig: Rig) -> None:
    first = rig.engine.submit(feeds(level=51))
    rig.cuda.memory = 6000
    with pytest.raises(OutOfMemoryError):
        rig.engine.submit(feeds(16))
    assert rig.engine.collect(first)["scores"][0, 2] == best(51)
    assert rig.engine.run(feeds(level=255))["scores"][0, 2] == best(255)


def test_closing_with_requests_in_flight_frees_when_they_are_collected(rig: Rig) -> None:
    pending = [rig.engine.submit(feeds(level=level)) for level in (51, 255)]
    rig.engine.close()
    assert not rig.cuda.nothing_left()
    assert [rig.engine.collect(one)["scores"][0, 2] for one in pending] == [best(51), best(255)]
    assert rig.cuda.nothing_left()
    with pytest.raises(EngineError, match="closed"):
        rig.engine.submit(feeds())


def test_threads_have_their_own_requests_in_flight(rig: Rig) -> None:
    together = threading.Barrier(3, timeout=10)

    def work(level: int) -> list[float]:
        together.wait()
        pending = [rig.engine.submit(feeds(level=level)) for _ in range(2)]
        together.wait()
        return [float(rig.engine.collect(one)["scores"][0, 2]) for one in pending]

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(work, (51, 102, 255)))
    assert answers == [[best(level)] * 2 for level in (51, 102, 255)]
    assert len(rig.cuda.streams) == 6
    rig.engine.close()
    assert rig.cuda.nothing_left()


def test_what_cannot_change_is_sent_once_to_each_slot(rig: Rig) -> None:
    fed = feeds(level=51)
    constant = {name: fixed(array) for name, array in fed.items() if name != "image"}
    for level in LEVELS:
        fed["image"][:] = level
        before = rig.cuda.copied["h2d"]
        assert rig.engine.run({**constant, "image": fed["image"]})["scores"][0, 2] == best(level)
        sent = rig.cuda.copied["h2d"] - before
        assert sent == (len(fed) if level == LEVELS[0] and before == 0 else 1)


def test_what_might_change_is_sent_again(rig: Rig) -> None:
    fed = feeds(level=255)
    for factor in (1.0, 0.5):
        fed["vectors"][:] *= factor
        assert rig.engine.run(fed)["scores"][0, 2] == pytest.approx(1.8 * factor)
    frozen = fed["vectors"].copy()
    view = frozen[:]
    view.setflags(write=False)  # of an array that can be written
    for factor in (1.0, 0.5):
        frozen *= factor
        assert rig.engine.run({**fed, "vectors": view})["scores"][0, 2] == pytest.approx(0.9 * factor)


def test_what_was_sent_is_sent_again_after_its_memory_moved_or_a_request_failed(rig: Rig) -> None:
    constant = {name: fixed(array) for name, array in feeds().items()}
    more = {name: fixed(array) for name, array in feeds(1, 9).items()}
    for fed in (constant, more, constant):
        assert rig.engine.run(fed)["scores"].max() == pytest.approx(rig.engine.run(fed)["scores"].max())
    rig.cuda.fail_next["cudaEventSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError):
        rig.engine.run(constant)
    before = rig.cuda.copied["h2d"]
    assert rig.engine.run(constant)["scores"][0, 2] == best(255)
    assert rig.cuda.copied["h2d"] - before == len(constant)


@pytest.mark.parametrize(
    ("array", "fixed_for_good"),
    [
        (np.zeros(3), False),
        (fixed(np.zeros(3)), True),
        (fixed(np.zeros(3))[None], True),
        (np.frombuffer(b"1234", np.uint8), False),
        ([fixed(np.zeros(3))], False),
    ],
    ids=["own", "read-only", "a view of it", "another's buffer", "rows"],
)
def test_which_arrays_cannot_change(array: Any, fixed_for_good: bool) -> None:
    assert cannot_change(array) is fixed_for_good
