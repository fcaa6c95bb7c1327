"""Ctrl-C that is heard: once, in the main thread, where nobody else listens."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress

import pytest

from medprompt import cli
from medprompt.cli import AGAIN_S, Stopping
from medprompt.core.interrupt import HeardInterrupt


def test_the_first_is_heard_and_the_second_raised() -> None:
    told: list[str] = []
    with HeardInterrupt(lambda: told.append("end")) as heard:
        signal.raise_signal(signal.SIGINT)
        assert heard.came and told == ["end"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_listener_is_left_alone() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        with HeardInterrupt(lambda: None) as heard:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [signal.SIGINT] and not heard.came


def test_another_thread_listens_to_nothing() -> None:
    def enter() -> None:
        with HeardInterrupt(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.mark.parametrize("ignored", [False, True], ids=["a terminal's", "in the background of a script"])
def test_what_asks_the_process_to_end_is_heard_alike(ignored: bool) -> None:
    """A script's background jobs ignore Ctrl-C, and have to end on SIGTERM all the same."""
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeardInterrupt(lambda: None) as heard:
            stop = Stopping()
            try:
                if ignored:
                    with pytest.raises(KeyboardInterrupt):
                        signal.raise_signal(signal.SIGTERM)
                else:
                    signal.raise_signal(signal.SIGTERM)
            finally:
                stop.restore()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert heard.came is not ignored and stop.code == 128 + signal.SIGTERM


def test_a_request_that_a_library_swallowed_is_heard_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    stop = Stopping()
    try:
        with suppress(KeyboardInterrupt):  # as an import does that tries something else on any failure
            signal.raise_signal(signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)  # sent twice at once: once is enough
        now += AGAIN_S
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        stop.restore()
    assert stop.code == 128 + signal.SIGTERM
