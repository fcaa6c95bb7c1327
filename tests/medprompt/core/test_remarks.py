"""Warnings are those of the thread that caused them."""

from __future__ import annotations

import threading
import warnings

import pytest

from medprompt.core.remarks import recorded_warnings


def test_they_are_collected_and_nothing_stays() -> None:
    with recorded_warnings() as remarks:
        warnings.warn("one", stacklevel=1)
        warnings.warn("one", stacklevel=1)
        with recorded_warnings() as inner:
            warnings.warn("two", stacklevel=1)
    assert [str(one.message) for one in (*remarks, *inner)] == ["one", "one", "two"]
    with pytest.warns(UserWarning, match="three"):
        warnings.warn("three", stacklevel=1)


def test_another_thread_has_its_own() -> None:
    found: dict[str, list[str]] = {}
    inside, go_on = threading.Event(), threading.Event()

    def record(name: str) -> None:
        with recorded_warnings() as remarks:
            inside.set()
            go_on.wait(0.2)  # as long as a decoder may take: the other thread is at the same place by then
            warnings.warn(name, stacklevel=1)
        found[name] = [str(one.message) for one in remarks]

    threads = [threading.Thread(target=record, args=(name,)) for name in ("damaged", "sound")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"damaged": ["damaged"], "sound": ["sound"]}


def test_what_others_warn_of_meanwhile_is_not_lost() -> None:
    inside, warned = threading.Event(), threading.Event()
    found: list[str] = []

    def record() -> None:
        with recorded_warnings() as remarks:
            inside.set()
            warned.wait(5)
        found.extend(str(one.message) for one in remarks)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        thread = threading.Thread(target=record)
        thread.start()
        inside.wait(5)
        warnings.warn("of the main thread", stacklevel=1)
        warned.set()
        thread.join()
    assert found == [] and [str(one.message) for one in shown] == ["of the main thread"]
