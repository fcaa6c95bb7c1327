"""The golden images through an endpoint, against what PyTorch decided: the wire is proven with the engine behind it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medprompt.bundles.load import GOLDEN_FILE, Bundle, load_bundle, load_golden
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError, NoVerdictError, ParityError, ServerError
from medprompt.core.manifest import ParityRecord
from medprompt.metrics.agreement import check_decisions
from medprompt.runtime.selection.selftest import tolerance_of_device
from medprompt.runtime.serving.client import Client, Served
from medprompt.runtime.serving.contract import OWN_BANK, Asked, Found

T = TypeVar("T")
Image = NDArray[np.uint8]

TOGETHER = 4
"""Images of one request."""

TRIES, PAUSE_S = 10, 1.0
"""How often a busy server is asked, and how long apart."""


@dataclass(frozen=True)
class EndpointVerification:
    """What was compared: the server, and each way of asking with its comparison."""

    served: Served
    parities: tuple[tuple[str, ParityRecord], ...]

    @property
    def passed(self) -> bool:
        """Whether it decides as PyTorch did, whichever way it is asked."""
        return all(parity.passed for _, parity in self.parities)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        ways = [{"way": way, **parity.model_dump(mode="json")} for way, parity in self.parities]
        return {"passed": self.passed, "served": asdict(self.served), "ways": ways}


def verify_endpoint(bundle: Bundle | Path | str, url: str, token: str | None = None) -> EndpointVerification:
    """Ask a server about a bundle's golden images, with the bundle's own prompts.

    Each is asked encoded (PNG, which keeps every pixel) and as pixels, alone and several in one request, as bytes and
    as JSON: a server that confuses the images of a batch, or loses what one way of asking brings, decides otherwise.

    Raises:
        ServerError: It cannot be reached, refuses, or serves another bundle.
        ParityError: It answers what no server of the contract answers.
        BundleError: The bundle has no golden images.
        NoVerdictError: It stays busy, or PyTorch decided nothing on the golden images that could be compared.
    """
    loaded = load_bundle(bundle)
    client = Client(url, token)
    served = client.served()
    if served.bundle_sha256 != loaded.sha256:
        raise ServerError(
            "The server serves another bundle.",
            where=client.url,
            expected=loaded.sha256,
            got=served.bundle_sha256 or "a server that does not say which",
            fix="serve this bundle, or verify with the one that is served",
        )
    golden = load_golden(loaded.path / GOLDEN_FILE, loaded.bank)
    images, references = [one.image_rgb for one in golden], [one.reference for one in golden]
    parities = tuple(
        (way, _parity(loaded, served, references, list(found), way)) for way, found in _ways(client, images)
    )
    if not all(parity.decisions for _, parity in parities):
        raise NoVerdictError("The golden images have no decision to compare.", where=str(loaded.path))
    return EndpointVerification(served, parities)


def _ways(client: Client, images: Sequence[Image]) -> Iterator[tuple[str, list[Found]]]:
    """Each way to ask about the images, with the answers in their order."""
    encoded = [_png(image) for image in images]
    yield "files, each alone", [_ask(client, [one])[0] for one in encoded]
    yield "files together", [found for part in _parts(encoded) for found in _ask(client, part)]
    yield "pixels, each alone", [_ask(client, image[None])[0] for image in images]
    yield "pixels together", _together(client, images)
    yield "pixels as JSON", [_ask(client, image[None], binary=False)[0] for image in images]


def _together(client: Client, images: Sequence[Image]) -> list[Found]:
    """Images of one shape in one request."""
    found: dict[int, Found] = {}
    for shape in {image.shape for image in images}:
        for part in _parts([place for place, image in enumerate(images) if image.shape == shape]):
            found.update(zip(part, _ask(client, np.stack([images[place] for place in part])), strict=True))
    return [found[place] for place in range(len(images))]


def _parts(items: list[T]) -> list[list[T]]:
    return [items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER)]


def _ask(client: Client, images: Sequence[bytes] | NDArray[np.uint8], *, binary: bool = True) -> list[Found]:
    """Ask, and again where the server is busy.

    Raises:
        ParityError: The answer is none that the contract knows.
        NoVerdictError: It stays busy.
    """
    for _ in range(TRIES):
        try:
            return client.detect(images, Asked(bank=OWN_BANK, threshold=0.0), binary=binary)
        except ServerError as error:
            if error.status == http.client.OK:
                raise ParityError(
                    error.problem, where=error.where, expected=error.expected, got=error.got, fix=error.fix
                ) from error
            if error.status != http.client.SERVICE_UNAVAILABLE:
                raise
            time.sleep(PAUSE_S)
    raise NoVerdictError("The server stays busy.", where=client.url, fix="verify again when it has less to do")


def _parity(
    bundle: Bundle, served: Served, references: Sequence[Detections], found: Sequence[Found], way: str
) -> ParityRecord:
    bank = bundle.bank
    try:
        pairs = [
            (reference, one.detections(bank.labels, bank.texts, reference.size_hw))
            for reference, one in zip(references, found, strict=True)
        ]
    except InputError as error:  # another class or phrase than the bundle's
        raise ParityError(error.problem, expected=error.expected, got=error.got, fix=error.fix) from error
    threshold = bank.least_threshold(bundle.manifest.default_threshold)
    tolerance = tolerance_of_device(bundle, served.engine)
    source = f"{len(pairs)} golden images of the bundle, {way}"
    return check_decisions(pairs, threshold, tolerance, source, bundle.manifest.postprocess.top_k)


def _png(image_rgb: Image) -> bytes:
    stream = BytesIO()
    Pillow.fromarray(image_rgb).save(stream, "PNG")
    return stream.getvalue()
