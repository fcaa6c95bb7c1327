"""A live server: what it answers, what it refuses, and that it goes on."""

from __future__ import annotations

import gc
import json
import logging
import socket
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid

from medprompt.bundles.load import Bundle
from medprompt.core.errors import EngineError, InputError, ServerError
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.ort import OnnxRuntime
from medprompt.runtime.serving import guard, run
from medprompt.runtime.serving.contract import Asked
from medprompt.runtime.serving.limits import Limits
from medprompt.runtime.serving.protocol import HEADER_LENGTH
from tests.medprompt.dicom.made import write_dicom
from tests.runtime.serving.conftest import TOKEN, Running, Start, picture, png

AUTH = {"Authorization": f"Bearer {TOKEN}"}
INFER = "/v2/models/cells/infer"
SIZES = ((20, 30), (31, 17), (8, 12), (64, 64))


def ask(
    server: Running, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, AUTH if headers is None else headers)
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def same(server: Running, offline: Detector, level: int = 90) -> bool:
    """Whether it answers about a picture as the detector itself does."""
    image = picture(level)
    (found,) = server.client(TOKEN).detect(image[None])
    want = offline(image)
    return len(want) > 0 and found.detections(want.labels, want.phrases, want.size_hw) == want


@pytest.fixture
def goes_on(server: Running, offline: Detector) -> Iterator[None]:
    """Whatever a test does to the server, it answers afterwards, and holds nothing of it."""
    yield
    assert same(server, offline)
    deadline = time.monotonic() + 5
    while (server.service.places.used or server.service.bytes.used) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (server.service.places.used, server.service.bytes.used, server.service._allowed._used) == (0, 0, 0)


def test_many_at_once_answer_as_the_detector_does(server: Running, offline: Detector, goes_on: None) -> None:
    images = [picture(20 + index % 97, SIZES[index % len(SIZES)]) for index in range(60)]

    def detect(image: Any) -> Any:
        files = image[0, 0, 0] % 2 == 0
        return server.client(TOKEN).detect([png(image)] if files else image[None])[0]

    with ThreadPoolExecutor(30) as pool:
        for image, found in zip(images, pool.map(detect, images), strict=True):
            want = offline(image)
            assert found.detections(want.labels, want.phrases, want.size_hw) == want


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("as_pixels", [True, False])
def test_a_request_of_several_images(
    server: Running, offline: Detector, goes_on: None, binary: bool, as_pixels: bool
) -> None:
    images = [picture(30), picture(1), picture(110)]
    given: Any = np.stack(images) if as_pixels else [png(image) for image in images]
    found = server.client(TOKEN).detect(given, binary=binary)
    wanted = [offline(image) for image in images]
    for one, want in zip(found, wanted, strict=True):
        assert one.detections(want.labels, want.phrases, want.size_hw) == want
    assert len(found[1]) == 0 < len(found[0])


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (Asked(threshold=0.0), {"RBC", "WBC"}),
        (Asked(bank="bundle"), {"WBC"}),
        (Asked(phrases=("Red  Cell",)), {"RBC"}),
        (Asked(phrases={"RBC": ("pale disc",)}), {"RBC"}),
        (Asked(phrases=("red cell", "pale disc", "white cell")), {"WBC"}),
    ],
)
def test_prompts_by_request(server: Running, goes_on: None, asked: Asked, labels: set[str]) -> None:
    (found,) = server.client(TOKEN).detect(picture(100)[None], asked)
    assert set(found.labels) == labels


def head(*tensors: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(tensors), **more}).encode()


