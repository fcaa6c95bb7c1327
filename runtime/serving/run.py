"""`medprompt serve`: a bundle behind HTTP, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core import picture
from medprompt.core.errors import InputError
from medprompt.core.interrupt import ends_heard_by
from medprompt.runtime.serving.app import application
from medprompt.runtime.serving.limits import Limits
from medprompt.runtime.serving.prompting import banks_by_name
from medprompt.runtime.serving.service import Service
from medprompt.runtime.serving.worker import ServingDetector, Worker

HEAD_S = 15.0
"""Seconds for a connection to send the head of its next request."""

BYTES_A_PIXEL = 8
"""Of a deflated file: three colours of 16 bits, and room for the rest of it."""

STOP_S = 60
"""Seconds for what was accepted to be answered, once the server is told to stop."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a bundle is served.

    Attributes:
        prompts: Banks that requests may name, the first of which is the default; the bundle's own where none.
        name: The model's name; the folder's where empty.
        host: Address to listen on.
        port: TCP port; 0 for a free one.
        token: What requests have to bring; None where anyone may ask.
        device: An engine's name, or ``auto``.
        threads: CPU threads of the engine; its own choice where None.
        at_once: Requests that a CPU engine computes at the same time, see ``Detector.load``.
        strict: Refuse any step down from the first engine.
        max_batch: Most images the engine is asked at once; what it gains from where None.
        max_delay_ms: How long an image may be late for the sake of a batch.
        limits: What is refused.
    """

    prompts: Sequence[Path] = ()
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    device: str = "auto"
    threads: int | None = None
    at_once: int = 1
    strict: bool = False
    max_batch: int | None = None
    max_delay_ms: float = 5.0
    limits: Limits = field(default_factory=Limits)


def serve(
    bundle: Bundle | Path | str,
    options: ServeOptions,
    *,
    on_listening: Callable[[str], None] = lambda url: None,
    on_ready: Callable[[Service], None] = lambda service: None,
    stop: threading.Event | None = None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT, then answer what was accepted and return.

    It listens at once and is ready once the engine has passed its self-test.

    Args:
        bundle: The bundle, or its folder.
        options: How.
        on_listening: Told the address.
        on_ready: Told once, from another thread.
        stop: Ends it as a signal does.

    Raises:
        InputError: Options, bank or bundle that cannot be used, or an address that cannot be listened on.
        EngineError, ParityError: No engine can serve here, or passes its self-test.
    """
    loaded = load_bundle(bundle)
    service = service_of(loaded, options)
    with _listening(options.host, options.port) as listener, _pixels_limited(options.limits.max_pixels):
        server = _Server(_config(service, options.token))
        threading.Thread(target=_watch, args=(service, server, on_ready), daemon=True).start()
        if stop is not None:
            threading.Thread(target=_stop_later, args=(server, stop), daemon=True).start()
        on_listening(_url(listener))
        service.worker.start()
        try:
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            service.close()
    if service.worker.failure is not None:
        raise service.worker.failure


def service_of(bundle: Bundle, options: ServeOptions) -> Service:
    """The service of a bundle, its engine not yet loaded.

    Raises:
        InputError: See ``serve``.
    """
    if (options.max_batch is not None and options.max_batch < 1) or options.max_delay_ms < 0:
        raise InputError("The batch is out of range.", where="max_batch, max_delay_ms", expected="from 1, and from 0")

    def load() -> ServingDetector:
        detector = ServingDetector.load(
            bundle,
            options.device,
            threads=options.threads,
            at_once=options.at_once,
            strict=options.strict,
            self_test=True,
        )
        detector.on_batch = service.metrics.batches.observe
        return detector

    worker = Worker(
        bundle,
        banks_by_name(bundle, [Path(path) for path in options.prompts]),
        load,
        batch=options.max_batch,
        delay_s=options.max_delay_ms / 1000,
    )
    service = Service(
        options.name or bundle.path.resolve().name.removesuffix(".bundle"), bundle, worker, options.limits
    )
    return service


class _Patient(H11Protocol):
    """HTTP that gives a connection only so long for the head of its next request; uvicorn would wait for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._arm()
        super().on_response_complete()

    def _arm(self) -> None:
        self._disarm()
        self._late = self.loop.call_later(HEAD_S, self._close_if_idle)

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class _Server(uvicorn.Server):
    """Stops by signals as uvicorn does, but returns then: the work was done, and the exit code is 0."""

    def stop(self) -> None:
        """Accept nothing more, answer what was accepted, return."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with ends_heard_by(self.handle_exit):
            yield


def _stop_later(server: _Server, stop: threading.Event) -> None:
    stop.wait()
    server.stop()


def _config(service: Service, token: str | None) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # its words can hold a request's
    return uvicorn.Config(
        application(service, token),
        http=_Patient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(HEAD_S),
        timeout_graceful_shutdown=STOP_S,
    )


def _watch(service: Service, server: _Server, on_ready: Callable[[Service], None]) -> None:
    """Say that it is ready, or stop where it never will be."""
    try:
        service.worker.wait_loaded()
    except Exception:  # ``serve`` raises it
        server.stop()
    else:
        on_ready(service)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError("This is no address to listen on.", where="host, port", got=f"{host}, {port}") from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            got = error.strerror or ""
            raise InputError("The address is taken, or not ours.", where="host, port", got=got) from error
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _pixels_limited(most: int) -> Iterator[None]:
    """Of the whole process: decoders look it up before they decode, and before they inflate."""
    before = picture.MAX_PIXELS, picture.MAX_INFLATED
    picture.MAX_PIXELS, picture.MAX_INFLATED = min(most, before[0]), min(BYTES_A_PIXEL * most, before[1])
    try:
        yield
    finally:
        picture.MAX_PIXELS, picture.MAX_INFLATED = before
