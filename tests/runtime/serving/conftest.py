"""A small bundle with golden images, and servers of it in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medprompt.bundles.golden import save_golden
from medprompt.bundles.load import GOLDEN_FILE, Bundle, load_bundle, write_manifest
from medprompt.runtime.detector import Detector
from medprompt.runtime.serving.client import Client
from medprompt.runtime.serving.limits import Limits
from medprompt.runtime.serving.run import ServeOptions, serve
from medprompt.runtime.serving.service import Service
from tests.runtime.bundles import make_folder, make_manifest, record

TOKEN = "0123456789abcdef0123"


def picture(level: int, size_hw: tuple[int, int] = (20, 30)) -> NDArray[np.uint8]:
    """Scores follow the brightness, and stay under 1."""
    noise = np.random.default_rng(level).integers(-8, 9, (*size_hw, 3))
    return np.clip(level + noise, 0, 120).astype(np.uint8)


def png(image_rgb: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    Image.fromarray(image_rgb).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = make_folder(tmp_path_factory.mktemp("serving") / "cells.bundle")
    images = [picture(40), picture(80), picture(110, (16, 40)), picture(60)]
    with Detector.load(folder, device="ort-cpu", threshold=0.0, threads=1, self_test=False) as detector:
        save_golden(folder / GOLDEN_FILE, images, [detector(image) for image in images])
    (folder / "manifest.json").unlink()
    (folder / "manifest.sha256").unlink()
    write_manifest(folder, make_manifest(engines=(record("ort-cpu"),), default_threshold=0.05))
    return load_bundle(folder)


@pytest.fixture(scope="session")
def offline(bundle: Bundle) -> Iterator[Detector]:
    with Detector.load(bundle, device="ort-cpu", threads=1) as detector:
        yield detector


@dataclass
class Running:
    """A server in a thread, its address, and what came of it."""

    url: str
    service: Service
    stop: threading.Event
    thread: threading.Thread
    failure: list[BaseException] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, token: str | None = None) -> Client:
        return Client(self.url, token, timeout_s=10)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def running(bundle: Bundle, **options: Any) -> Iterator[Running]:
    said: Queue[Any] = Queue()
    stop, failure = threading.Event(), list[BaseException]()
    chosen = replace(ServeOptions(port=0, device="ort-cpu", threads=1), **options)

    def work() -> None:
        try:
            serve(bundle, chosen, on_listening=said.put, on_ready=said.put, stop=stop)
        except BaseException as error:
            failure.append(error)
            said.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    url, service = said.get(timeout=20), said.get(timeout=20)
    server = Running(url, service, stop, thread, failure)
    try:
        if isinstance(service, BaseException):
            raise service
        yield server
    finally:
        server.end()


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def start(bundle: Bundle) -> Start:
    return lambda **options: running(bundle, **options)


@pytest.fixture(scope="module")
def server(start: Start) -> Iterator[Running]:
    """One that is asked by many tests; each leaves it answering."""
    limits = Limits(max_bytes=200_000, max_pixels=100_000, max_images=8, body_s=1.0)
    with start(token=TOKEN, limits=limits, max_batch=4) as found:
        yield found


@pytest.fixture
def folder_of_bank(bundle: Bundle, tmp_path: Path) -> Path:
    """A bank of one class, WBC."""
    path = tmp_path / "white.safetensors"
    bundle.bank.subset(["WBC"]).save(path)
    return path
