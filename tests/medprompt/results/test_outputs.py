"""Outputs when things go wrong: a full disk, two processes on one place, a log that others read."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from medprompt.core.errors import InputError
from medprompt.core.files import atomic_write
from medprompt.core.outputs import lock_outputs
from medprompt.results.run import CSV_COLUMNS
from medprompt.runtime import Detector
from medprompt.runtime.batch import Saving, infer_images
from tests.runtime.bundles import make_folder, record

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
sys.argv = ["medprompt", *sys.argv[1:]]
from medprompt.cli import main
main()
"""
"""A process whose files cannot grow beyond so many bytes, as on a full disk."""


HOLDING = """
import sys, time
from pathlib import Path
from medprompt.core.outputs import lock_outputs
with lock_outputs([Path(sys.argv[1])]):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
"""
"""A process that is at one output for so long."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("outputs") / "bundle", engines=(record("fake"),))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(6):
        Image.new("RGB", (30, 20), "white").save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


EARLIER = {"--out": '{"schema_version": 5, "bundle_sha256": ""}', "--coco": "[]", "--csv": ",".join(CSV_COLUMNS)}
"""What begins as our own files do: others are not replaced at all."""


@pytest.mark.parametrize("option", [*EARLIER, "--overlays"])
def test_a_full_disk_leaves_what_was_there(folder: Path, images: Path, tmp_path: Path, option: str) -> None:
    target = tmp_path / "made" / "result"
    target.parent.mkdir()
    if option == "--overlays":
        target.mkdir()
    else:
        target.write_text(EARLIER[option])
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            LIMITED.format(most=100),
            "infer",
            str(folder),
            str(images),
            option,
            str(target),
            "--force",
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert "cannot be written" in ended.stderr and "Traceback" not in ended.stderr
    assert names(target.parent) == ["result"]
    assert names(target) == [] if option == "--overlays" else target.read_text() == EARLIER[option]


def test_a_save_that_fails_does_not_end_the_night(folder: Path, images: Path) -> None:
    def save(run: object) -> None:
        raise InputError("The output cannot be written.", where="/patient/jane.json")

    with Detector.load(folder) as detector:
        run = infer_images(detector, sorted(images.iterdir()), saving=Saving(save, every_s=0.0))
    assert [item.error for item in run.items] == [""] * 6


def test_other_errors_inside_are_what_they_were(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "x"):
        (tmp_path / "absent").read_bytes()
    assert names(tmp_path) == []


class TestOneProcess:
    def test_a_second_one_is_refused(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", HOLDING, str(tmp_path / "r.json"), "0"]
        with lock_outputs([tmp_path / "r.json", None]):
            refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 1 and "Another process is writing here" in refused.stderr
        assert subprocess.run(command, capture_output=True, text=True).stdout == "in\n"
        assert names(tmp_path) == []

    def test_one_output_twice_is_one(self, tmp_path: Path) -> None:
        with lock_outputs([tmp_path / "r", tmp_path / "r"]):
            assert names(tmp_path) == [".r.lock"]

    def test_a_killed_process_keeps_nothing(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", HOLDING, str(tmp_path / "r"), "60"]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        with pytest.raises(InputError, match="Another process"), lock_outputs([tmp_path / "r"]):
            pass
        holder.kill()
        holder.wait()
        holder.stdout.close()
        with lock_outputs([tmp_path / "r"]):
            pass

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
    def test_a_file_system_without_locks_is_written_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, "no locks here")

        monkeypatch.setattr("fcntl.flock", flock)
        with lock_outputs([tmp_path / "r"]):
            (tmp_path / "r").write_text("made")
        assert (tmp_path / "r").read_text() == "made"

    def test_a_place_without_room_for_a_lock_is_an_error_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        with (
            pytest.raises(InputError, match="The output cannot be written"),
            lock_outputs([tmp_path / "file" / "r.json"]),
        ):
            pass

    def test_many_at_once_are_one_after_another(self, tmp_path: Path) -> None:
        inside: list[int] = []
        most: list[int] = []

        def work() -> None:
            for _ in range(20):
                try:
                    with lock_outputs([tmp_path / "r"]):
                        inside.append(1)
                        most.append(len(inside))
                        time.sleep(0.001)
                        inside.pop()
                except InputError:
                    time.sleep(0.001)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(most) == {1}

    def test_the_command_refuses(self, folder: Path, images: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-c", LIMITED.format(most=10**9), "infer", str(folder), str(images), "--out"]
        with lock_outputs([tmp_path / "r.json"]):
            ended = subprocess.run([*command, str(tmp_path / "r.json")], capture_output=True, text=True)
        assert ended.returncode == 2 and "Another process is writing here" in ended.stderr
        assert not (tmp_path / "r.json").exists()


def test_logs_name_no_file(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "DOE^JANE-19610203.png"
    Image.new("RGB", (30, 20), "white").save(path)

    def explode(*_: object) -> None:
        raise RuntimeError(f"cannot digest {path}")

    with caplog.at_level(logging.DEBUG), Detector.load(folder) as detector:
        monkeypatch.setattr(detector, "submit", explode)
        run = infer_images(detector, [path, tmp_path / "absent-JANE.png"])
    assert [item.status for item in run.items] == ["ERROR", "ERROR"]
    assert "JANE" not in caplog.text and "failed unexpectedly: RuntimeError at test_outputs.py" in caplog.text
    assert "cannot digest" not in json.dumps(run.as_json())
