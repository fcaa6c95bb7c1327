"""No network at run time: a process that may open no socket verifies and infers all the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.bundles import make_folder, record

BLOCKED = """
import sys

def refuse(event, details):
    if event.startswith("socket."):
        print("a socket was asked for:", event, details, file=sys.stderr, flush=True)
        raise RuntimeError(event)

sys.addaudithook(refuse)
sys.argv = ["medprompt", *sys.argv[1:]]
from medprompt.cli import main
main()
"""
"""Python tells its audit hooks of every socket, whoever opens it; libraries in C are not heard."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engines = tuple(record(device) for device in ("fake", "ort-cpu", "openvino"))
    return make_folder(tmp_path_factory.mktemp("offline") / "bundle", engines=engines)


def blocked(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_block_blocks() -> None:
    code = BLOCKED.partition("sys.argv =")[0] + "import socket; socket.create_connection(('localhost', 9))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and "a socket was asked for" in ended.stderr


@pytest.mark.parametrize("device", ["fake", "ort-cpu", "openvino"])
def test_infer_opens_no_socket(folder: Path, tmp_path: Path, device: str) -> None:
    Image.new("RGB", (30, 20), "white").save(tmp_path / "x.png")
    out = tmp_path / "results.json"
    ended = blocked("infer", folder, tmp_path / "x.png", "--device", device, "--out", out, "--csv", tmp_path / "r.csv")
    assert ended.returncode == 0, ended.stderr
    assert "socket" not in ended.stderr
    assert json.loads(out.read_text())["items"][0]["status"] == "OK_WITH_WARNINGS"


@pytest.mark.parametrize("command", ["inspect", "doctor"])
def test_so_do_the_commands_around_it(folder: Path, command: str) -> None:
    ended = blocked(command, folder)
    assert ended.returncode == 0, ended.stderr
    assert "socket" not in ended.stderr


REAL = Path(__file__).parents[1] / "compatible" / "v0.1"

COMMANDS = {
    "infer": ("infer", "{bundle}", "{image}", "--device", "ort-cpu", "--json"),
    "verify": ("verify", "{bundle}", "--device", "ort-cpu"),
    "doctor": ("doctor", "{bundle}"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_home_folder_stays_empty(tmp_path: Path, command: str) -> None:
    """ONNX Runtime's telemetry writes an id and a database there, from C++: Python's audit hooks do not see it."""
    home = tmp_path / "home"
    home.mkdir()
    words = [word.format(bundle=REAL / "bundle", image=REAL / "images" / "0.png") for word in COMMANDS[command]]
    here = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    traced: list[str] = []
    if shutil.which("strace"):  # system calls: what a library in C opens is seen as well
        traced = ["strace", "-f", "-qq", "-e", "trace=socket", "-o", str(tmp_path / "calls")]
    ended = subprocess.run(
        [*traced, sys.executable, "-m", "medprompt", *words],
        env={**here, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(home.rglob("*"))
    if traced:
        assert "AF_INET" not in (tmp_path / "calls").read_text()
