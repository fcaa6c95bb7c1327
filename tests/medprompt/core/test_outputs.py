"""What a killed process leaves, ends by signals, and lines off a terminal."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from medprompt.core import terminal
from medprompt.core.errors import InputError, MedpromptError, in_one_line
from medprompt.core.output_kinds import file_kind, folder_kind
from medprompt.core.outputs import Output, replaced_whole, reserve_outputs
from medprompt.core.terminal import Steps, names_apart

SLOW = """
import sys, time
from pathlib import Path
from medprompt import cli
from medprompt.core.outputs import folder_written_aside

@cli.app.command("slow")
def slow(out: Path):
    with folder_written_aside(out, force=True) as folder:
        (folder / "half").write_text("half")
        print("half", flush=True)
        time.sleep(60)

sys.argv = ["medprompt", "slow", sys.argv[1]]
cli.main()
"""
"""The command line at a folder, half-written."""


def started(out: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "half\n"
    return child


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_it_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    child = started(tmp_path / "out")
    child.send_signal(getattr(signal, name))
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + getattr(signal, name)
    assert "no half-written file is left" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_leaves_the_next_run_removes(tmp_path: Path) -> None:
    child = started(tmp_path / "out")
    child.kill()
    child.communicate()
    backup = tmp_path / ".out.original"
    backup.write_text("theirs")
    assert len(list(tmp_path.iterdir())) == 3  # the lock, the half, and theirs
    with reserve_outputs({"out": Output(tmp_path / "out", folder_kind("a folder"))}):
        pass
    assert list(tmp_path.iterdir()) == [backup]


def test_what_a_kill_had_moved_away_comes_back(tmp_path: Path) -> None:
    with replaced_whole(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    retired = tmp_path / ".out.medprompt-old-abcdefgh"
    retired.mkdir()
    (tmp_path / "out").replace(retired / "out")
    with (
        pytest.raises(InputError, match="exists already"),
        reserve_outputs({"out": Output(tmp_path / "out", folder_kind("a folder"))}),
    ):
        pass
    assert (tmp_path / "out" / "a").read_text() == "1" and not retired.exists()


def test_a_rename_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with replaced_whole(out) as folder:
        (folder / "a").write_text("1")
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target == out and "old-" not in str(self):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(InputError, match="cannot be written"), replaced_whole(out) as folder:
        (folder / "a").write_text("2")
    assert (out / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("content", ["", "theirs", "ours, and more"])
def test_a_file_is_ours_by_its_beginning(tmp_path: Path, content: str) -> None:
    (tmp_path / "f").write_text(content)
    output = {"out": Output(tmp_path / "f", file_kind("a file", "ours"))}
    if not content:  # an empty file, as mktemp makes it, holds nothing
        with reserve_outputs(output):
            return
    message = "exists already" if content.startswith("ours") else "did not write it"
    with pytest.raises(InputError, match=message), reserve_outputs(output):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("words", [["data", "list", "--json"], ["prompts", "packs"], ["--help"]])
def test_a_reader_may_leave(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "medprompt.cli", *words], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_of_the_command_line_is_one() -> None:
    done = subprocess.run([sys.executable, "-m", "medprompt.cli", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("medprompt ")


class Lines(io.StringIO):
    """Standard error off a terminal, on which lines can be waited for."""

    def until(self, text: str, seconds: float = 20.0) -> list[str]:
        end = time.monotonic() + seconds
        while text not in self.getvalue():
            assert time.monotonic() < end, self.getvalue()
            time.sleep(0.01)
        return self.getvalue().splitlines()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)
    monkeypatch.setattr(terminal, "HEARTBEAT_S", 0.02)
    return Lines()


def test_a_step_that_goes_on_is_named_though_nothing_advances(lines: Lines) -> None:
    with redirect_stderr(lines), Steps("export") as steps:
        steps.step("trace")
        assert lines.until("\n")[0].startswith("export: trace … (")
        steps.step("count")
        steps.advance(3)
        lines.until("export: count: 3 (")
    assert lines.getvalue().splitlines()[-1].startswith("export: count (")
    assert not any("_tell_what_goes_on" in one.name for one in threading.enumerate())


def test_long_steps_say_how_far_they_are_and_what_is_left(lines: Lines) -> None:
    with redirect_stderr(lines), Steps("infer") as steps:
        steps.step("detect", 8)
        steps.advance(3)
        said = next(line for line in lines.until("3 of 8") if "3 of 8" in line)
        assert re.fullmatch(r"infer: detect: 3 of 8 \(\d+\.\d s, \d+ s left\)", said)
        steps.advance(5)
        said = next(line for line in lines.until("8 of 8") if "8 of 8" in line)
        assert re.fullmatch(r"infer: detect: 8 of 8 \(\d+\.\d s\)", said)


@pytest.mark.parametrize(
    ("done", "total", "seconds", "left"),
    [
        (0, 8, 9.0, ""),
        (1, None, 9.0, ""),
        (8, 8, 9.0, ""),
        (9, 8, 9.0, ""),
        (4, 8, 60.0, ", 60 s left"),
        (1, 100, 10.0, ", 16 min left"),
    ],
)
def test_what_is_left_is_foretold_by_what_is_done(done: int, total: int | None, seconds: float, left: str) -> None:
    steps = Steps("infer")
    steps._done, steps._total = done, total
    assert steps._left(seconds) == left


def test_a_step_that_failed_has_no_line_of_its_own(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "FIRST_S", 60.0)
    with pytest.raises(KeyError), redirect_stderr(lines), Steps("infer") as steps:
        steps.step("read")
        steps.step("detect")
        raise KeyError
    assert [line.split(" (")[0] for line in lines.getvalue().splitlines()] == ["infer: read"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["in/a.png", "in/b.png"], ["a.png", "b.png"]),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"]),
        (["1/x/a.jpg", "2/x/a.jpg"], ["1/x/a.jpg", "2/x/a.jpg"]),
        (["a.jpg", "x/a.jpg"], ["a.jpg", "x/a.jpg"]),
    ],
)
def test_names_are_as_long_as_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert list(names_apart([Path(path) for path in paths]).values()) == names


def test_an_error_in_one_line_has_no_labels() -> None:
    error = MedpromptError("The file is damaged.", where="a.png", expected="a PNG", got="half of one", fix="copy it")
    assert in_one_line(str(error)) == "The file is damaged. (half of one)"
    assert (in_one_line("Only this."), in_one_line("")) == ("Only this.", "")
