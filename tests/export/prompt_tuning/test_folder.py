"""A folder stays a folder, a Hub id is fetched without pickles, and a machine without a network is told what to do."""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from medprompt.cli import main
from medprompt.core.errors import CheckpointError
from medprompt.export.prompt_tuning.folder import model_folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What was asked of the Hub, which answers with a folder."""
    calls: list[dict[str, Any]] = []

    def fetch(name: str, **more: Any) -> str:
        calls.append({"name": name, **more})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return calls


def test_a_folder_is_taken_as_it_is(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert model_folder(tmp_path) == model_folder(str(tmp_path)) == tmp_path
    assert asked == []


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        ("owner/model-base_v1.0", "owner/model-base_v1.0", None),
        ("owner/name@0123abc", "owner/name", "0123abc"),
        ("owner/name@refs/pr/1", "owner/name", "refs/pr/1"),
    ],
)
def test_a_hub_id_is_fetched(
    asked: list[dict[str, Any]], tmp_path: Path, source: str, name: str, revision: str | None
) -> None:
    assert model_folder(source) == tmp_path
    (call,) = asked
    assert (call["name"], call["revision"]) == (name, revision)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("config.json", True),
        ("vocab.txt", True),
        ("spiece.model", True),
        ("chat_template.jinja", True),
        ("pytorch_model.bin", False),
        ("tf_model.h5", False),
        ("modeling_own.py", False),
        ("onnx/config.json", False),
    ],
)
def test_no_pickle_and_no_code_is_fetched(asked: list[dict[str, Any]], file: str, wanted: bool) -> None:
    model_folder("owner/name")
    (call,) = asked
    allowed = any(fnmatch.fnmatch(file, pattern) for pattern in call["allow_patterns"])
    assert (allowed and not any(fnmatch.fnmatch(file, p) for p in call["ignore_patterns"])) is wanted


@pytest.mark.parametrize("source", ["pubmedbert", "./models/bert", "/models/bert", "a/b/c", "../x", "", "owner/na me"])
def test_what_is_neither_is_refused(asked: list[dict[str, Any]], source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    with pytest.raises(CheckpointError, match="no such model folder") as caught:
        model_folder(source)
    assert caught.value.exit_code == 2
    assert asked == []


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``HF_HUB_OFFLINE=1``, through the command line."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text("classes: [{label: polyp}]")
    words = ["prompts", "generate", "p.yaml", "--method", "mlm", "--mlm", "owner/name", "--out", "q.yaml"]
    monkeypatch.setattr(sys, "argv", ["medprompt", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert "cannot be fetched" in err
    assert "hf download owner/name --local-dir FOLDER" in err
    assert not (tmp_path / "q.yaml").exists()


def test_a_fetched_model_generates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mlm_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(mlm_folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text("classes: [{label: Polyp, names: {mlm: polyp}}]")
    words = ["prompts", "generate", "p.yaml", "--method", "mlm", "--mlm", "owner/name", "--out", "q.yaml"]
    monkeypatch.setattr(sys, "argv", ["medprompt", *words, "--top-k", "1"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code, capsys.readouterr().err
    assert "pink" in (tmp_path / "q.yaml").read_text()
