"""Servers that end at once: a test opens two."""

from __future__ import annotations

from socketserver import BaseServer

import pytest


@pytest.fixture(autouse=True)
def _end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (0.01,))