def tensor(shape: list[Any], datatype: str = "UINT8", name: str = "pixels", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, **more}


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of few bytes whose pixels would take many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(100_000), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_that_claims(width: int, height: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def behind(given: dict[str, Any], rest: bytes) -> tuple[bytes, dict[str, str]]:
    """A request whose tensor's bytes follow its JSON."""
    text = head({**given, "parameters": {"binary_data_size": len(rest)}})
    return text + rest, {HEADER_LENGTH: str(len(text))}


BINARY = {HEADER_LENGTH: "5"}
HALF = "\ud800"  # of a surrogate pair: JSON can say it, UTF-8 cannot
ONE = tensor([1, 2, 2, 3], data=[0] * 12)
BAD = [
    ("POST", INFER, b"{", {}, 400, "malformed"),
    ("POST", INFER, b"\xff\xfe", {}, 400, "malformed"),
    ("POST", INFER, b"[" * 50_000, {}, 400, "malformed"),
    ("POST", INFER, b"[]", {}, 400, "malformed"),
    ("POST", INFER, head(), {}, 400, "malformed"),
    ("POST", INFER, b"", {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[0] * 11)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[0] * 11 + [256])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[0] * 11 + [-1])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[0] * 11 + [0.5])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[0] * 11 + [True, [1]])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[0.0] * 11 + [float("nan")])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], "FP32", data=[0.0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], "FP64", data=[0.0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 6], data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 3, 2, 2], data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([0, 2, 2, 3], data=[])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 0, 0, 3], data=[])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, -2, -2, 3], data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor(["1", 2, 2, 3], data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 10**9, 10**9, 3], data=[0])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], name="picture", data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, tensor([1, 1], "BYTES", "image", data=["AA=="])), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, ONE), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 1], "BYTES", "image", data=["no base64!"])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 1], "BYTES", "image", data=[5])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 1], "BYTES", "image", data=["QUJD"])), {}, 400, "image_not_an_image"),
    ("POST", INFER, head(tensor([1, 1], "BYTES", "image", data=[""])), {}, 400, "image_not_an_image"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], parameters={"binary_data_size": 12})), {}, 400, "malformed"),
    ("POST", INFER, head(ONE), BINARY, 400, "malformed"),
    ("POST", INFER, head(ONE), {HEADER_LENGTH: "-1"}, 400, "malformed"),
    ("POST", INFER, head(ONE), {HEADER_LENGTH: "999999"}, 400, "malformed"),
    ("POST", INFER, head(ONE), {HEADER_LENGTH: "9" * 5000}, 400, "malformed"),
    ("POST", INFER, head(ONE), {HEADER_LENGTH: "²"}, 400, "malformed"),
    ("POST", INFER, *behind(tensor([0, 10**30, 1, 3]), b""), 400, "malformed"),
    ("POST", INFER, *behind(tensor([1] * 99), b"x"), 400, "malformed"),
    ("POST", INFER, *behind(tensor([1] * 99, "BYTES"), b"\1\0\0\0x"), 400, "malformed"),
    ("POST", INFER, *behind(tensor([0, 10**30], "BYTES"), b""), 400, "malformed"),
    ("POST", INFER, *behind(tensor([1, 1], "BYTES", "image"), b"\0" * 190_000), 400, "malformed"),
    ("POST", INFER, *behind(tensor([1, 1], "BYTES", "image"), b"\xff" * 9), 400, "malformed"),
    ("POST", INFER, head(tensor([1] * 99, data=[1])), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], ["UINT8"], data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], {}, data=[0] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=[10**400] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data=["0"] * 12)), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([1, 2, 2, 3], data={})), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"threshold": 10**400}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"threshold": "9" * 5000}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={HALF: "x"}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"bank": HALF}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, parameters={"phrases": [HALF]}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, parameters={"phrases": {HALF: ["red cell"]}}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, parameters={"phrases": [["red cell"]]}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"phrases": [f"{one}" for one in range(10_000)]}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, outputs=[{"name": HALF}]), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, outputs=[{"name": ["boxes"]}]), {}, 400, "malformed"),
    ("POST", INFER, head(tensor([9, 1, 1, 3], data=[0] * 27)), {}, 413, "too_large"),
    ("POST", INFER, head(ONE, parameters={"bnak": "x"}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"bank": "x"}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, parameters={"phrases": '["x"]'}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, parameters={"phrases": '{"X":["red cell"]}'}), {}, 400, "prompts"),
    ("POST", INFER, head(ONE, parameters={"phrases": "[]"}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"threshold": "nan"}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, parameters={"frame": 2}), {}, 400, "malformed"),
    ("POST", INFER, head(ONE, outputs=[{"name": "x"}]), {}, 400, "malformed"),
    ("POST", INFER, b"x" * 200_001, {}, 413, "too_large"),
    ("POST", "/v1/detect", b"x" * 3_000_000, {}, 413, "too_large"),
    ("POST", "/v2/models/else/infer", head(ONE), {}, 404, "unknown_model"),
    ("POST", INFER, b"x", {"Content-Encoding": "gzip"}, 415, "malformed"),
    ("POST", "/v1/detect", b"x", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "malformed"),
    ("POST", "/v1/detect", png_that_claims(30_000, 30_000), {}, 422, "image"),
    ("POST", "/v1/detect", png_that_claims(400, 400), {}, 422, "image"),
    ("POST", "/v1/detect", jpeg_that_claims(65_000, 65_000), {}, 422, "image"),
    ("POST", "/v1/detect", b"", {}, 422, "image"),
    ("POST", "/v1/detect?threshold=2", png(picture(50)), {}, 400, "malformed"),
    ("POST", "/v1/detect?file=patient", png(picture(50)), {}, 400, "malformed"),
    ("GET", "/v2/models/else", b"", {}, 404, "unknown_model"),
    ("GET", "/nothing", b"", {}, 404, None),
    ("GET", "/../../etc/passwd", b"", {}, 404, None),
    ("GET", "/v1/detect", b"", {}, 405, None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "kind"), BAD)
