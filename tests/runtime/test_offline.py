"""No network at run time: a process that may open no socket verifies and infers all the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.medprompt.dicom.made import write_dicom
from tests.medprompt.video.videos import make_video
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
    "infer": "infer {bundle} {image} --device ort-cpu --out {out}/r.json --csv {out}/r.csv --overlays {out}/drawn",
    "infer_openvino": "infer {bundle} {image} --device openvino --json",
    "infer_dicom": "infer {bundle} {dicom} --device ort-cpu --json",
    "infer_video": "infer {bundle} {video} --device ort-cpu --out {out}/r.json --annotated {out}/drawn.mp4",
    "verify": "verify {bundle}",
    "doctor": "doctor {bundle}",
    "latency": "bench latency {bundle} --images {image} --rounds 1 --batches none --workers none --json",
}

CALLS = "socket,connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,link"

WRITES = re.compile(r"O_CREAT|O_WRONLY|O_RDWR|creat\(|mkdir|rename|symlink\(|link\(")
"""In a line of strace: something is made, or opened to be written."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    write_dicom(folder / "x.dcm", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    make_video(folder / "x.mp4")
    image = REAL / "images" / "0.png"
    return {"bundle": REAL / "bundle", "image": image, "dicom": folder / "x.dcm", "video": folder / "x.mp4"}


def run_in_an_empty_home(
    words: list[str], folder: Path, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    for name in ("home", "out", "tmp"):
        (folder / name).mkdir()
    here = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*before, sys.executable, *words]
    return subprocess.run(command, env=here | places, capture_output=True, text=True, cwd=folder)


def strangers(calls: str, folder: Path) -> list[str]:
    """The system calls that reach beyond this machine, or write elsewhere than below the folder."""
    lines = [line for line in calls.splitlines() if " = -1 " not in line]
    network = [line for line in lines if re.search(r"AF_(?!UNIX)", line)]
    written = [
        line
        for line in lines
        if WRITES.search(line)
        and (paths := re.findall(r'"(.*?)"', line))
        and not all((folder / path).is_relative_to(folder) or path.startswith("/dev/") for path in paths)
    ]
    return network + written


@pytest.mark.parametrize("command", COMMANDS)
def test_no_network_and_no_file_elsewhere(tmp_path: Path, inputs: dict[str, Path], command: str) -> None:
    """System calls and the home folder: what a library in C does, Python's audit hooks do not see."""
    words = [word.format(**inputs, out=tmp_path / "out") for word in COMMANDS[command].split()]
    calls = tmp_path / "calls"
    traced = ["strace", "-f", "-qq", "-e", f"trace={CALLS}", "-o", str(calls)] if shutil.which("strace") else []
    ended = run_in_an_empty_home(["-m", "medprompt", *words], tmp_path, traced)
    assert ended.returncode == 0, ended.stderr
    assert not list((tmp_path / "home").rglob("*"))
    assert not list((tmp_path / "tmp").rglob("*"))
    if traced:
        assert strangers(calls.read_text(), tmp_path) == []


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket().close()",
        "import socket; socket.socket(socket.AF_INET6).close()",
        "open('/var/tmp/medprompt-test', 'w').close()",
    ],
)
def test_the_look_at_system_calls_sees(tmp_path: Path, code: str) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    calls = tmp_path / "calls"
    traced = ["strace", "-f", "-qq", "-e", f"trace={CALLS}", "-o", str(calls)]
    run_in_an_empty_home(["-c", code], tmp_path, traced)
    Path("/var/tmp/medprompt-test").unlink(missing_ok=True)
    assert len(strangers(calls.read_text(), tmp_path)) == 1
