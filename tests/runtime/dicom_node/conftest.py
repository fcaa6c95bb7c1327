"""Servers that end at once: a test opens two."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from socketserver import BaseServer

import pytest


@pytest.fixture(autouse=True)
def _end_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (0.01,))
    yield
    gc.collect()  # sockets of refused associations, which pynetdicom does not close: here, and not in another's test
