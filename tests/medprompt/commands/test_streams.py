"""Standard streams that are closed, full or left by their reader: an exit code of ours, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"'{sys.executable}' -m medprompt"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is full")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"{COMMAND} --version >&-", 0, ""),
        (f"{COMMAND} --version 2>&- <&-", 0, ""),
        (f"{COMMAND} --version >&- 2>&- <&-", 0, ""),
        (f"{COMMAND} inspect nowhere 2>&-", 2, ""),
        (f"{COMMAND} docs prompts | head -c 1", 0, ""),
        pytest.param(f"{COMMAND} --version >/dev/full", 2, "error: What the command prints", marks=needs_full),
        pytest.param(f"{COMMAND} inspect nowhere 2>/dev/full", 2, "", marks=needs_full),
    ],
)
def test_streams_that_cannot_be_written(line: str, code: int, said: str) -> None:
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr
    assert said or not done.stderr


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What is printed would land in it."""
    code = (
        "import sys; from medprompt.cli import open_missing_streams; open_missing_streams();"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); print('printed', flush=True); assert file.fileno() > 2"
    )
    subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$0" >&- 2>&- <&-', code], check=True, timeout=60)
    assert not (tmp_path / "file").read_text()
