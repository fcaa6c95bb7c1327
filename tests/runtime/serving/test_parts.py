"""The parts of a server that need none: messages, the line before the engine, the page."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.core.detections import Detections
from medprompt.core.errors import ImageError, InputError
from medprompt.core.masks import Masks
from medprompt.runtime.serving.contract import Asked, asked_from_parameters, found_from_outputs, outputs_from_detections
from medprompt.runtime.serving.line import Job, Line
from medprompt.runtime.serving.pictures import picture_from_bytes
from medprompt.runtime.serving.protocol import MAX_JSON, Message, body_from_message, message_from_body
from tests.runtime.serving.conftest import Start, picture, png

LABELS, PHRASES = ("RBC", "weiß"), ("red cell", "weiße Zelle")
TWO = Detections(
    np.array([[1, 2, 3, 4], [0, 0, 5, 5]], np.float32),
    np.array([0.9, 0.1], np.float32),
    np.array([0, 1]),
    np.array([1, 0]),
    LABELS,
    PHRASES,
    (10, 10),
)
MASKED = replace(TWO, masks=Masks.of(np.arange(200).reshape(2, 10, 10) % 7 == 0))
NONE = Detections.empty(LABELS, PHRASES, (10, 10))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "found", [[TWO], [NONE], [TWO, NONE, TWO], [NONE, NONE], [MASKED], [MASKED[:0], MASKED, MASKED[:1]], [MASKED[:0]]]
)
def test_an_answer_comes_back_as_it_was(found: list[Detections], binary: bool) -> None:
    message = Message(outputs_from_detections(found), id="7", binary=binary)
    body, length = body_from_message(message, "outputs")
    read = message_from_body(body, None if length is None else str(length), "outputs")
    back = found_from_outputs(read.tensors, len(found))
    assert [one.detections(LABELS, PHRASES, (10, 10)) for one in back] == found
    assert read.id == "7"


def test_a_request_of_too_much_json_is_refused_before_it_is_read() -> None:
    with pytest.raises(InputError, match="larger tensors behind it"):
        message_from_body(bytes(MAX_JSON + 1), None)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"7", b'{"size": [10, 10], "counts": "04"}', b"[" * 9999])
def test_masks_that_are_none_are_refused(text: bytes) -> None:
    outputs = outputs_from_detections([MASKED])
    outputs["masks"][0, 1] = text
    (found,) = found_from_outputs(outputs, 1)
    with pytest.raises(InputError, match="not answer as the contract") as caught:
        found.detections(LABELS, PHRASES, (10, 10))
    assert caught.value.where == "masks"


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked("a.safetensors", ("x", "y"), 0.25, 3),
        Asked(phrases={"RBC": ("red cell",)}),
        Asked(threshold=0.0),
        Asked(threshold=1e-07),
    ],
)
def test_what_is_asked_comes_back_as_it_was(asked: Asked) -> None:
    assert asked_from_parameters(asked.as_parameters()) == asked


@pytest.mark.parametrize(
    "parameters",
    [
        {"phrase": "x"},
        {"bank": 5},
        {"phrases": "x"},
        {"phrases": "{}"},
        {"phrases": '{"a": []}'},
        {"phrases": "[1]"},
        {"threshold": "1.01"},
        {"threshold": True},
        {"threshold": "inf"},
        {"frame": 0},
        {"frame": "1.5"},
        {"frame": "x"},
    ],
)
def test_parameters_that_cannot_be_read(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        asked_from_parameters(parameters)


def jobs(line: Line, kinds: str) -> None:
    for kind in kinds:
        line.put(Job(kind, iter(())))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("waiting", "batch", "taken"),
    [
        ("abab", 1, "abab"),
        ("abab", 2, "aabb"),
        ("aaabaa", 2, "aabaaa"),  # no kind waits for ever
        ("abcabc", 4, "aabbcc"),
        ("", 4, ""),
    ],
)
def test_alike_images_go_together_and_the_oldest_first(waiting: str, batch: int, taken: str) -> None:
    line = Line(batch, 0.0)
    jobs(line, waiting)
    line.close()
    assert "".join(str(job.kind) for job in line) == taken


def test_a_cancelled_job_is_passed_over_and_a_pause_keeps_the_rest() -> None:
    line = Line(2, 0.0)
    jobs(line, "abc")
    line._waiting["a"][0].answer.cancel()
    seen = []
    for job in line:
        seen.append(job.kind)
        line.pause()
    assert (seen, len(line)) == (["b"], 1)


def test_a_batch_that_is_not_full_waits_so_long_and_no_longer() -> None:
    line = Line(2, 0.05)
    jobs(line, "a")
    taken = iter(line)
    next(taken)
    began = time.monotonic()
    assert not line.ready()
    assert time.monotonic() - began >= 0.03
    jobs(line, "a")
    next(taken)
    jobs(line, "b")
    assert line.ready()


def test_a_dicom_file_of_several_frames_needs_the_one_it_is_about(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.medprompt.dicom.made import write_dicom

    frames = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    content = write_dicom(tmp_path / "clip.dcm", frames, NumberOfFrames=3).read_bytes()
    with pytest.raises(ImageError, match=r"frame=1 … 3"):
        picture_from_bytes(content)
    assert picture_from_bytes(content, frame=2).pixels.shape == (8, 8, 3)


BROWSER = "/usr/bin/chromium"


@pytest.mark.skipif(not os.access(BROWSER, os.X_OK), reason="Chromium is not installed")
def test_the_page_shows_boxes_and_says_what_cannot_be_read(start: Start, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    image, junk = tmp_path / "cell.png", tmp_path / "junk.png"
    image.write_bytes(png(picture(100)))
    junk.write_bytes(b"junk")
    said: list[str] = []
    with start() as server, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if server.url not in request.url else None)
        page.goto(server.url)
        page.locator("#state", has_text="model cells on ort-cpu").wait_for()
        page.set_input_files("#picture", image)
        page.click("#send")
        page.locator("#result").wait_for()
        assert page.locator("tbody tr").count() > 0
        assert page.inner_text("#caption").startswith("OK: ")
        page.set_input_files("#picture", junk)
        page.click("#send")
        page.locator("#error", has_text="cannot be read").wait_for()
        assert not page.locator("#result").is_visible()
        browser.close()
    assert [line for line in said if not line.startswith("blob:")] == []
