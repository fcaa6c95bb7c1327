"""The doctor looks at any machine without falling over, and says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medprompt.commands.doctor import doctor
from medprompt.core.errors import BundleError, MedpromptError
from medprompt.core.packages import install_command
from medprompt.runtime import doctor as module
from medprompt.runtime.doctor import Diagnosis, Finding, diagnose
from medprompt.runtime.engines import ENGINES
from medprompt.runtime.engines.machine import Gpu, Machine
from tests.runtime.bundles import make_folder, record
from tests.runtime.selection.test_open import CPU, engine, folder, gpu

__all__ = ["folder", "gpu"]

BARE = Machine(system="linux-x86_64", no_gpu="no NVIDIA driver (libcuda) was found")


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    return next(line for line in diagnosis.findings if line.name == name)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed, and there is no GPU."""
    monkeypatch.setattr(module, "read_machine", lambda: BARE)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for name in ("ort", "openvino", "tensorrt", "machine"):
        monkeypatch.setattr(f"medprompt.runtime.engines.{name}.find_spec", lambda name: None)


@pytest.mark.usefixtures("bare")
def test_a_bare_machine() -> None:
    found = diagnose()
    assert [line.name for line in found.findings] == [
        "System",
        "GPU",
        "NVIDIA driver",
        "CUDA",
        "TensorRT",
        "TensorRT-RTX",
        "Compiled kernels",
        "ONNX Runtime",
        "ONNX Runtime plug-in",
        "OpenVINO",
    ]
    assert [line.status for line in found.findings] == ["ok", *["absent"] * 9]
    assert finding(found, "GPU").found == "none: no NVIDIA driver (libcuda) was found"
    assert finding(found, "OpenVINO").fix == install_command("cpu")
    assert finding(found, "TensorRT").fix == ""  # of no use without a GPU
    assert [entry.device for entry in found.engines] == [name for name in ENGINES if name != "fake"]
    assert {entry.runs for entry in found.engines} == {"no"}
    by_device = {entry.device: entry for entry in found.engines}
    assert by_device["ort-cpu"].fix == install_command("cpu")


def test_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(
        (Gpu("RTX A4000", "sm86"), Gpu("RTX 4090", "sm89")),
        "580.65.06",
        "linux-x86_64",
        {"tensorrt_rtx": "1.7"},
        {"tensorrt": "tensorrt is installed but cannot be imported: OSError: libnvinfer.so.10"},
    )
    monkeypatch.setattr(module, "read_machine", lambda: machine)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    found = diagnose()
    assert finding(found, "GPU").found == "RTX A4000 (sm86); RTX 4090 (sm89)"
    assert finding(found, "NVIDIA driver").found == "580.65.06"
    assert finding(found, "TensorRT-RTX") == Finding("TensorRT-RTX", "1.7")
    broken = finding(found, "TensorRT")
    assert (broken.status, broken.fix) == ("problem", install_command("trt-cu13", "--force-reinstall"))
    assert finding(found, "ONNX Runtime plug-in").fix == "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"


@pytest.mark.parametrize(
    ("driver", "library", "status", "fix"),
    [
        (13000, 13040, "ok", ""),  # CUDA 13 serves all of its minor versions
        (13040, 12080, "ok", ""),
        (12080, 13040, "problem", install_command("trt-cu12")),
        (0, 13040, "ok", ""),
    ],
)
def test_a_driver_older_than_the_runtime_is_a_problem(
    driver: int, library: int, status: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = SimpleNamespace(cudaDriverGetVersion=lambda: (0, driver), cudaRuntimeGetVersion=lambda: (0, library))
    monkeypatch.setattr(module, "cuda_python_problem", lambda: "")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "import_module", lambda name: runtime)
    monkeypatch.setattr(module, "package_version", lambda name: "13.4.4")
    line = finding(diagnose(), "CUDA")
    known = f"driver {driver // 1000}.{driver % 1000 // 10}" if driver else "no driver"
    assert line.found.startswith(f"cuda-python 13.4.4, runtime {library // 1000}.{library % 1000 // 10}, {known}")
    assert (line.status, fix in line.fix) == (status, True)


