"""Requests in flight: while an engine computes one, the next is prepared and the last is decoded.

What is done about an image is a generator of ``Steps``: it yields what the engine is to be asked, is sent the engine's
outputs, and returns the answer. ``finished`` drives one to its end, ``in_flight`` many at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import OutOfMemoryError
from medprompt.core.manifest import TensorSpec
from medprompt.runtime.prompt_cache import PromptSet

if TYPE_CHECKING:
    from medprompt.runtime.detector import Detector

Outputs = Mapping[str, NDArray[Any]]
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What an engine is asked about one image: the inputs that come from it, see ``Detector.image_feeds``."""

    image_feeds: Mapping[str, NDArray[Any]]
    prompt_set: PromptSet

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for requests that may be one batch."""
        return (id(self.prompt_set), *((name, feed.shape) for name, feed in self.image_feeds.items()))


Steps: TypeAlias = Generator[Request, Outputs, T]


def finished(detector: Detector, steps: Steps[T]) -> T:
    """Do what is to be done about one image, each request by itself."""
    try:
        request = next(steps)
        while True:
            request = steps.send(detector.outputs(request.image_feeds, request.prompt_set))
    except StopIteration as end:
        return cast(T, end.value)


def in_flight(
    detector: Detector,
    works: Iterable[Steps[T]],
    *,
    ready: Callable[[], bool] = lambda: True,
    starved: Callable[[], bool] = lambda: False,
    batch: int = 1,
) -> Iterator[T]:
    """Do what is to be done about many images; as many requests are in flight as the engine takes.

    Args:
        detector: Its engine is asked, from the thread that iterates.
        works: One an image. They are begun in their order, and an error in one, or in making one, is raised at its
            turn.
        ready: Whether ``works`` has its next. Until it has, what is in flight is waited for: nothing is late for the
            sake of what comes after it.
        starved: Whether ``works`` has no next before earlier ones are done; then a batch begins as it is.
        batch: Images that make one request, where several in a row are alike. A batch that fails is asked image by
            image.

    Yields:
        Their answers, in order.
    """
    pipeline: _Pipeline[T] = _Pipeline(detector, batch)
    source, failure = iter(works), None
    try:
        while True:
            while (pipeline.flying or (pipeline.waiting and starved())) and not ready():
                pipeline.land()
                yield from pipeline.answers()
            try:
                steps = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            pipeline.begin(steps)
            yield from pipeline.answers()
        while pipeline.flying or pipeline.waiting:
            pipeline.land()
            yield from pipeline.answers()
        if failure is not None:
            raise failure
    finally:
        pipeline.abandon()


class _Work(Generic[T]):
    """One image: its next request, or its answer, or the error instead."""

    def __init__(self, steps: Steps[T]) -> None:
        self.steps = steps
        self.request: Request | None = None
        self.answer: T | None = None
        self.error: Exception | None = None

    def advance(self, move: Callable[[], Request]) -> None:
        self.request = None
        try:
            self.request = move()
        except StopIteration as end:
            self.answer = end.value
        except Exception as error:
            self.error = error


class _Pipeline(Generic[T]):
    """Works in their order, those that wait to be one batch, and batches that are being computed."""

    def __init__(self, detector: Detector, batch: int) -> None:
        self.detector, self.batch = detector, batch
        self.order: deque[_Work[T]] = deque()
        self.waiting: list[_Work[T]] = []
        self.flying: deque[tuple[list[_Work[T]], Any]] = deque()
        self.landed: deque[tuple[list[_Work[T]], Outputs | Exception]] = deque()

    def begin(self, steps: Steps[T]) -> None:
        """Prepare, and ask as soon as a batch is full."""
        work = _Work(steps)
        self.order.append(work)
        work.advance(lambda: next(steps))
        self._line_up(work)
        self._settle()

    def land(self) -> None:
        """Wait for the oldest request; where none is in flight, send what waits."""
        if self.flying:
            self.landed.append(self._awaited())
        else:
            self._send_waiting()
        self._settle()

    def answers(self) -> Iterator[T]:
        """Those at the head of the order that are there."""
        while self.order and self.order[0].request is None:
            work = self.order.popleft()
            if work.error is not None:
                raise work.error
            yield cast(T, work.answer)

    def abandon(self) -> None:
        """Wait for what is in flight, and use none of it."""
        while self.flying:
            with suppress(Exception):
                self._awaited()
        for work in self.order:
            work.steps.close()

    def _line_up(self, work: _Work[T]) -> None:
        if work.request is None:
            return
        if self.waiting and _request(self.waiting[0]).kind != work.request.kind:
            self._send_waiting()
        self.waiting.append(work)
        if len(self.waiting) >= self.batch:
            self._send_waiting()

    def _send_waiting(self) -> None:
        group, self.waiting = self.waiting, []
        self._send(group)

    def _send(self, group: list[_Work[T]]) -> None:
        """Ask. What has to land for it is gone on with later, so that the engine never waits for its caller."""
        if len(self.flying) >= self.detector.engine.in_flight:
            self.landed.append(self._awaited())
        requests = [_request(work) for work in group]
        try:
            feeds = _joined(requests, self.detector.manifest.inputs)
            pending = self.detector.submit(feeds, requests[0].prompt_set)
        except Exception as error:
            self.landed.append((group, error))
        else:
            self.flying.append((group, pending))

    def _settle(self) -> None:
        """Go on with all that landed; it may ask again, and make others land."""
        while self.landed:
            self._hand_out(*self.landed.popleft())

    def _awaited(self) -> tuple[list[_Work[T]], Outputs | Exception]:
        group, pending = self.flying[0]
        answer: Outputs | Exception
        try:
            answer = self.detector.engine.collect(pending)
        except Exception as error:
            answer = error
        self.flying.popleft()  # now, so that an interrupt leaves it to ``abandon``
        return group, answer

    def _hand_out(self, group: list[_Work[T]], answer: Outputs | Exception) -> None:
        if isinstance(answer, Exception) and len(group) > 1:
            if isinstance(answer, MemoryError | OutOfMemoryError):
                _log.warning("a batch of %d images did not fit into the memory and was asked one by one", len(group))
            for work in group:
                self._send([work])
            return
        for place, work in enumerate(group):
            self._go_on(work, answer if isinstance(answer, Exception) else _part(answer, place, len(group)))

    def _go_on(self, work: _Work[T], answer: Outputs | Exception) -> None:
        prompt_set = _request(work).prompt_set
        try:
            if isinstance(answer, Exception):
                raise answer  # noqa: TRY301  # as if the engine had raised it here
            self.detector.check(answer, 1, prompt_set)
        except Exception as error:
            failure = error
            work.advance(lambda: work.steps.throw(failure))
        else:
            work.advance(lambda: work.steps.send(answer))
        self._line_up(work)


def _request(work: _Work[Any]) -> Request:
    """Of a work that waits or is in flight."""
    return cast(Request, work.request)


def _joined(requests: Sequence[Request], specs: Iterable[TensorSpec]) -> Mapping[str, NDArray[Any]]:
    """The image inputs of requests of one kind as one batch."""
    if len(requests) == 1:
        return requests[0].image_feeds
    by_image = {spec.name for spec in specs if spec.shape[:1] == ("B",)}
    return {
        name: np.concatenate([one.image_feeds[name] for one in requests]) if name in by_image else feed
        for name, feed in requests[0].image_feeds.items()
    }


def _part(outputs: Outputs, place: int, count: int) -> Outputs:
    """One image's outputs, still as a batch; of outputs that are not of ``count`` images all, which no check passes."""
    if count == 1:
        return outputs
    return {name: value[place : place + 1] if len(value) == count else value for name, value in outputs.items()}
