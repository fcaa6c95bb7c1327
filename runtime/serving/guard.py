"""Around every request: the token, the sizes, the clock, and an answer whatever fails. The log holds no word of it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from medprompt.core.errors import (
    BankError,
    EngineError,
    ImageError,
    InputError,
    MedpromptError,
    OutOfMemoryError,
    ServerError,
)
from medprompt.runtime.batch import place_of
from medprompt.runtime.serving.limits import Limits
from medprompt.runtime.serving.protocol import HEADER_LENGTH, bytes_of_json
from medprompt.runtime.serving.service import Service

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/page.css", "/page.js", "/v2/health/live", "/v2/health/ready"})
"""What needs no token: a page without data, and what a probe asks."""

RETRY_AFTER_S = 1
LINGER_S = 5.0
"""How long what is refused is still taken in, so that the client reads the refusal and no broken connection."""

SECURITY = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_log = logging.getLogger(__name__)


class Guard:
    """An ASGI application around another.

    Args:
        app: Answers what is let through; the body is in ``scope["state"]["body"]``.
        service: What is served.
        token: The access token; None where none is wanted.
    """

    def __init__(self, app: App, service: Service, token: str | None) -> None:
        self._app, self._service, self._token = app, service, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        answer = _Answering(scope, receive, send, self._service.limits)
        began = time.monotonic()
        try:
            await self._answered(scope, answer)
        except _Disconnected:
            self._service.metrics.errors.labels("disconnected").inc()
            answer.status = 499
        except Exception as error:
            await self._refuse(scope, answer, error)
            error.__traceback__ = None  # it would keep the request in a circle, until it is collected
        endpoint, seconds = _endpoint(str(scope["path"])), time.monotonic() - began
        self._service.metrics.requests.labels(endpoint, str(answer.status)).inc()
        self._service.metrics.seconds.labels(endpoint).observe(seconds)
        _log.info("%s %s %d %.0f ms", scope["method"], endpoint, answer.status, seconds * 1000)

    async def _answered(self, scope: Scope, answer: _Answering) -> None:
        headers = _headers(scope["headers"])
        if scope["path"] not in OPEN and not self._may_enter(headers.get("authorization", "")):
            raise ServerError("The access token is missing or wrong.", fix="Authorization: Bearer TOKEN", status=401)
        size = _body_size(headers, self._service.limits.max_bytes) if scope["method"] == "POST" else 0
        if not self._service.bytes.take(size):
            raise ServerError("The server holds as many requests as it can.", fix="ask again later", status=503)
        try:
            scope.setdefault("state", {})["body"] = await answer.body(size)
            await answer.until_disconnect(self._app(scope, answer.receive, answer.send))
        finally:
            scope["state"].pop("body", None)
            self._service.bytes.give(size)

    def _may_enter(self, header: str) -> bool:
        if self._token is None:
            return True
        scheme, _, given = header.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())

    async def _refuse(self, scope: Scope, answer: _Answering, error: Exception) -> None:
        status, kind = status_of(error), kind_of_error(error)
        self._service.metrics.errors.labels(kind).inc()
        if status >= 500 and kind not in ("busy", "not_ready"):
            _log.error("a request failed: %s, %s", kind, place_of(error))
        if answer.begun:  # the connection is cut, for what was begun must not look whole
            raise ConnectionAbortedError from None
        answer.status = status
        await answer.linger()
        await answer.send_json(status, {"error": _text_of(error), "kind": kind})


class _Disconnected(Exception):
    """The client left."""


class _Answering:
    """One request's two directions, each against the clock."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self.begun, self.status, self._whole = False, 0, False

    async def body(self, size: int) -> bytes:
        """The request's body.

        Raises:
            ServerError: It did not come in time.
            _Disconnected: The client left.
        """
        try:
            async with asyncio.timeout(self._limits.body_s):
                parts = bytearray()
                while not self._whole and len(parts) <= size:
                    parts += await self._part()
        except TimeoutError as error:
            self._whole = True
            got = f"{len(parts):,} of {size:,} bytes"
            raise ServerError("The request did not come in time.", got=got, status=408) from error
        if len(parts) != size:
            raise InputError("The request is not as long as it says.", where="Content-Length")
        return bytes(parts)

    async def until_disconnect(self, work: Awaitable[None]) -> None:
        """Do the work; end it where the client leaves before its answer begins, or time is over.

        Raises:
            _Disconnected: The client left.
            ServerError: Time is over.
        """
        task, left = asyncio.ensure_future(work), asyncio.ensure_future(self._receive())
        try:
            done, _ = await asyncio.wait(
                {task, left}, timeout=self._limits.answer_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done or self.begun:
                return await task
        finally:
            for one in (task, left):
                one.cancel()
            await asyncio.gather(task, left, return_exceptions=True)
        if left in done:
            raise _Disconnected
        raise ServerError("There was no answer in time.", fix="ask again later", status=504)

    async def receive(self) -> Event:
        """Nothing more to receive."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, event: Event) -> None:
        """Send, unless the client does not take it in time."""
        if event["type"] == "http.response.start":
            self.begun, self.status = True, event["status"]
            event["headers"] = [*event.get("headers", []), *((k.encode(), v.encode()) for k, v in SECURITY.items())]
        async with asyncio.timeout(self._limits.send_s):
            await self._send(event)

    async def send_json(self, status: int, value: dict[str, Any]) -> None:
        """Send a whole answer."""
        content = bytes_of_json(value)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        if status == 503:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if not self._whole or status == 408:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content})

    async def linger(self) -> None:
        """Take in what still comes of a refused request, and forget it; a client that left needs no answer."""
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._whole:
                    await self._part()
        except (TimeoutError, _Disconnected):
            return

    async def _part(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise _Disconnected
        self._whole = not event.get("more_body", False)
        return bytes(event.get("body", b""))


def status_of(error: Exception) -> int:
    """The HTTP status that says what failed."""
    if isinstance(error, ServerError):
        return error.status or 500
    if isinstance(error, OutOfMemoryError | MemoryError):
        return 503
    if isinstance(error, InputError) and not isinstance(error, EngineError):
        return 400
    return 500


KINDS = {
    401: "unauthorized",
    404: "unknown_model",
    408: "timeout",
    411: "malformed",
    413: "too_large",
    415: "malformed",
    503: "busy",
    504: "timeout",
}


def kind_of_error(error: Exception) -> str:
    """Its kind, one of a few: what metrics, logs and clients tell errors apart by."""
    if isinstance(error, ImageError):
        return f"image_{error.code or 'unreadable'}"
    if isinstance(error, BankError):
        return "prompts"
    if isinstance(error, OutOfMemoryError | MemoryError):
        return "memory"
    if isinstance(error, ServerError):
        return "not_ready" if "not ready" in error.problem else KINDS.get(error.status or 0, "engine")
    if isinstance(error, EngineError):
        return "engine"
    return "malformed" if isinstance(error, InputError) else "internal"


def _text_of(error: Exception) -> str:
    """What the caller is told. The text of a foreign error can quote another's data, an engine's the server's paths."""
    if isinstance(error, EngineError):
        return error.problem
    return str(error) if isinstance(error, MedpromptError) else "The server failed unexpectedly."


ONCE = {"authorization", "content-length", "content-encoding", HEADER_LENGTH.lower()}
"""Headers of which two are two answers to one question: a proxy may have asked the other."""


def _headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    names = [name.decode("latin-1") for name, _ in pairs]
    twice = sorted(name for name in ONCE if names.count(name) > 1)
    if twice:
        raise InputError("A header comes twice.", where=", ".join(twice), expected="once")
    return dict(zip(names, (value.decode("latin-1") for _, value in pairs), strict=True))


def _body_size(headers: dict[str, str], most: int) -> int:
    if headers.get("content-encoding", "identity") != "identity":
        raise ServerError("Compressed requests are not read.", expected="Content-Encoding: identity", status=415)
    stated = "" if "transfer-encoding" in headers else headers.get("content-length", "0")
    if not (stated.isascii() and stated.isdecimal()):
        raise ServerError("The request does not say how long it is.", expected="Content-Length", status=411)
    if int(stated) > most:
        expected = f"at most {most:,} bytes"
        raise ServerError("The request is too large.", expected=expected, got=f"{int(stated):,}", status=413)
    return int(stated)


def _endpoint(path: str) -> str:
    """One of a few words: a path is the caller's own text."""
    for word in ("infer", "ready", "live", "config", "index"):
        if path.startswith("/v2/") and path.endswith(f"/{word}"):
            return f"v2_{word}"
    known = {"/v1/detect": "v1_detect", "/metrics": "metrics", "/": "page", "/v2": "v2_server"}
    return known.get(path, "v2_model" if path.startswith("/v2/models/") else "other")