@pytest.mark.parametrize(("driver", "extra"), [("535.129.03", "trt-cu12"), ("580.65.06", "trt-cu13"), ("", "trt-cu13")])
def test_the_extra_fits_the_driver(driver: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine((Gpu("RTX A4000", "sm86"),), driver, "linux-x86_64")
    monkeypatch.setattr(module, "read_machine", lambda: machine)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert finding(diagnose(), "TensorRT").fix == install_command(extra)


def test_two_onnx_runtimes_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(module, "package_version", lambda name: "1.0")
    line = finding(diagnose(), "ONNX Runtime")
    assert (line.status, line.fix) == ("problem", "onnxruntime and onnxruntime-gpu exclude each other: keep one")


def test_a_library_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str = "") -> Any:
        raise RuntimeError("undefined symbol\nand a page of details")

    monkeypatch.setattr(module, "find_spec", lambda name: "there")
    monkeypatch.setattr(module, "import_module", broken)
    monkeypatch.setattr(module, "shared_core", broken)
    monkeypatch.setattr("medprompt.runtime.engines.ort.find_spec", lambda name: broken(name))
    found = diagnose()
    for name in ("CUDA", "ONNX Runtime", "OpenVINO"):
        line = finding(found, name)
        assert (line.status, line.found) == ("problem", "cannot be read: RuntimeError: undefined symbol")
    assert found.engines[0].why.startswith("it cannot be asked: RuntimeError")


@pytest.mark.usefixtures("gpu")
def test_the_engines_of_a_bundle(folder: Any) -> None:
    failed = record("openvino", passed=False, reason="kept 50 %")
    other = engine("fp16", gpus=("sm89", "sm120"))
    found = diagnose(folder(CPU, failed, engine(), other))
    assert [(entry.device, entry.runs) for entry in found.engines] == [
        ("fake", "yes"),
        ("openvino", "no"),
        ("trt-rtx", "after a self-test"),
        ("trt-rtx", "no"),
    ]
    cpu, openvino, mine, foreign = found.engines
    assert cpu.why == "parity proven at export, 5.0 ms an image there"
    assert openvino.why == "its parity failed at export: kept 50 %"
    assert mine.why == "its parity was not measured at export: compiled without a GPU"
    assert foreign.gpus == ("sm89", "sm120")
    assert "built for sm89, sm120, found RTX A4000 (sm86); rebuild: medprompt compile" in foreign.why
    assert found.serves == "trt-rtx"


@pytest.mark.usefixtures("gpu")
def test_without_golden_images_an_engine_that_never_ran_does_not_run(folder: Any) -> None:
    found = diagnose(folder(engine(), golden=False))
    assert (found.engines[0].runs, found.engines[0].fix) == ("no", "export the bundle again")
    assert (found.serves, "No engine" in found.reason) == ("", True)


@pytest.mark.usefixtures("gpu")
def test_the_screen(folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(CPU, engine(), engine("fp16", builder_version="0.9"))
    doctor(path)
    text = capsys.readouterr().out
    titles = ("This machine", "NVIDIA driver", "OpenVINO", "trt-rtx sm86", "?")
    for words in (*titles, "--device auto: trt-rtx, first device"):
        assert words in text
    doctor(None)
    assert "Devices" in capsys.readouterr().out


@pytest.mark.usefixtures("bare")
def test_commands_with_brackets_survive_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    doctor(None)
    assert "pip install 'onnxruntime" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_json(folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    doctor(folder(CPU, engine()), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["serves"], found["engines"][1]["runs"]) == ("trt-rtx", "after a self-test")
    assert {line["name"] for line in found["findings"]} >= {"GPU", "CUDA", "TensorRT"}


@pytest.mark.parametrize("as_json", [True, False])
def test_a_bundle_that_cannot_run_fails_the_check(
    tmp_path: Path, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_folder(tmp_path / "bundle", engines=(record("fake", passed=False),))
    with pytest.raises(MedpromptError, match="No engine of the bundle can run here") as caught:
        doctor(path, as_json=as_json)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().out


def test_no_bundle_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        diagnose(tmp_path)


def test_it_imports_no_torch() -> None:
    """In a process of its own, with everything that is installed here."""
    code = "import sys\nfrom medprompt.commands.doctor import doctor\ndoctor(None)\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = {name.strip(" '").split(".")[0] for name in done.stdout.splitlines()[-1].strip("[]").split(",")}
    assert not loaded & {"torch", "transformers"}
