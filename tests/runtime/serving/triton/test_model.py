"""What the model answers within Triton's Python backend, and which backends and repositories it refuses."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import medprompt
from medprompt.bundles.load import GOLDEN_FILE, save_golden, write_manifest
from medprompt.core.errors import BundleError, EngineError, InputError, MedpromptError, ParityError
from medprompt.prompts.bank import save_bank
from medprompt.runtime import Detector
from medprompt.runtime.engines.ort import OnnxRuntime
from medprompt.runtime.serving.contract import Found, found_from_outputs
from medprompt.runtime.serving.triton import model as model_module
from medprompt.runtime.serving.triton.model import DetectorModel
from medprompt.runtime.serving.triton.repository import write_repository
from tests.runtime.bundles import make_bank, make_folder, make_manifest, record
from tests.runtime.serving.triton.backend import Backend, Request, Response

Load = Callable[..., DetectorModel]
IMAGES = [np.random.default_rng(seed).integers(40, 140, (16 + seed, 24, 3)).astype(np.uint8) for seed in range(3)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With golden images, as ONNX Runtime answers them."""
    folder = make_folder(tmp_path_factory.mktemp("triton") / "cells", engines=(record("ort-cpu"),))
    with Detector.load(folder, "ort-cpu", threshold=0.0, self_test=False) as detector:
        save_golden(folder / GOLDEN_FILE, IMAGES, [detector(image) for image in IMAGES])
    write_manifest(folder, make_manifest(engines=(record("ort-cpu"),)))
    return folder


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    loaded: list[DetectorModel] = []

    def call(repository: Path, backend: Backend | None = None, name: str = "cells") -> DetectorModel:
        monkeypatch.setattr(model_module, "triton_utils", lambda: backend or Backend())
        made = DetectorModel()
        made.initialize(triton_args(repository / name))
        loaded.append(made)
        return made

    yield call
    for one in loaded:
        one.finalize()


def triton_args(folder: Path) -> dict[str, str]:
    """What Triton hands over: the configuration as JSON, and where the model lies."""
    lines = [line for line in (folder / "config.pbtxt").read_text().splitlines() if line.startswith("parameters")]
    settings = {}
    for line in lines:
        key, value = line.removeprefix('parameters { key: "').removesuffix('" } }').split('" value { string_value: "')
        settings[key] = {"string_value": value.replace('\\"', '"')}
    return {
        "model_repository": str(folder),
        "model_version": "1",
        "model_config": json.dumps({"parameters": settings}),
    }


