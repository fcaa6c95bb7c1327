"""Engines on doubles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.engines.rigs import DEVICES, Rig, made


@pytest.fixture(params=DEVICES)
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rig:
    return made(request.param, monkeypatch, tmp_path)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rig:
    return made("trt", monkeypatch, tmp_path)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rig:
    return made("trt-rtx", monkeypatch, tmp_path)
