"""A bundle on the fake engine, and the command that runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage

from medprompt.cli import main
from tests.medprompt.dicom.made import write_dicom
from tests.medprompt.reports.reported import BRIGHT, WHOLE
from tests.runtime.bundles import make_folder, record


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("fake") / "bundle", engines=(record("fake"),))


Infer = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def infer(
    fake_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Infer:
    """``infer(path, …, "--option") -> (exit code, results, stdout and stderr)``."""

    def call(*words: object) -> tuple[int, dict[str, Any], str]:
        out = tmp_path / "results.json"
        if "--resume" not in words:
            out.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["medprompt", "infer", str(fake_bundle), *map(str, words), "--out", str(out)])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        results = json.loads(out.read_text()) if out.exists() else {}
        return int(caught.value.code or 0), results, said.out + said.err

    return call


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dicom(tmp_path_factory.mktemp("image") / "ct.dcm", BRIGHT, SOPClassUID=CTImageStorage, **WHOLE)