def test_what_is_refused(
    server: Running, goes_on: None, method: str, path: str, body: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    got, _, content = ask(server, method, path, body, {**AUTH, **headers})
    assert got == status, content
    if kind is not None:
        said = json.loads(content)
        assert said["kind"] == kind
        assert said["error"]


def test_a_deflated_file_is_not_inflated_beyond_what_an_image_takes(
    server: Running, goes_on: None, tmp_path: Path
) -> None:
    small = write_dicom(tmp_path / "a", picture(90)[..., 0], uid.DeflatedExplicitVRLittleEndian)
    bomb = write_dicom(tmp_path / "b", np.zeros((1 << 10, 1 << 10), np.uint8), uid.DeflatedExplicitVRLittleEndian)
    assert ask(server, "POST", "/v1/detect", small.read_bytes())[0] == 200
    status, _, content = ask(server, "POST", "/v1/detect", bomb.read_bytes())
    assert (status, json.loads(content)["kind"], b"when inflated" in content) == (422, "image", True)


def test_an_image_of_several_that_cannot_be_read_is_named(server: Running, goes_on: None) -> None:
    with pytest.raises(ServerError, match="image 1 of the request") as caught:
        server.client(TOKEN).detect([png(picture(50)), b"junk", png(picture(70))])
    assert caught.value.status == 400


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", INFER), ("GET", "/metrics"), ("GET", "/v2"), ("POST", "/v1/detect")]
)
def test_a_wrong_token(server: Running, method: str, path: str, given: str | None) -> None:
    status, headers, _ = ask(server, method, path, b"{}", {} if given is None else {"Authorization": given})
    assert (status, headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"])
def test_what_needs_no_token(server: Running, path: str) -> None:
    status, headers, content = ask(server, "GET", path, headers={})
    assert status == 200
    assert b"http" not in content  # no outside resource
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_picture_and_its_results_file(server: Running, offline: Detector, goes_on: None) -> None:
    from medprompt.results.schema import Results

    image = picture(100)
    status, _, content = ask(server, "POST", "/v1/detect", png(image))
    item = Results.model_validate_json(content).items[0]
    assert (status, item.status) == (200, "OK")
    assert [one.model_dump(mode="json", exclude_none=True) for one in item.detections or ()] == list(
        offline(image).rows()
    )
    status, headers, content = ask(server, "POST", "/v1/detect", png(image), {**AUTH, "Accept": "image/png"})
    assert (status, headers["content-type"], content[:4]) == (200, "image/png", b"\x89PNG")


def test_a_client_that_sends_its_head_slowly(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEAD_S", 0.3)
    with start() as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"GET /v2/health/live HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            for _ in range(100):  # a byte now and then does not keep it
                slow.sendall(b"X")
                time.sleep(0.05)


def test_a_client_that_sends_its_body_slowly(server: Running, goes_on: None) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode())
        slow.sendall(b"Content-Length: 99\r\n\r\n{")
        assert b" 408 " in slow.recv(1000)


@pytest.mark.parametrize(
    "sent",
    [
        "Content-Length: 9\r\n\r\n{",
        "Content-Length: 9\r\nContent-Length: 8\r\n\r\n{",
        "Content-Length: -9\r\n\r\n{",
        "",
    ],
)
def test_a_client_that_leaves(server: Running, goes_on: None, sent: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as leaving:
        leaving.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{sent}".encode())


def test_what_a_request_calls_itself_comes_back(server: Running, goes_on: None) -> None:
    for name in ("7", "für", HALF, "x" * 1000):
        status, _, content = ask(server, "POST", INFER, head(ONE, id=name))
        assert (status, json.loads(content)["id"]) == (200, name)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Authorization: Bearer wrong", f"Authorization: Bearer {TOKEN}", "Content-Length: 2"], 400),
        ([f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong", "Content-Length: 2"], 400),
        ([f"Authorization: Bearer {TOKEN}", "Content-Length: 2", "Transfer-Encoding: chunked"], 411),
        ([f"Authorization: Bearer {TOKEN}", "Content-Length: 2", *["Content-Encoding: identity"] * 2], 400),
        ([f"Authorization: Bearer {TOKEN}", "Content-Length: 2", f"{HEADER_LENGTH}: 2", f"{HEADER_LENGTH}: 1"], 400),
        ([f"Authorization:  bearer   {TOKEN} ", "Content-Length: 2"], 400),  # let in: {} is no request
        ([f"Authorization: Bearer {TOKEN} {TOKEN}", "Content-Length: 2"], 401),
        ([f"Authorization: Bearer,{TOKEN}", "Content-Length: 2"], 401),
        (["Authorization: Bearer \xff\xfe", "Content-Length: 2"], 401),
        ([f"Cookie: token={TOKEN}", f"X-Token: {TOKEN}", "Content-Length: 2"], 401),
        ([f"Proxy-Authorization: Bearer {TOKEN}", "Content-Length: 2"], 401),
    ],
)  # fmt: skip
def test_headers_that_say_two_things_and_a_token_in_odd_places(
    server: Running, goes_on: None, lines: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.2)
    sent = "\r\n".join([f"POST {INFER} HTTP/1.1", "Host: x", "Connection: close", *lines, "", "{}"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent.encode("latin-1"))
        assert client.recv(12) == f"HTTP/1.1 {status}".encode()


def test_a_refused_request_is_let_go_at_once(server: Running, goes_on: None, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[weakref.ref[Exception]] = []
    monkeypatch.setattr(guard, "kind_of_error", lambda error: errors.append(weakref.ref(error)) or "x")
    gc.disable()
    try:
        assert ask(server, "POST", INFER, b"[" * 50_000)[0] == 400
        wait_until(lambda: errors[0]() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("path", ["?token={}", "?access_token={}", "/?authorization=Bearer%20{}"])
def test_a_token_in_the_address_lets_nobody_in(server: Running, path: str) -> None:
    assert ask(server, "POST", INFER + path.format(TOKEN), head(ONE), {})[0] == 401


def test_prompts_asked_again_and_again_are_kept_once(server: Running, goes_on: None) -> None:
    before = len(server.service.worker.prompting._made)
    for phrases in (["red cell"] * 9_000, ["RED  cell"], {"RBC": ["red cell"] * 2}):
        assert ask(server, "POST", INFER, head(ONE, parameters={"phrases": phrases, "threshold": 0.123}))[0] == 200
    assert len(server.service.worker.prompting._made) == before + 1


def test_a_body_of_unstated_length(server: Running, goes_on: None) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", INFER, iter([b"{}"]), AUTH, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


class Gate:
    """Holds every computation back until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.sizes = threading.Event(), list[int]()
        compute = OnnxRuntime.run

        def run_later(engine: OnnxRuntime, feeds: Any) -> Any:
            self.sizes.append(len(feeds["image"]))
            assert self.open.wait(20)
            return compute(engine, feeds)

        self.arm = lambda: monkeypatch.setattr(OnnxRuntime, "run", run_later)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_queue_a_batch_and_a_graceful_stop(
    start: Start, offline: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with start(limits=Limits(queue=5), max_batch=4, max_delay_ms=200) as server, ThreadPoolExecutor(8) as pool:
        gate.arm()
        images = [picture(30 + 10 * index) for index in range(5)]
        first = pool.submit(server.client().detect, images[0][None])
        wait_until(lambda: gate.sizes)
        asked = [first, *(pool.submit(server.client().detect, image[None]) for image in images[1:])]
        wait_until(lambda: server.service.places.used == 5)
        status, headers, content = ask(server, "POST", INFER, head(ONE))
        assert (status, headers["retry-after"], json.loads(content)["kind"]) == (503, "1", "busy")
        wait_until(lambda: len(server.service.worker.line) == 4)
        server.stop.set()
        wait_until(lambda: not reachable(server))
        gate.open.set()
        for image, one in zip(images, asked, strict=True):
            want = offline(image)
            assert one.result()[0].detections(want.labels, want.phrases, want.size_hw) == want
    assert not server.failure
    assert max(gate.sizes) > 1


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
def test_requests_computed_at_the_same_time_answer_alike(device: str, start: Start, offline: Detector) -> None:
    images = [picture(30 + index) for index in range(12)]
    with start(device=device, threads=2, at_once=2) as server, ThreadPoolExecutor(6) as pool:
        assert server.service.worker.detector.engine.in_flight == 3
        found = list(pool.map(lambda image: server.client().detect(image[None])[0], images))
    for image, one in zip(images, found, strict=True):
        want = offline(image)
        assert one.labels == tuple(detection.label for detection in want)
        np.testing.assert_allclose(one.boxes_xyxy, want.boxes_xyxy, atol=0.01)
        np.testing.assert_allclose(one.scores, want.scores, atol=1e-5)


def reachable(server: Running) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_client_that_leaves_gives_its_place_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with start() as server:
        gate.arm()
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as leaving:
                body = head(ONE)
                leaving.sendall(
                    f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
                wait_until(lambda: server.service.places.used)
            wait_until(lambda: not server.service.places.used)
        gate.open.set()


def test_an_engine_that_fails_once_proves_itself_and_serves_on(
    start: Start, offline: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start() as server:
        compute, failed = OnnxRuntime.run, list[int]()

        def fail_once(engine: OnnxRuntime, feeds: Any) -> Any:
            if not failed:
                failed.append(1)
                raise EngineError("a secret of the engine")
            return compute(engine, feeds)

        monkeypatch.setattr(OnnxRuntime, "run", fail_once)
        with pytest.raises(ServerError) as caught:
            server.client().detect(picture(50)[None])
        assert caught.value.status == 500
        wait_until(server.client().ready)
        assert same(server, offline)


def test_an_engine_that_computes_wrongly_after_a_failure_serves_no_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start() as server:
        compute = OnnxRuntime.run

        def fail(engine: OnnxRuntime, feeds: Any) -> Any:
            found = compute(engine, feeds)
            return {**found, "scores": found["scores"] * (np.nan if len(feeds["image"][0]) and first else 0.5)}

        first = [True]
        monkeypatch.setattr(OnnxRuntime, "run", fail)
        with pytest.raises(ServerError, match="500"):
            server.client().detect(picture(50)[None])
        first.clear()
        wait_until(lambda: server.service.worker.state == "failed")
        for _ in range(2):
            with pytest.raises(ServerError, match="503"):
                server.client().detect(picture(50)[None])
            time.sleep(0.05)
        assert server.client().live()
        assert not server.client().ready()


def test_logs_and_metrics_hold_no_word_of_a_request(
    server: Running, caplog: pytest.LogCaptureFixture, goes_on: None
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "Doe^Jane"
    ask(server, "POST", f"/v1/detect?file={secret}", png(picture(50)))
    ask(server, "POST", "/v1/detect", secret.encode())
    ask(server, "POST", f"/v2/models/{secret}/infer", secret.encode())
    ask(server, "GET", f"/{secret}")
    body = head(ONE, parameters={"phrases": json.dumps([secret])}, id=secret)
    ask(server, "POST", INFER, body)
    _, _, metrics = ask(server, "GET", "/metrics")
    assert caplog.records
    assert "Doe" not in caplog.text + metrics.decode()
    for word in ("medprompt_requests_total", "medprompt_batch_images_bucket", 'medprompt_errors_total{kind="prompts"}'):
        assert word in metrics.decode()


def test_banks_by_name(start: Start, folder_of_bank: Path) -> None:
    with start(prompts=[folder_of_bank]) as server:
        assert server.client().served().banks == ("white.safetensors", "bundle")
        for bank in (None, "white", "white.safetensors"):
            (found,) = server.client().detect(picture(100)[None], Asked(bank=bank))
            assert set(found.labels) == {"WBC"}
        with pytest.raises(ServerError, match=r"white\.safetensors, bundle"):
            server.client().detect(picture(100)[None], Asked(bank="red"))


def test_it_listens_on_loopback_alone(server: Running) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1].split(":")[0] for line in listening if line.split()[1].endswith(f":{server.port:04X}")}
    assert addresses == {"0100007F"}


def test_a_port_that_is_taken(bundle: Bundle, server: Running) -> None:
    with pytest.raises(InputError, match="taken"):
        run.serve(bundle, run.ServeOptions(port=server.port))


@pytest.mark.parametrize("name", ["bundle", "white.safetensors"])
def test_two_banks_of_one_name(bundle: Bundle, tmp_path: Path, name: str) -> None:
    paths = [tmp_path / "a" / name, tmp_path / "b" / name]
    for path in paths:
        path.parent.mkdir()
        bundle.bank.save(path)
    with pytest.raises(InputError, match="one name"):
        run.service_of(bundle, run.ServeOptions(prompts=paths))


def test_another_client_agrees(start: Start, offline: Detector) -> None:
    """NVIDIA's own, against our server."""
    triton = pytest.importorskip("tritonclient.http")
    with start() as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("cells")
        assert client.get_model_metadata("cells")["inputs"][0]["name"] == "image"
        assert client.get_model_config("cells")["name"] == "cells"
        image = picture(90)
        want = offline(image)
        for name, value, kind in (
            ("pixels", image[None], "UINT8"),
            ("image", np.array([[png(image)]], object), "BYTES"),
        ):
            given = triton.InferInput(name, value.shape, kind)
            given.set_data_from_numpy(value)
            for binary in (True, False) if kind == "UINT8" else (True,):
                outputs = [
                    triton.InferRequestedOutput(output, binary_data=binary) for output in ("boxes", "scores", "labels")
                ]
                found = client.infer("cells", [given], outputs=outputs)
                assert np.array_equal(found.as_numpy("boxes")[0], want.boxes_xyxy)
                assert np.array_equal(found.as_numpy("scores")[0], want.scores)
                assert [
                    str(one, "utf-8") if isinstance(one, bytes) else one for one in found.as_numpy("labels")[0]
                ] == [one.label for one in want]
        client.close()
