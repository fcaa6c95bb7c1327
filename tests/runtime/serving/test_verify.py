"""``medprompt verify --url``: a good server passes; each way of being wrong without an error is seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.bundles.load import Bundle
from medprompt.core.detections import Detections
from medprompt.core.errors import InputError
from medprompt.runtime.serving import app, verify
from medprompt.runtime.serving.contract import outputs_from_detections
from medprompt.runtime.serving.verify import verify_endpoint
from tests.runtime.bundles import make_bundle
from tests.runtime.serving.conftest import TOKEN, Running
from tests.shared import Cli

Outputs = dict[str, Any]


def test_a_good_server_passes_whichever_way_it_is_asked(bundle: Bundle, server: Running) -> None:
    found = verify_endpoint(bundle, server.url, TOKEN)
    assert found.passed
    assert found.served.engine == "ort-cpu"
    assert [(way, parity.images, parity.max_score_delta) for way, parity in found.parities] == [
        (way, 4, 0.0)
        for way in ("files, each alone", "files together", "pixels, each alone", "pixels together", "pixels as JSON")
    ]


def nothing_found(found: Sequence[Detections]) -> Outputs:
    """What a backend answers that was handed a constant image: no detections, and no error."""
    return outputs_from_detections([one[:0] for one in found])


def swapped_boxes(found: Sequence[Detections]) -> Outputs:
    outputs = outputs_from_detections(found)
    return {**outputs, "boxes": outputs["boxes"][..., [1, 0, 3, 2]]}


def images_in_another_order(found: Sequence[Detections]) -> Outputs:
    return outputs_from_detections(found[::-1])


def dropped(found: Sequence[Detections]) -> Outputs:
    return outputs_from_detections(found[:-1])


def last_of_several_empty(found: Sequence[Detections]) -> Outputs:
    return outputs_from_detections([*found[:-1], found[-1][:0]] if len(found) > 1 else found)


def other_labels(found: Sequence[Detections]) -> Outputs:
    outputs = outputs_from_detections(found)
    return {**outputs, "labels": np.where(outputs["labels"] == b"WBC", b"RBC", b"WBC").astype(object)}


def unknown_labels(found: Sequence[Detections]) -> Outputs:
    outputs = outputs_from_detections(found)
    return {**outputs, "labels": np.full_like(outputs["labels"], b"Ghost")}


def nan_scores(found: Sequence[Detections]) -> Outputs:
    outputs = outputs_from_detections(found)
    return {**outputs, "scores": outputs["scores"] * np.float32(np.nan)}


def no_boxes(found: Sequence[Detections]) -> Outputs:
    return {name: value for name, value in outputs_from_detections(found).items() if name != "boxes"}


def miscounted(found: Sequence[Detections]) -> Outputs:
    outputs = outputs_from_detections(found)
    return {**outputs, "num_detections": np.maximum(outputs["num_detections"] - 1, 0)}


@pytest.mark.parametrize(
    "fault",
    [
        nothing_found,
        swapped_boxes,
        images_in_another_order,
        dropped,
        last_of_several_empty,
        other_labels,
        unknown_labels,
        nan_scores,
        no_boxes,
        miscounted,
    ],
)
def test_a_faulty_server_is_seen(
    bundle: Bundle,
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
    fault: Callable[[Sequence[Detections]], Outputs],
) -> None:
    monkeypatch.setattr(app, "outputs_from_detections", fault)
    monkeypatch.setenv("MEDPROMPT_TOKEN", TOKEN)
    code, _, said = cli("verify", bundle.path, "--url", server.url)
    assert code == 3, said


def test_the_command(
    bundle: Bundle, server: Running, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    code, said, _ = cli("verify", bundle.path, "--url", server.url, "--token-file", token, "--json")
    assert code == 0
    assert json.loads(said)["served"]["bundle_sha256"] == bundle.sha256
    code, _, said = cli("verify", bundle.path, "--url", server.url)
    assert (code, "access token" in said) == (2, True)
    code, _, said = cli("verify", bundle.path, "--url", "http://127.0.0.1:9")
    assert (code, "cannot be reached" in said) == (2, True)
    code, _, said = cli("verify", make_bundle(tmp_path / "other").path, "--url", server.url, "--token-file", token)
    assert (code, "another bundle" in said) == (2, True)
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)
    monkeypatch.setattr(verify, "check_decisions", lambda *_: pytest.fail("nothing was answered"))
    assert server.service.places.take(server.service.limits.queue)
    try:
        code, _, said = cli("verify", bundle.path, "--url", server.url, "--token-file", token)
    finally:
        server.service.places.give(server.service.limits.queue)
    assert (code, "stays busy" in said) == (4, True)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://user:word@x", "http://x/?token=y"])
def test_no_address(bundle: Bundle, url: str) -> None:
    with pytest.raises(InputError, match="not a server's address"):
        verify_endpoint(bundle, url)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "no access token"),
        (["--host", "0.0.0.0", "--token-file", "short"], "no good"),
        (["--token-file", "absent"], "cannot be read"),
        (["--prompts", "absent"], "absent"),
        (["--host", "no.such.host.invalid", "--no-token"], "no address"),
    ],
)
def test_serve_refuses_to_start(bundle: Bundle, cli: Cli, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "short").write_text("secret")
    given = [str(tmp_path / word) if word in ("short", "absent") else word for word in words]
    code, _, told = cli("serve", bundle.path, *given)
    assert (code, said in told, "secret" in told) == (2, True, False), told
