"""The one thread that asks the engine: loads it, proves it, answers what waits in line, proves it after a failure."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, OutOfMemoryError, ServerError
from medprompt.images.resize import batch_key
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.batch import batch_of, place_of
from medprompt.runtime.detector import Detector
from medprompt.runtime.pipeline import Steps, in_flight
from medprompt.runtime.prompt_cache import PromptSet
from medprompt.runtime.selection.selftest import check_golden, tolerance_of_device
from medprompt.runtime.serving.contract import Asked
from medprompt.runtime.serving.line import Job, Line
from medprompt.runtime.serving.prompting import Prompting


class ServingDetector(Detector):
    """A detector that says how large the batches are that its engine is asked."""

    on_batch: Callable[[int], None] = staticmethod(lambda size: None)

    def submit(self, image_feeds: Mapping[str, NDArray[Any]], prompt_set: PromptSet) -> Any:
        """See ``Detector.submit``."""
        self.on_batch(len(image_feeds["image"]))
        return super().submit(image_feeds, prompt_set)


State = Literal["starting", "ready", "failed", "stopped"]

_log = logging.getLogger(__name__)


class Worker:
    """An engine in a thread of its own, and the line before it.

    Args:
        bundle: The verified bundle.
        banks: Prompts by name, see ``banks_by_name``.
        load: Loads the detector, self-test included; called in the thread.
        batch: Most images of a batch; what the engine gains from where None, see ``batch_of``.
        delay_s: How long an image may be late for the sake of a batch.
    """

    def __init__(
        self,
        bundle: Bundle,
        banks: Mapping[str, PromptBank],
        load: Callable[[], Detector],
        *,
        batch: int | None = None,
        delay_s: float = 0.005,
    ) -> None:
        self.state: State = "starting"
        self.failure: Exception | None = None
        self.batch = 1
        self._bundle, self._banks, self._load = bundle, banks, load
        self._wanted, self._delay_s = batch, delay_s
        self._loaded, self._stopping = threading.Event(), threading.Event()
        self._doubted = False
        self._thread = threading.Thread(target=self._run, name="medprompt-serve", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def wait_loaded(self) -> None:
        """Wait until it is ready or has failed.

        Raises:
            MedpromptError: Why it could not load.
        """
        self._loaded.wait()
        if self.failure is not None:
            raise self.failure

    def stop(self, wait_s: float = 30.0) -> None:
        """Answer what waits, then free the engine."""
        self._stopping.set()
        if self._loaded.is_set() and self.failure is None:
            self.line.close()
            self._thread.join(wait_s)
        self.state = "stopped"

    def submit(self, image_rgb: NDArray[np.uint8], asked: Asked) -> tuple[Detector, Future[Detections]]:
        """Line an image up, uint8 ``[H, W, 3]``: the detector that answers, and the answer to come.

        Raises:
            ServerError: The engine does not answer now.
            BankError: See ``Prompting.detector``.
            ImageError: An image that the model has no size for.
        """
        self.check_ready()
        detector = self.prompting.detector(asked)
        kind = self._kind(image_rgb, detector)
        job = Job(kind, detector.steps(image_rgb))
        self.line.put(job)
        return detector, job.answer

    def check_ready(self) -> None:
        """Refuse where no answer is to be had now.

        Raises:
            ServerError: See there.
        """
        if self.state != "ready":
            raise ServerError(f"The server is not ready: {self.state}.", fix="ask again later", status=503)

    def _kind(self, image_rgb: NDArray[np.uint8], detector: Detector) -> Hashable:
        size_hw = (image_rgb.shape[0], image_rgb.shape[1])
        key = size_hw if detector.engine.resizes else batch_key(size_hw, detector.manifest.preprocess)
        return (*key, id(detector.prompts.whole))

    def _run(self) -> None:
        try:
            self.detector = self._load()
            self.prompting = Prompting(self.detector, self._banks)
        except Exception as error:
            self.failure, self.state = error, "failed"
            self._loaded.set()
            return
        self.batch = self._wanted or batch_of(self.detector)
        self.line = Line(self.batch, self._delay_s)
        self.state = "ready"
        self._loaded.set()
        try:
            self._serve()
        finally:
            self.prompting.close()
            self.detector.close()

    def _serve(self) -> None:
        while not self.line.ended:
            works = map(self._work, self.line)
            try:
                answered = in_flight(
                    self.detector, works, ready=self.line.ready, starved=lambda: True, batch=self.batch
                )
                deque(answered, maxlen=0)
            except Exception as error:  # of the pipeline itself: no job is lost, and the engine has to prove itself
                _log.exception("the engine's thread failed: %s", place_of(error))
                self._doubted = True
            if self._doubted:
                self._prove_again()

    def _work(self, job: Job) -> Steps[None]:
        try:
            found = yield from job.steps
        except GeneratorExit:
            job.answer.set_exception(ServerError("The engine's thread broke off.", status=500))
            raise
        except Exception as error:
            if isinstance(error, EngineError) and not isinstance(error, OutOfMemoryError):
                self._doubt()
            job.answer.set_exception(error)
        else:
            if self._doubted:  # by another request that was in flight beside it
                job.answer.set_exception(ServerError("The engine failed meanwhile.", fix="ask again later", status=503))
            else:
                job.answer.set_result(found)

    def _doubt(self) -> None:
        self._doubted, self.state = True, "failed"
        self.line.pause()

    def _prove_again(self) -> None:
        """The golden images, after an error of the engine: it serves on only if it still decides as PyTorch did."""
        self._doubted = False
        why = ""
        try:
            passed = self._golden_pass()
        except Exception as error:
            passed, why = False, f": {place_of(error)}"
        if passed:
            self.state = "ready"
            _log.warning("the engine failed a request, then passed its self-test: it serves on")
            return
        _log.error("the engine failed a request, and its self-test: not ready from here on%s", why)
        failure = ServerError("The engine failed.", fix="restart the server", status=503)
        for job in self.line.empty():
            job.answer.set_exception(failure)
        while not self._stopping.wait(1.0):
            for job in self.line.empty():
                job.answer.set_exception(failure)

    def _golden_pass(self) -> bool:
        choice = self.detector.choice
        precision = choice.record.precision if choice.record else None
        tolerance = tolerance_of_device(self._bundle, choice.device, precision)
        with self.detector.share(self._bundle.bank, threshold=0.0) as proving:
            return check_golden(self._bundle, proving, tolerance).passed
