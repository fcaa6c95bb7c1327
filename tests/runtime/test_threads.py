"""Threads around a detector: order, bounds, drops and errors."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from medprompt.runtime.threads import BackgroundWriter, Prefetcher


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_items_come_in_order(count: int) -> None:
    with Prefetcher(range(count), depth=2) as ahead:
        assert list(ahead) == list(range(count)) and ahead.dropped == 0


def test_the_maker_waits_for_its_reader() -> None:
    made: list[int] = []

    def make():
        for number in range(100):
            made.append(number)
            yield number

    with Prefetcher(make(), depth=3) as ahead:
        time.sleep(0.05)
        assert len(made) <= 4  # three wait, one is at the door
        assert list(ahead) == list(range(100))


def test_a_live_maker_loses_the_oldest() -> None:
    done = threading.Event()

    def make():
        yield from range(10)
        done.set()

    with Prefetcher(make(), depth=2, drop=True) as ahead:
        assert done.wait(5)
        assert list(ahead) == [8, 9] and ahead.dropped == 8


def test_an_endless_maker_ends_with_its_reader() -> None:
    with Prefetcher(itertools.count(), depth=2) as ahead:
        assert list(itertools.islice(ahead, 5)) == [0, 1, 2, 3, 4]
    assert not ahead._thread.is_alive()


def test_an_error_of_the_maker_comes_at_its_place() -> None:
    def make():
        yield 1
        raise OSError("gone")

    with Prefetcher(make()) as ahead:
        items = iter(ahead)
        assert next(items) == 1
        with pytest.raises(OSError, match="gone"):
            next(items)


def test_all_is_used_in_order_before_the_end() -> None:
    used: list[int] = []
    with BackgroundWriter(lambda item: (time.sleep(0.001), used.append(item))[0], depth=2) as behind:
        for number in range(20):
            behind.put(number)
    assert used == list(range(20))


def test_an_error_behind_is_raised_at_the_end() -> None:
    def use(item: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(use) as behind:
        behind.put(1)
