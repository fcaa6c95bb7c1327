"""Runs that draw no curve: it takes as long as their steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from medprompt.export.finetune import log


@pytest.fixture(scope="module", autouse=True)
def _no_curve(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] != "test_log":
            patch.setattr(log, "draw_curve", lambda *_: None)
        yield
