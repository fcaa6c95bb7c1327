"""A video through a detector: each frame has a status, files lose none, live sources say how many they lost."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprompt.cli import main
from medprompt.core.errors import ImageError
from medprompt.core.frames import FramePolicy
from medprompt.images import shown
from medprompt.runtime import Detector
from medprompt.runtime.batch import Saving
from medprompt.runtime.video import infer_video
from medprompt.video.read import Video
from tests.medprompt.video.videos import LEVELS, make_video, packet_spans
from tests.runtime.bundles import make_folder, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("watched") / "bundle", engines=(record("fake"),))


def run(folder: Path, path: Path, **options):
    with Detector.load(folder) as detector, Video(str(path)) as video:
        return infer_video(detector, video, **options)


def damaged(path: Path) -> Path:
    """A video of two groups of pictures, whose second has damage."""
    make_video(path, "libx264", group=10)
    spans = packet_spans(path)
    content = bytearray(path.read_bytes())
    offset, size, _ = spans[12]
    content[offset + 4 : offset + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    return path


def test_a_frame_answers_as_its_picture_does(folder: Path, tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4")
    found = run(folder, path)
    with Detector.load(folder) as detector, Video(str(path)) as video:
        single = [detector(frame.pixels) for frame in video if frame.pixels is not None]
    assert [item.frame for item in found.items] == list(range(1, len(LEVELS) + 1))
    for item, alone in zip(found.items, single, strict=True):
        assert item.detections is not None and (item.detections.scores == alone.scores).all()
    best = [float(item.detections.scores[0]) for item in found.items if item.detections]
    assert len(set(best)) > 10  # brighter frames answer louder
    assert found.video is not None and found.video["dropped"] == 0 and found.complete


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [(FramePolicy(last=1), [1]), (FramePolicy(step=7), [1, 8, 15]), (FramePolicy(3, 5), [3, 4, 5])],
)
def test_frames_are_chosen(folder: Path, tmp_path: Path, policy: FramePolicy, numbers: list[int]) -> None:
    found = run(folder, make_video(tmp_path / "v.mp4"), policy=policy)
    assert [item.frame for item in found.items] == numbers


def test_frames_on_which_nothing_can_be_seen(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "v.mp4")
    assert {item.warnings for item in run(folder, path).items} == {()}
    monkeypatch.setattr(shown, "DARK", max(LEVELS) + 9)
    assert all("black" in "".join(item.warnings) for item in run(folder, path).items)


def test_no_frame_is_no_empty_answer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="none of the frames"):
        run(folder, make_video(tmp_path / "v.mp4"), policy=FramePolicy(first=500))


def test_damaged_frames_are_rejected_and_the_rest_is_analysed(folder: Path, tmp_path: Path) -> None:
    found = run(folder, damaged(tmp_path / "v.mp4"))
    assert [item.status for item in found.items] == ["OK"] * 10 + ["REJECTED"] * 10
    assert {item.code for item in found.failed} == {"damaged"}


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_the_annotated_video_has_every_frame_at_its_time(folder: Path, tmp_path: Path, name: str) -> None:
    run(folder, make_video(tmp_path / "v.mp4"), annotated=tmp_path / name)
    with Video(str(tmp_path / name)) as video:
        frames = list(video)
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(len(LEVELS))], abs=0.002)
    assert all(frame.pixels is not None for frame in frames)
    brightness = [np.median(frame.pixels) for frame in frames if frame.pixels is not None]
    assert np.corrcoef(brightness, LEVELS)[0, 1] > 0.99


def test_a_failed_run_leaves_no_annotated_video(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        run(folder, make_video(tmp_path / "v.mp4"), policy=FramePolicy(first=99), annotated=tmp_path / "o.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_an_unfinished_run_is_saved(folder: Path, tmp_path: Path) -> None:
    saved = []
    run(folder, make_video(tmp_path / "v.mp4"), saving=Saving(saved.append, every_s=0.0))
    assert len(saved[0].items) == 1
    assert not any(one.complete for one in saved)


class _Camera:
    """A stream on a local socket that sends a file's packets, all at once, then waits."""

    def __init__(self, path: Path) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, args=(path.read_bytes(),), daemon=True)
        self.thread.start()

    def _serve(self, content: bytes) -> None:
        connection, _ = self.server.accept()
        with connection:
            connection.sendall(content)

    def close(self) -> None:
        self.server.close()
        self.thread.join(5)


def test_a_live_source_loses_what_nobody_took_and_says_so(folder: Path, tmp_path: Path) -> None:
    camera = _Camera(make_video(tmp_path / "v.ts", "libx264"))
    try:
        with Detector.load(folder) as detector, Video(camera.url) as video:
            slow = detector.engine.run

            def run_slowly(feeds):
                threading.Event().wait(0.02)
                return slow(feeds)

            detector.engine.run = run_slowly  # type: ignore[method-assign]
            found = infer_video(detector, video)
    finally:
        camera.close()
    assert found.video is not None and found.video["source"] == "live"
    assert found.video["dropped"] + len(found.items) == len(LEVELS)
    assert found.video["dropped"] > 0
    assert found.items[-1].frame == len(LEVELS)


def test_nobody_there_is_an_error(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ImageError, match="cannot be read"):
        Video(f"tcp://127.0.0.1:{port}")


class TestCommand:
    def infer(self, folder: Path, *arguments: object) -> int:
        sys.argv = ["medprompt", "infer", str(folder), *map(str, arguments)]
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    def test_results_have_times_and_what_was_measured(self, folder: Path, tmp_path: Path, capsys) -> None:
        path = make_video(tmp_path / "v.mp4")
        assert self.infer(folder, path, "--out", tmp_path / "r.json", "--csv", tmp_path / "r.csv") == 0
        content = json.loads((tmp_path / "r.json").read_text())
        assert [item["time_s"] for item in content["items"]] == pytest.approx([n / 10 for n in range(len(LEVELS))])
        assert content["video"]["codec"] == "mpeg4" and content["video"]["latency_ms"]["p50"] > 0
        assert "20 OK" in capsys.readouterr().out
        assert (tmp_path / "r.csv").read_text().startswith("file,frame,time_s,status")

    def test_a_damaged_video_ends_with_one(self, folder: Path, tmp_path: Path, capsys) -> None:
        path = damaged(tmp_path / "v.mp4")
        assert self.infer(folder, path, "--out", tmp_path / "r.json") == 1
        assert "10 of 20" in capsys.readouterr().err
        assert len(json.loads((tmp_path / "r.json").read_text())["items"]) == 20

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["v.mp4", "w.mp4"], "analysed alone"),
            (["v.mp4", "x.png"], "analysed alone"),
            (["v.mp4", "--overlays", "o"], "Not for videos"),
            (["v.mp4", "--resume", "--out", "r.json"], "Not for videos"),
            (["v.mp4", "--seconds", "3"], "Only for live"),
            (["v.mp4", "--annotated", "o.gif"], "cannot be written in this format"),
            (["x.png", "--annotated", "o.mp4"], "Only for videos"),
            (["absent.mp4"], "does not exist"),
        ],
    )
    def test_bad_use(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], message: str
    ) -> None:
        make_video(tmp_path / "v.mp4")
        Image.new("RGB", (30, 20), "grey").save(tmp_path / "x.png")
        monkeypatch.chdir(tmp_path)
        assert self.infer(folder.absolute(), *arguments) == 2
        assert message in capsys.readouterr().err
