"""What a server does about a request, whatever it came by: decode, line up, wait, and say what was found."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import ServerError
from medprompt.core.picture import Picture
from medprompt.results.run import Item, Run
from medprompt.runtime.batch import AHEAD_BYTES, run_of
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.base import cpu_cores
from medprompt.runtime.serving import contract
from medprompt.runtime.serving.contract import Asked
from medprompt.runtime.serving.limits import Limits, Places
from medprompt.runtime.serving.metrics import Metrics
from medprompt.runtime.serving.pictures import Content, picture_from_bytes
from medprompt.runtime.serving.worker import Worker
from medprompt.runtime.strategies import Prompting
from medprompt.runtime.threads import Allowance

OUR_VERSION = version("medprompt")
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Answer:
    """What was found in an image of a request, and with what."""

    detector: Detector
    picture: Picture
    found: Detections
    sha256: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know."""
        return (*self.picture.warnings, *self.found.warnings)

    def as_run(self, frame: int | None) -> Run:
        """As a results file of one item."""
        item = Item(
            Path("image"),
            self.found,
            frame=frame,
            sha256=self.sha256,
            warnings=self.warnings,
            dicom=self.picture.dicom,
        )
        return run_of(self.detector, Prompting(), (item,), complete=True)


class Service:
    """One bundle, served. What it decodes is bounded: beyond it, decoding waits.

    Args:
        name: The model's name.
        bundle: The verified bundle.
        worker: Its engine, not yet started.
        limits: What is refused.
    """

    def __init__(self, name: str, bundle: Bundle, worker: Worker, limits: Limits) -> None:
        self.name, self.bundle, self.worker, self.limits = name, bundle, worker, limits
        self.places, self.bytes = Places(limits.queue), Places(limits.held_bytes)
        self.metrics = Metrics(lambda: self.places.used, self._waiting, lambda: float(self.ready))
        self.parser = ThreadPoolExecutor(1, "medprompt-parse")  # JSON takes many times its size
        self._decoders = ThreadPoolExecutor(max(2, cpu_cores()), "medprompt-decode")
        self._allowed = Allowance(AHEAD_BYTES)

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.worker.state == "ready"

    def metadata(self) -> dict[str, Any]:
        """The model, as the protocol states it, and what it is made of."""
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": "medprompt",
            "inputs": _tensors(contract.INPUTS),
            "outputs": _tensors(contract.outputs_of(self.bundle.manifest)),
            "parameters": self.parameters(),
        }

    def parameters(self) -> dict[str, str]:
        """Which bundle it is, on which engine, with which prompts; see ``contract``."""
        return {
            contract.BUNDLE_SHA256: self.bundle.sha256,
            contract.ENGINE: self.worker.detector.choice.device,
            contract.VERSION: OUR_VERSION,
            contract.BANKS: json.dumps(self.worker.prompting.names),
            "intended_use": self.bundle.manifest.intended_use,
        }

    @asynccontextmanager
    async def admitted(self, images: int) -> AsyncIterator[None]:
        """Room for so many images, until they are answered.

        Raises:
            ServerError: There is none now, or the engine does not answer.
        """
        self.worker.check_ready()
        if not self.places.take(images):
            raise busy(self.places.most)
        try:
            yield
        finally:
            self.places.give(images)

    @asynccontextmanager
    async def answers(
        self, images: Sequence[Content], asked: Asked, *, keep: bool = False
    ) -> AsyncIterator[list[Answer]]:
        """What was found in each image; with its pixels where they are to be kept.

        Raises:
            ImageError: One cannot be read; ``where`` says which.
            BankError: See ``medprompt.runtime.serving.prompting``.
            EngineError, ServerError: The engine failed.
        """
        loop, works = asyncio.get_running_loop(), [_Work(keep) for _ in images]
        names = ["image"] if len(images) == 1 else [f"image {index} of the request" for index in range(len(images))]
        begun = [
            loop.run_in_executor(self._decoders, self._begin, work, image, name, asked)
            for work, image, name in zip(works, images, names, strict=True)
        ]
        try:
            await asyncio.gather(*begun)
            found = await asyncio.gather(*(asyncio.wrap_future(work.future) for work in works))
            self.metrics.images.inc(len(found))
            self.metrics.detections.inc(sum(map(len, found)))
            yield [
                Answer(work.detector, work.picture, one, work.sha256) for work, one in zip(works, found, strict=True)
            ]
        finally:
            for work in works:
                work.end()

    def close(self) -> None:
        """Answer what was accepted, then free the engine."""
        self.worker.stop()
        for pool in (self.parser, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, work: _Work, image: Content, name: str, asked: Asked) -> None:
        """In a thread: decode as soon as there is memory for it, and line up."""
        self._allowed.wait()
        if work.ended:
            return
        if isinstance(image, bytes):
            work.sha256 = hashlib.sha256(image).hexdigest()
            work.picture = picture_from_bytes(image, name, asked.frame)
        else:
            work.picture = Picture(image)
        pixels = work.hold(self._allowed)
        work.detector, work.future = self.worker.submit(pixels, asked)
        work.future.add_done_callback(lambda _: work.release())
        if work.ended:
            work.future.cancel()

    def _waiting(self) -> float:
        return float(len(self.worker.line)) if self.worker.state == "ready" else 0.0


class _Work:
    """One image on its way. Once it is answered its pixels are let go, unless they are to be kept."""

    picture: Picture
    detector: Detector

    def __init__(self, keep: bool) -> None:
        self.keep, self.ended, self.sha256, self.future = keep, False, "", Future[Detections]()
        self._lock, self._held = Lock(), 0
        self._allowed: Allowance | None = None

    def hold(self, allowed: Allowance) -> NDArray[np.uint8]:
        """Take the memory of its pixels into account, and return them."""
        pixels = self.picture.pixels
        self._allowed = allowed
        allowed.use(pixels.nbytes)
        with self._lock:
            self._held = pixels.nbytes
        if not self.keep:
            self.picture = replace(self.picture, pixels=NO_PIXELS)
        if self.ended:
            self.release()
        return pixels

    def end(self) -> None:
        """Nobody waits for it any more."""
        self.ended = True
        self.future.cancel()
        self.release()

    def release(self) -> None:
        """Give the memory back; doing so twice is allowed."""
        with self._lock:
            held, self._held = self._held, 0
        if self._allowed is not None:
            self._allowed.use(-held)


def busy(most: int) -> ServerError:
    """The answer to one too many."""
    return ServerError(
        "The server has its hands full.", expected=f"at most {most} images at once", fix="ask again later", status=503
    )


def _tensors(specs: dict[str, tuple[str, tuple[int, ...]]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": kind, "shape": list(shape)} for name, (kind, shape) in specs.items()]
