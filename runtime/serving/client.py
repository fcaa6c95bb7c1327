"""A client of any server that keeps the contract: `medprompt serve`, Triton, KServe. The standard library and numpy."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import InputError, ServerError
from medprompt.runtime.serving.contract import (
    BANKS,
    BUNDLE_SHA256,
    ENGINE,
    IMAGE,
    PIXELS,
    VERSION,
    Asked,
    Found,
    found_from_outputs,
)
from medprompt.runtime.serving.protocol import HEADER_LENGTH, Message, body_from_message, message_from_body

TIMEOUT_S = 60.0
MAX_ANSWER = 1 << 28
"""Bytes of an answer that are read: a server that errs must not fill the memory."""


@dataclass(frozen=True)
class Served:
    """What a server says of its model; texts are empty where it does not say."""

    name: str
    bundle_sha256: str
    engine: str
    version: str
    banks: tuple[str, ...]


class Client:
    """Asks one server, a request at a time. Threads need a client each.

    Args:
        url: Such as ``http://localhost:8000``, or ``…/v2/models/NAME`` where the server has several models.
        token: The access token, where the server wants one.
        timeout_s: Seconds that it may take to connect, or to say something.

    Raises:
        InputError: Another kind of URL.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            expected = "http://HOST:PORT or https://HOST:PORT, without a name or a password"
            raise InputError("This is not a server's address.", where="url", expected=expected)
        base, marker, model = parts.path.rstrip("/").partition("/v2/models/")
        self.url = f"{parts.scheme}://{parts.netloc}{base}"
        self._parts, self._base, self._token, self._timeout_s = parts, base.removesuffix("/v2"), token, timeout_s
        self._model = model if marker else ""

    def live(self) -> bool:
        """Whether it says that it runs."""
        return self._get("/v2/health/live", refused_too=True)[0] == http.client.OK

    def ready(self) -> bool:
        """Whether it says that it answers."""
        return self._get("/v2/health/ready", refused_too=True)[0] == http.client.OK

    @property
    def model(self) -> str:
        """The model's name: the one asked for, or the server's only one.

        Raises:
            ServerError: It has several, or none.
        """
        if not self._model:
            index = self._json("POST", "/v2/repository/index", b"{}")
            names = sorted({str(entry.get("name")) for entry in index if isinstance(entry, dict)})
            if len(names) != 1:
                fix = "name one: --url …/v2/models/NAME"
                got = ", ".join(names) or "none"
                raise ServerError("The server has not one model.", where=self.url, expected="one", got=got, fix=fix)
            self._model = names[0]
        return self._model

    def served(self) -> Served:
        """What the server says of its model.

        Raises:
            ServerError: It cannot be reached, or does not know the model.
        """
        said = _strings(_mapping(self._json("GET", self._path())).get("parameters"))
        if BUNDLE_SHA256 not in said:  # Triton's metadata has no room for it
            status, body, _ = self._get(f"{self._path()}/config", refused_too=True)
            said = _strings(_mapping(_parsed(body)).get("parameters")) if status == http.client.OK else {}
        sha256, engine, version = (said.get(name, "") for name in (BUNDLE_SHA256, ENGINE, VERSION))
        banks = _parsed(said.get(BANKS, "[]").encode())
        return Served(self.model, sha256, engine, version, tuple(banks) if isinstance(banks, list) else ())

    def detect(
        self,
        images: Sequence[Path | bytes] | NDArray[np.uint8],
        asked: Asked | None = None,
        *,
        binary: bool = True,
    ) -> list[Found]:
        """Detect in several images, in one request.

        Args:
            images: Files, or what is in them; or pixels, uint8 RGB ``[B, H, W, 3]``.
            asked: With which prompts, and from which score on; the server's own where None.
            binary: Send and receive tensors as bytes; as JSON where not.

        Raises:
            ServerError: It cannot be reached, refuses, or answers what no server of the contract answers (``status``
                is then 200).
        """
        tensors = {PIXELS: images} if isinstance(images, np.ndarray) else {IMAGE: _column(images)}
        parameters = (asked or Asked()).as_parameters()
        body, length = body_from_message(Message(tensors, parameters, binary=binary), "inputs")
        headers = {} if length is None else {HEADER_LENGTH: str(length)}
        _, answer, said = self._request("POST", f"{self._path()}/infer", body, headers)
        try:
            outputs = message_from_body(answer, said.get(HEADER_LENGTH.lower()), "outputs").tensors
            return found_from_outputs(outputs, len(images))
        except InputError as error:
            fields = {"where": f"{self.url}: {error.where}", "expected": error.expected, "got": error.got}
            raise ServerError(error.problem, status=http.client.OK, fix=error.fix, **fields) from error

    def _path(self) -> str:
        return f"/v2/models/{quote(self.model, safe='/')}"

    def _json(self, method: str, path: str, body: bytes | None = None) -> Any:
        return _parsed(self._request(method, path, body)[1])

    def _get(self, path: str, *, refused_too: bool = False) -> tuple[int, bytes, Mapping[str, str]]:
        return self._request("GET", path, refused_too=refused_too)

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        refused_too: bool = False,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers. A request is sent once: whether a failed one was answered is not known."""
        own = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        connection = self._connection()
        try:
            connection.request(method, self._base + path, body, {**own, **(headers or {})})
            response = connection.getresponse()
            content = response.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                "The server cannot be reached, or broke off.",
                where=self.url,
                got=str(error) or type(error).__name__,
                fix="see whether it runs: GET /v2/health/ready",
            ) from error
        finally:
            connection.close()
        if response.status != http.client.OK and not refused_too:
            raise _refused(self.url, response.status, content)
        return response.status, content, {name.lower(): value for name, value in response.getheaders()}

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)


def _column(images: Sequence[Path | bytes]) -> NDArray[Any]:
    """``[B, 1]``."""
    column = np.empty((len(images), 1), object)
    column[:, 0] = [one if isinstance(one, bytes) else one.read_bytes() for one in images]
    return column


def _refused(url: str, status: int, content: bytes) -> ServerError:
    said = _mapping(_parsed(content)).get("error")
    fix = {401: "give the access token", 503: "ask again later", 404: "name a model that it has"}.get(status, "")
    got = f"{status}: {' '.join(str(said).split())}" if said else f"HTTP status {status}"
    return ServerError("The server refuses the request.", where=url, got=got, fix=fix, status=status)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(parameters: Any) -> dict[str, str]:
    """Parameters of metadata; Triton's configuration writes each as ``{"string_value": …}``."""
    values = {name: _mapping(one).get("string_value", one) for name, one in _mapping(parameters).items()}
    return {name: value for name, value in values.items() if isinstance(value, str)}
