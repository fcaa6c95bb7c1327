"""The runtime stands without torch: nothing heavy is imported, no engine library before it is asked for."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import medprompt
import medprompt.runtime
from medprompt.core.packages import install_command
from tests.runtime.bundles import make_folder, record

FORBIDDEN = ("torch", "transformers", "onnx", "scipy", "tokenizers", "accelerate", "onnxslim", "onnxscript", "peft")
LATER = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "rich", "typer", "pydicom", "SimpleITK")
FILES = sorted(
    path for package in (medprompt, medprompt.runtime) for path in Path(str(package.__file__)).parent.rglob("*.py")
)

LIGHT_FILES = ("__init__.py", "frames.py", "files.py", "codes.py")
LIGHT = {"medprompt.core.frames", "medprompt.reports.files"}
"""What of the rooms of DICOM and its reports does without pydicom."""

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
"""

DETECT = """
import numpy as np
from medprompt.core.packages import install_command
from medprompt.runtime import Detector
with Detector.load({folder!r}) as detector:
    found = detector(np.full((20, 30, 3), 255, np.uint8))
    print(detector.choice.device, len(found))
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_files_to_check() -> None:
    names = {path.name for path in FILES}
    assert {"detector.py", "load.py", "resize.py", "ort.py"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_imports_heavy_packages_at_its_top(path: Path) -> None:
    """Only imports inside functions may wait for an extra; the DICOM files stand behind such an import as a whole."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in tops if isinstance(node, ast.ImportFrom)}
    draws = path.name in ("cli.py", "terminal.py") or path.parent.name == "commands"
    allowed: tuple[str, ...] = ("rich", "typer") if draws else ()
    if path.parent.name in ("dicom", "dicom_node", "reports") and path.name not in LIGHT_FILES:
        allowed = (*allowed, "pydicom")
    else:
        assert not any(name.startswith(("medprompt.dicom.", "medprompt.reports.")) for name in names - LIGHT)
    heavy = {name for name in names if name.split(".")[0] in {*FORBIDDEN, *LATER} - set(allowed)}
    assert not heavy
    assert not any(name.startswith(("medprompt.export", "medprompt.benchmarks")) for name in names)


def test_importing_touches_no_engine_and_nothing_heavy() -> None:
    code = "import medprompt.runtime, medprompt.runtime.batch, sys; print(*sorted(sys.modules))"
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert not loaded & {*FORBIDDEN, *LATER}


@pytest.mark.parametrize("device", ["fake", "ort-cpu", "openvino"])
def test_detecting_needs_nothing_heavy(device: str, tmp_path: Path) -> None:
    """A whole detection with torch, transformers, onnx and the others blocked."""
    package = {"ort-cpu": "onnxruntime", "openvino": "openvino"}.get(device)
    if package:
        pytest.importorskip(package)
    folder = make_folder(tmp_path / "bundle", engines=(record(device),))
    # openvino itself looks for torch and onnx, and does without them.
    names = FORBIDDEN if device != "openvino" else tuple(n for n in FORBIDDEN if n not in ("onnx", "torch"))
    output = python(BLOCKER.format(names=names) + DETECT.format(folder=str(folder)))
    assert output.split() == [device, "4" if device == "fake" else "3"]


def cpu_seconds(code: str) -> float:
    """Least processor time of three processes: wall time would measure the machine's other work."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


@pytest.mark.slow
def test_importing_costs_little_more_than_its_libraries() -> None:
    """Measured: 0.35 s against 0.2 s on a busy two-core machine."""
    libraries = cpu_seconds("import numpy, pydantic.main, PIL.Image, yaml")
    assert cpu_seconds("import medprompt.runtime") < 2.5 * libraries


def test_an_absent_engine_is_named_with_its_extra(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bundle")
    code = f"""
import importlib.util, sys
real = importlib.util.find_spec
gone = ("onnxruntime", "openvino")
importlib.util.find_spec = lambda name, *rest: None if name in gone else real(name, *rest)
from medprompt.core.errors import EngineError
from medprompt.runtime import Detector
for device in ("ort-cpu", "openvino", "openvino-bf16"):
    try:
        Detector.load({str(folder)!r}, device=device)
    except EngineError as error:
        print(error.fix)
"""
    assert python(code).splitlines() == [install_command("cpu")] * 3
