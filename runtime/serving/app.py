"""The endpoints: the Open Inference Protocol v2, one picture in and its results out, metrics, and a page."""

from __future__ import annotations

import asyncio
import hashlib
import json
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from medprompt.core.errors import ImageError, InputError, ServerError
from medprompt.core.overlay import draw_overlay
from medprompt.results.run import Item
from medprompt.runtime.serving import contract
from medprompt.runtime.serving.contract import Asked, asked_from_parameters, outputs_from_detections
from medprompt.runtime.serving.guard import Guard
from medprompt.runtime.serving.pictures import Content, images_of_tensors
from medprompt.runtime.serving.protocol import HEADER_LENGTH, Message, body_from_message, message_from_body
from medprompt.runtime.serving.service import OUR_VERSION, Answer, Service

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
PNG = "image/png"

SMALL, FEW = 1 << 18, 1000
"""Bytes of a request, and detections of an answer, that the event loop itself reads and writes in milliseconds."""


def application(service: Service, token: str | None) -> Guard:
    """The ASGI application of a service; ``token`` is the access token, None where none is wanted."""
    endpoints = _Endpoints(service)
    routes = [
        Route("/v2", endpoints.server),
        Route("/v2/health/live", endpoints.live),
        Route("/v2/health/ready", endpoints.ready),
        Route("/v2/repository/index", endpoints.index, methods=["POST"]),
        *(
            route
            for path in ("/v2/models/{name}", "/v2/models/{name}/versions/1")
            for route in (
                Route(path, endpoints.model),
                Route(f"{path}/ready", endpoints.model_ready),
                Route(f"{path}/config", endpoints.config),
                Route(f"{path}/infer", endpoints.infer, methods=["POST"]),
            )
        ),
        Route("/v1/detect", endpoints.detect, methods=["POST"]),
        Route("/metrics", endpoints.metrics),
        *(Route(path, endpoints.page) for path in PAGE),
    ]
    # The router alone: an application of Starlette's would answer what fails before the guard does.
    return Guard(Router(routes, redirect_slashes=False, default=_NOT_THERE), service, token)


_NOT_THERE = JSONResponse({"error": "There is no such address; see `medprompt docs serve`."}, 404)


class _Endpoints:
    """What each address answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, request: Request) -> Response:
        """The server's metadata."""
        return JSONResponse({"name": "medprompt", "version": OUR_VERSION, "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        """Whether the process runs."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether requests are answered: after the self-test, and until the engine fails."""
        state = self._service.worker.state
        return JSONResponse({"ready": self._service.ready, "state": state}, 200 if self._service.ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """The same, of the model."""
        self._check_name(request)
        return await self.ready(request)

    async def index(self, request: Request) -> Response:
        """The models there are: one."""
        state = "READY" if self._service.ready else "UNAVAILABLE"
        return JSONResponse([{"name": self._service.name, "version": "1", "state": state}])

    async def model(self, request: Request) -> Response:
        """The model's metadata."""
        self._check_name(request)
        self._service.worker.check_ready()
        return JSONResponse(self._service.metadata())

    async def config(self, request: Request) -> Response:
        """The model's configuration, in Triton's words."""
        self._check_name(request)
        self._service.worker.check_ready()
        parameters = {name: {"string_value": value} for name, value in self._service.parameters().items()}
        batching = {"max_batch_size": self._service.worker.batch}
        return JSONResponse({"name": self._service.name, "platform": "medprompt", **batching, "parameters": parameters})

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._service.metrics.text(), media_type=self._service.metrics.content_type)

    async def page(self, request: Request) -> Response:
        """A page for people: upload a picture, see boxes."""
        name, kind = PAGE[request.url.path]
        return Response((files(__package__) / name).read_bytes(), media_type=kind)

    async def infer(self, request: Request) -> Response:
        """Inference."""
        self._check_name(request)
        async with self._service.admitted(1):
            message = await self._message(request.state.body, request.headers.get(HEADER_LENGTH))
            images, asked = images_of_tensors(message.tensors), asked_from_parameters(message.parameters)
            self._check_images(images, asked)
            async with self._service.admitted(len(images) - 1), self._service.answers(images, asked) as found:
                if sum(len(one.found) for one in found) > FEW or any(one.found.masks is not None for one in found):
                    return await asyncio.to_thread(self._inferred, message, found)
                return self._inferred(message, found)

    async def _message(self, body: bytes, header_length: str | None) -> Message:
        """A small body here and now, for another thread would cost more; of large ones one at a time."""
        if len(body) <= SMALL:
            return message_from_body(body, header_length)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._service.parser, message_from_body, body, header_length)

    def _inferred(self, message: Message, found: list[Answer]) -> Response:
        said = {contract.WARNINGS: _json([one.warnings for one in found])} if any(one.warnings for one in found) else {}
        outputs = outputs_from_detections([one.found for one in found])
        unknown = sorted(set(message.wanted) - set(outputs))
        if unknown:
            expected = ", ".join(outputs)
            raise InputError("There is no such output.", where="outputs", expected=expected, got=", ".join(unknown))
        answer = Message(outputs, said, message.id, message.wanted, message.binary)
        body, length = body_from_message(answer, "outputs", {"model_name": self._service.name, "model_version": "1"})
        headers = {} if length is None else {HEADER_LENGTH: str(length)}
        return Response(
            body, headers=headers, media_type="application/json" if length is None else "application/octet-stream"
        )

    async def detect(self, request: Request) -> Response:
        """One picture as the body, and its results file; or the picture with boxes, by Accept."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            fix = "curl --data-binary @PICTURE"
            raise ServerError("The body is not a picture.", expected="the file itself", fix=fix, status=415)
        asked = asked_from_parameters(dict(request.query_params))
        drawn = PNG in request.headers.get("accept", "")
        async with self._service.admitted(1):
            try:
                async with self._service.answers([request.state.body], asked, keep=drawn) as (answer,):
                    if drawn:
                        return Response(await asyncio.to_thread(_overlay, answer), media_type=PNG)
                    return JSONResponse(answer.as_run(asked.frame).as_json())
            except ImageError as error:
                self._service.metrics.errors.labels(f"image_{error.code or 'unreadable'}").inc()
                return JSONResponse(
                    {"error": str(error), "kind": "image", **_refused_item(error, request.state.body)}, 422
                )

    def _check_name(self, request: Request) -> None:
        if request.path_params["name"] != self._service.name:
            raise ServerError("There is no such model.", expected=self._service.name, status=404)

    def _check_images(self, images: list[Content], asked: Asked) -> None:
        limits = self._service.limits
        if len(images) > limits.max_images:
            expected, got = f"at most {limits.max_images}", str(len(images))
            raise ServerError("The request has too many images.", expected=expected, got=got, status=413)
        if not isinstance(images[0], bytes):
            if asked.frame is not None:
                raise InputError("Pixels have no frames.", where="frame", fix="leave it out")
            height, width = images[0].shape[:2]
            if not 0 < height * width <= limits.max_pixels:
                expected = f"1 … {limits.max_pixels:,} pixels"
                raise InputError(
                    "The image has too many pixels, or none.", expected=expected, got=f"{width} x {height}"
                )


def _overlay(answer: Answer) -> bytes:
    stream = BytesIO()
    draw_overlay(answer.picture.pixels, answer.found).save(stream, "PNG")
    return stream.getvalue()


def _refused_item(error: ImageError, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    item = Item(Path("image"), None, error=str(error), code=error.code, sha256=sha256)
    return {"items": [item.as_json()]}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
