"""``medprompt compile`` and ``export --engine`` as their users meet them: exit codes, one message, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medprompt.bundles.load import load_bundle
from medprompt.commands.compile import warn_of_max_source
from medprompt.core.files import sha256_of_file
from medprompt.core.manifest import AxisRange, CompiledEngine
from tests.runtime.bundles import make_folder
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'medprompt[trt-rtx]'")
    return make_folder(tmp_path / "bundle")


@pytest.fixture
def run(cli: Cli) -> Cli:
    """``run("verify", …)``: any command."""
    return cli


def snapshot(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_of_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_compiles_and_says_what_comes_next(bundle: Path, run: Run) -> None:
    code, out, err = run("compile", bundle, "--engine", "trt-rtx", "--gpu", "sm86, sm89", "--max-batch", 2)
    assert code == 0, err
    assert "engines/trt-rtx-sm86-sm89-fp32.engine for sm86, sm89" in out
    assert f"medprompt verify {bundle} --device trt-rtx" in out
    assert "compile: trt-rtx: building engine from subgraph" in err
    record = load_bundle(bundle).manifest.engines[-1].compiled
    assert record is not None
    assert record.axes["B"].most == 2


@pytest.mark.parametrize(("axes", "warns"), [({"B"}, True), ({"B", "H", "W"}, False)])
def test_a_limit_of_sources_says_where_it_does_nothing(
    axes: set[str], warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    one = AxisRange(least=1, typical=1, most=1)
    compiled = CompiledEngine.model_construct(axes=dict.fromkeys(axes, one))
    warn_of_max_source("100x100", compiled)
    warn_of_max_source(None, compiled)
    assert ("--max-source 100x100 has no effect" in capsys.readouterr().err) is warns


def test_json_is_nothing_but_json(bundle: Path, run: Run) -> None:
    code, out, _ = run("compile", bundle, "--engine", "trt-rtx", "--gpu", "sm120", "--json")
    assert code == 0
    assert json.loads(out)["gpus"] == ["sm120"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpu", "sm42"), "expected: sm75"),
        (("--gpu", "sm75"), "FP16 throughout"),
        (("--gpu", "sm86", "--precision", "fp16"), "no model of this precision"),
        (("--gpu", "sm86", "--max-phrases", 1), "below what the bundle's own prompts need"),
        (("--gpu", "sm86", "--max-batch", 0), "out of range"),
        (("--gpu", "sm86", "--max-source", "big"), "HEIGHTxWIDTH"),
    ],
    ids=["unknown GPU", "Turing", "precision", "phrases", "batch", "source"],
)
def test_bad_input_exits_2_and_changes_nothing(words: tuple[object, ...], message: str, bundle: Path, run: Run) -> None:
    before = snapshot(bundle.parent)
    code, out, err = run("compile", bundle, "--engine", "trt-rtx", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert snapshot(bundle.parent) == before


def test_an_absent_builder_names_its_extra(bundle: Path, run: Run) -> None:
    code, _, err = run("compile", bundle, "--engine", "trt")
    assert code == 2
    assert "pip install 'tensorrt" in err


def test_no_bundle_exits_2(bundle: Path, run: Run) -> None:
    code, _, err = run("compile", bundle.parent / "none", "--engine", "trt-rtx", "--gpu", "sm86")
    assert code == 2
    assert "not a bundle" in err


def test_options_of_compiling_want_an_engine(run: Run, tmp_path: Path) -> None:
    words = ("export", tmp_path, "--prompts", tmp_path / "p.yaml", "--out", tmp_path / "b", "--gpu", "sm86")
    code, _, err = run(*words)
    assert code == 2
    assert "--engine" in err


def test_compiling_needs_no_torch(bundle: Path) -> None:
    """A builder's package and medprompt alone: torch, transformers and onnx are blocked."""
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx", "onnxruntime", "scipy"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["medprompt", "compile", {str(bundle)!r}, "--engine", "trt-rtx", "--gpu", "sm86"]
from medprompt.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert load_bundle(bundle).manifest.engines[-1].device == "trt-rtx"


def test_ctrl_c_of_a_process_exits_130_and_leaves_nothing(bundle: Path) -> None:
    before = snapshot(bundle.parent)
    # The signal comes once the builder is at work, which its first phase on stderr tells.
    words = ["compile", str(bundle), "--engine", "trt-rtx", "--gpu", "sm80,sm86,sm89,sm120,sm121"]
    command = [sys.executable, "-c", "from medprompt.cli import main; main()", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "read model" in line:
                break
        os.kill(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert "Traceback" not in rest
    assert "interrupted; no half-written file is left" in rest
    assert snapshot(bundle.parent) == before
