"""Fixtures that every room's tests share."""

from __future__ import annotations

import functools
import gc
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and numpy are imported: a process a core, a thread each

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer.main

from medprompt.cli import main
from medprompt.export import bundle as bundle_module
from tests.export.traces import Export, keeping_traces
from tests.shared import Cli, made_once
from tests.tiny import TINY


def pytest_itemcollected(item: pytest.Item) -> None:
    """Full-size models take as long as they take."""
    if item.get_closest_marker("slow"):
        item.add_marker(pytest.mark.timeout(0))


def pytest_collection_finish() -> None:
    """Set what the imports made aside: a million objects that each collection of garbage would look through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def kept_export(run_folder: Path) -> Export:
    """``onnx_from_graph``; an equal graph is traced once a run. See ``tests/export/traces.py``."""
    return keeping_traces(run_folder / "traces")


@pytest.fixture(scope="session", autouse=True)
def _bundles_keep_traces(kept_export: Export) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "onnx_from_graph", kept_export)
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """A process builds its 50 commands of their signatures at each call: a fifth of a second. Here it keeps them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(run_folder: Path) -> Callable[[str], Path]:
    """``tiny_checkpoint(model_type)``: a tiny checkpoint, made once a run; do not write into it."""
    return lambda model_type: made_once(run_folder / "tiny" / model_type, TINY[model_type])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("infer", …) -> (exit code, stdout, stderr)``: a command, run in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medprompt", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call
