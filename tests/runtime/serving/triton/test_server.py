"""A real Triton, from the wheel of nvidia-pytriton, on loopback.

Needs a folder (``MEDPROMPT_TRITON``) with what ``pip install --no-deps --target`` makes of nvidia-pytriton 0.7.0, and
in ``numpy1`` of numpy 1.26: that Triton is 2.51, whose Python backend garbles numpy 2's arrays. ``.ci/run`` makes it.
"""

from __future__ import annotations

import os
import shutil
import site
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprompt.bundles.load import GOLDEN_FILE, Bundle, load_bundle, load_golden
from medprompt.core.errors import ServerError
from medprompt.runtime import Detector
from medprompt.runtime.serving.client import Client
from medprompt.runtime.serving.contract import Asked
from medprompt.runtime.serving.triton.repository import write_repository
from tests.runtime.serving.triton.test_model import bundle as small_bundle
from tests.runtime.serving.triton.test_model import encoded
from tests.shared import Cli

TRITON = Path(os.environ.get("MEDPROMPT_TRITON", "/nowhere"))
SERVER = TRITON / "pytriton/tritonserver"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER.is_dir(), reason="needs a Triton server, see this file's beginning"),
]
small = small_bundle  # a fixture


@pytest.fixture(scope="module")
def bundle(small: Path) -> Bundle:
    """The demo's where it is there (``MEDPROMPT_DEMO_BUNDLE``), else a small one."""
    return load_bundle(os.environ.get("MEDPROMPT_DEMO_BUNDLE", small))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This environment with numpy 1. The backend of 2.51 reads no PYTHONPATH: it goes by the Python on the path."""
    folder = tmp_path_factory.mktemp("numpy1")
    venv.create(folder, symlinks=True)
    packages = folder / f"lib/python{PYTHON}/site-packages"
    for one in (TRITON / "numpy1").iterdir():
        (packages / one.name).symlink_to(one)
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "others.pth").write_text("\n".join(lines))
    return folder


@contextmanager
def running(repository: Path, environment: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Its URL and its log, once it is ready or has ended."""
    backends, log = scratch / "backends", scratch / "log"
    backends.mkdir(parents=True)
    shutil.copytree(SERVER / "backends/python", backends / "python")
    stub = Path(shutil.copy(SERVER / f"python_backend_stubs/{PYTHON}/triton_python_backend_stub", backends / "python"))
    stub.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    libraries = [TRITON / "nvidia_pytriton.libs", Path(sys.base_prefix) / "lib"]
    settings = {
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "HOME": str(scratch),
    }
    command = [
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name=medprompt{port}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    (SERVER / "bin/tritonserver").chmod(0o755)
    with (
        log.open("wb") as said,
        subprocess.Popen([SERVER / "bin/tritonserver", *command], env=settings, stdout=said, stderr=said) as server,
    ):
        try:
            wait_until_ready(server, f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}", log
        finally:
            server.terminate()


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < until:
        try:
            if Client(url).ready():
                return
        except ServerError:
            pass
        time.sleep(0.3)


@pytest.fixture(scope="module")
def served(bundle: Bundle, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scratch = tmp_path_factory.mktemp("served")
    write_repository(bundle, scratch / "models", name="m", device="ort-cpu")
    with running(scratch / "models", environment, scratch) as (url, log):
        assert Client(url).ready(), log.read_text()
        yield url


def assert_golden_images_are_found_as_offline(url: str, bundle: Bundle) -> int:
    """How many detections were equal, to the last bit, as files and as pixels."""
    client, compared = Client(f"{url}/v2/models/m"), 0
    with Detector.load(bundle, "ort-cpu") as detector:
        for golden in load_golden(bundle.path / GOLDEN_FILE, bundle.bank):
            own = detector(golden.image_rgb)
            for images in ([encoded(golden.image_rgb)], golden.image_rgb[None]):
                (found,) = client.detect(images)
                assert np.array_equal(found.boxes_xyxy, own.boxes_xyxy)
                assert np.array_equal(found.scores, own.scores)
                assert found.labels == tuple(own.labels[index] for index in own.class_ids)
                compared += len(found)
    return compared


def test_golden_images_are_found_as_offline(served: str, bundle: Bundle) -> None:
    compared = assert_golden_images_are_found_as_offline(served, bundle)
    print(f"{compared} detections, difference 0.0")
    assert compared > 0
    said = Client(served).served()
    assert (said.bundle_sha256, said.engine, said.banks) == (bundle.sha256, "ort-cpu", ("bundle",))


def test_tritons_own_client_finds_the_same(served: str, bundle: Bundle) -> None:
    http = pytest.importorskip("tritonclient.http")
    client, compared = http.InferenceServerClient(served.removeprefix("http://")), 0
    with Detector.load(bundle, "ort-cpu") as detector:
        for golden in load_golden(bundle.path / GOLDEN_FILE, bundle.bank):
            asked = http.InferInput("pixels", (1, *golden.image_rgb.shape), "UINT8")
            asked.set_data_from_numpy(golden.image_rgb[None])
            answer, own = client.infer("m", [asked]), detector(golden.image_rgb)
            assert np.array_equal(answer.as_numpy("boxes")[0], own.boxes_xyxy)
            assert np.array_equal(answer.as_numpy("scores")[0], own.scores)
            compared += int(answer.as_numpy("num_detections")[0, 0])
    client.close()
    print(f"{compared} detections, difference 0.0")
    assert compared > 0


@pytest.mark.parametrize(
    ("images", "asked", "says"),
    [
        ([b"no image"], None, "400: The image cannot be read.*image 1"),
        (np.zeros((1, 8, 8, 3), np.uint8), Asked(bank="other"), "400: .*bank"),
        (np.zeros((17, 8, 8, 3), np.uint8), None, "400: .*batch-size"),
    ],
)
def test_what_it_refuses(images: Any, asked: Asked | None, says: str, served: str) -> None:
    client = Client(served)
    with pytest.raises(ServerError, match=says):
        client.detect(images, asked)
    assert client.detect(np.zeros((1, 8, 8, 3), np.uint8))[0].boxes_xyxy.shape == (0, 4)


def test_with_numpy_2_it_is_never_ready(bundle: Bundle, tmp_path: Path) -> None:
    if np.__version__.startswith("1."):
        pytest.skip("needs numpy 2")
    write_repository(bundle, tmp_path / "models", name="m", device="ort-cpu")
    with running(tmp_path / "models", Path(sys.prefix), tmp_path / "scratch") as (url, log):
        with pytest.raises(ServerError):
            Client(url).ready()
        assert "garbles arrays" in log.read_text()


GARBLED = "lambda tensor: tensor.as_numpy()"
CONSTANT = "lambda tensor: np.full_like(np.from_dlpack(tensor), np.from_dlpack(tensor).flat[0])"


@pytest.mark.parametrize(
    ("numpy_2", "taken", "exit_code"),
    [(True, GARBLED, 2), (False, CONSTANT, 3)],  # with numpy 2 the backend breaks off at the first file, a text to it
)
def test_verify_catches_a_model_that_takes_arrays_as_many_do(
    numpy_2: bool, taken: str, exit_code: int, bundle: Bundle, environment: Path, tmp_path: Path, cli: Cli
) -> None:
    """Ours, with neither its check at load nor DLPack: it is ready, and answers about constant images."""
    if numpy_2 and np.__version__.startswith("1."):
        pytest.skip("needs numpy 2")
    write_repository(bundle, tmp_path / "models", name="m", device="ort-cpu")
    (tmp_path / "models/m/1/model.py").write_text(
        "import numpy as np\n"
        "from medprompt.runtime.serving.triton import model, transport\n"
        "model.check_transport = lambda utils: None\n"
        f"transport.host_array = {taken}\n"
        "TritonPythonModel = model.DetectorModel\n"
    )
    python = Path(sys.prefix) if numpy_2 else environment
    with running(tmp_path / "models", python, tmp_path / "scratch") as (url, log):
        assert Client(url).ready(), log.read_text()
        code, out, err = cli("verify", bundle.path, "--url", f"{url}/v2/models/m")
    print(code, err)
    assert code == exit_code, out + err


def test_verify_passes_the_one_that_we_write(served: str, bundle: Bundle, cli: Cli) -> None:
    code, out, err = cli("verify", bundle.path, "--url", f"{served}/v2/models/m")
    print(out)
    assert code == 0, out + err


def test_the_graph_of_another_model_answers_alike(bundle: Bundle, environment: Path, tmp_path: Path) -> None:
    """The wheel has no backend of ONNX Runtime: a model of the Python backend computes the graph instead."""
    write_repository(bundle, tmp_path / "models", name="m", backend="onnx")
    graph = tmp_path / "models/m_graph"
    config = graph / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
    (graph / "1/model.py").write_text(
        "import pathlib, numpy as np, onnxruntime, triton_python_backend_utils as utils\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        path = pathlib.Path(__file__).with_name('model.onnx')\n"
        "        self.session = onnxruntime.InferenceSession(str(path))\n"
        "    def execute(self, requests):\n"
        "        return [self.answer(one) for one in requests]\n"
        "    def answer(self, request):\n"
        "        feeds = {one.name(): np.array(np.from_dlpack(one)) for one in request.inputs()}\n"
        "        names = list(request.requested_output_names())\n"
        "        arrays = zip(names, self.session.run(names, feeds))\n"
        "        return utils.InferenceResponse([utils.Tensor(name, array) for name, array in arrays])\n"
    )
    with running(tmp_path / "models", environment, tmp_path / "scratch") as (url, log):
        assert Client(url).ready(), log.read_text()
        assert assert_golden_images_are_found_as_offline(url, bundle) > 0