def encoded(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def files(*contents: bytes) -> NDArray[Any]:
    column = np.empty((len(contents), 1), object)
    column[:, 0] = contents
    return column


def found(response: Response, count: int = 1) -> list[Found]:
    return found_from_outputs(response.arrays(), count)


def offline(bundle: Path, image: NDArray[np.uint8], **settings: Any) -> Any:
    with Detector.load(bundle, "ort-cpu", **settings) as detector:
        return detector(image)


def assert_same(served: Found, own: Any) -> None:
    assert len(own) > 0
    assert np.array_equal(served.boxes_xyxy, own.boxes_xyxy)
    assert np.array_equal(served.scores, own.scores)
    assert served.labels == tuple(own.labels[index] for index in own.class_ids)


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written") / "models"
    bank = tmp_path_factory.mktemp("bank") / "site-a.safetensors"
    save_bank(make_bank([{"label": "cell", "phrases": ["any cell"]}]), bank)
    write_repository(bundle, out, device="ort-cpu", prompts=[bank])
    return out


OWN = {"bank": "bundle"}


def test_requests_of_files_and_of_pixels_are_answered_as_offline(repository: Path, bundle: Path, load: Load) -> None:
    model = load(repository)
    many = files(*map(encoded, IMAGES))
    answers = model.execute([Request(OWN, image=many), *(Request(OWN, pixels=one[None]) for one in IMAGES)])
    for place, image in enumerate(IMAGES):
        own = offline(bundle, image)
        assert_same(found(answers[0], 3)[place], own)
        assert_same(found(answers[1 + place])[0], own)


def test_base64_is_a_file_too(repository: Path, bundle: Path, load: Load) -> None:
    """Triton hands JSON's texts over as they are."""
    (answer,) = load(repository).execute([Request(OWN, image=files(base64.b64encode(encoded(IMAGES[0]))))])
    assert_same(found(answer)[0], offline(bundle, IMAGES[0]))


def test_a_request_names_its_prompts(repository: Path, bundle: Path, load: Load) -> None:
    model = load(repository)
    ask = [
        Request(parameters, pixels=IMAGES[0][None])
        for parameters in ({}, {"bank": "site-a"}, OWN, {**OWN, "phrases": '["white cell"]'}, {**OWN, "threshold": "1"})
    ]
    default, named, own, white, none = (found(answer)[0] for answer in model.execute(ask))
    assert set(default.labels) == set(named.labels) == {"cell"}
    assert set(own.labels) <= {"RBC", "WBC"}
    assert set(white.phrases) == {"white cell"}
    assert_same(white, offline(bundle, IMAGES[0], labels=["WBC"]))
    assert len(none) == 0


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(), "exactly one input"),
        (Request(image=files(encoded(IMAGES[0])), pixels=IMAGES[0][None]), "exactly one input"),
        (Request(image=files(encoded(IMAGES[0]), b"\x89PNG and no more")), "image 2"),
        (Request(image=files(encoded(IMAGES[0])[:-40])), "image 1"),
        (Request(image=files(encoded(IMAGES[0]))[:, 0]), r"\[B, 1\]"),
        (Request(pixels=IMAGES[0]), r"\[B, H, W, 3\]"),
        (Request({"bank": "site-b"}, pixels=IMAGES[0][None]), "site-a"),
        (Request({**OWN, "phrases": '["tumour"]'}, pixels=IMAGES[0][None]), "tumour"),
        (Request({"treshold": "0.9"}, pixels=IMAGES[0][None]), "threshold"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_its_request_alone(
    request_: Request, says: str, repository: Path, bundle: Path, load: Load
) -> None:
    bad, good = load(repository).execute([request_, Request(OWN, pixels=IMAGES[0][None])])
    assert bad.error().code == 400
    with pytest.raises(Exception, match=says):
        raise bad.error()
    assert_same(found(good)[0], offline(bundle, IMAGES[0]))


def test_an_engine_that_fails_is_our_error_and_of_that_request_alone(
    repository: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = load(repository), OnnxRuntime.run

    def fails(self: OnnxRuntime, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if (feeds["image"] == 0).all(axis=(1, 2, 3)).any():
            raise EngineError("The device was lost.")
        return run(self, feeds)

    monkeypatch.setattr(OnnxRuntime, "run", fails)
    black, good = model.execute([Request(OWN, pixels=np.zeros_like(IMAGES[:1])), Request(OWN, pixels=IMAGES[0][None])])
    assert (black.error().code, str(black.error())) == (500, "The device was lost.")
    assert len(found(good)[0]) > 0


def test_a_backend_that_garbles_arrays_is_refused_at_load(repository: Path, load: Load) -> None:
    with pytest.raises(EngineError, match="built for another numpy") as caught:
        load(repository, Backend(garbles=True))
    assert "numpy<2" in caught.value.fix


def test_the_garbling_backend_would_have_found_nothing_without_an_error(
    repository: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the refusal above would prove nothing."""
    backend = Backend(garbles=True)
    monkeypatch.setattr(model_module, "check_transport", lambda utils: None)
    model = load(repository, backend)
    dark_first = IMAGES[0].copy()
    dark_first[0, 0] = 0
    tensor = backend.Tensor.from_dlpack("pixels", dark_first[None])
    (answer,) = model.execute([Request(OWN, pixels=tensor.as_numpy())])
    assert len(found(answer)[0]) == 0


def changed_bundle(repository: Path) -> None:
    with (repository / "cells/1/bundle/model.onnx").open("ab") as file:
        file.write(b"\0")


def another_bundle(repository: Path) -> None:
    write_manifest(repository / "cells/1/bundle", make_manifest(engines=(record("ort-cpu", latency_ms=6.0),)))


def another_version(repository: Path) -> None:
    config = repository / "cells/config.pbtxt"
    config.write_text(config.read_text().replace(medprompt.__version__, "0.0.1"))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (changed_bundle, BundleError, "changed since the export"),
        (another_bundle, BundleError, "another bundle"),
        (another_version, InputError, "another medprompt"),
    ],
)
def test_a_repository_that_is_not_as_written_is_refused_at_load(
    change: Callable[[Path], None], error: type[MedpromptError], says: str, repository: Path, tmp_path: Path, load: Load
) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    change(copy)
    with pytest.raises(error, match=says):
        load(copy)


def test_an_engine_that_decides_otherwise_is_refused_at_load(
    repository: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntime.run
    monkeypatch.setattr(
        OnnxRuntime, "run", lambda self, feeds: run(self, {**feeds, "image": np.zeros_like(feeds["image"])})
    )
    with pytest.raises((ParityError, EngineError)):
        load(repository)


@pytest.fixture(scope="module")
def graph_repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written") / "models"
    write_repository(bundle, out, backend="onnx")
    return out


def test_another_backend_computes_the_graph(graph_repository: Path, bundle: Path, load: Load) -> None:
    asked = []
    with OnnxRuntime.open(graph_repository / "cells_graph/1/model.onnx") as engine:

        def graph(name: str, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            asked.append(name)
            return engine.run(feeds)

        model = load(graph_repository, Backend(graph))
        assert asked == []
        (answer,) = model.execute([Request(pixels=IMAGES[1][None])])
        assert_same(found(answer)[0], offline(bundle, IMAGES[1]))
        assert asked == ["cells_graph"] * (1 + len(IMAGES))
        model.execute([Request(pixels=IMAGES[1][None])])
        assert len(asked) == 2 + len(IMAGES)  # proven once


def test_a_graph_that_decides_otherwise_never_answers(graph_repository: Path, load: Load) -> None:
    with OnnxRuntime.open(graph_repository / "cells_graph/1/model.onnx") as engine:
        model = load(graph_repository, Backend(lambda _, feeds: engine.run({**feeds, "image": feeds["image"] // 4})))
        for _ in range(2):
            (answer,) = model.execute([Request(pixels=IMAGES[0][None])])
            assert answer.error().code == 500
            assert "self-test" in str(answer.error())


def test_a_graph_that_fails_says_what_triton_said(graph_repository: Path, load: Load) -> None:
    def broken(name: str, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        raise ValueError("model is not ready")

    (answer,) = load(graph_repository, Backend(broken)).execute([Request(pixels=IMAGES[0][None])])
    assert (answer.error().code, "model is not ready" in str(answer.error())) == (500, True)
