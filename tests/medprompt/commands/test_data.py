"""``medprompt data``: exit codes, tables and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.medprompt.data import miniatures
from tests.medprompt.data.made import coco, picture
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(cli: Cli) -> Cli:
    """``run("check", …) -> (exit code, stdout, stderr)``."""
    return partial(cli, "data")


@pytest.fixture
def good(tmp_path: Path) -> str:
    picture(tmp_path / "a.png")
    return coco(tmp_path / "good.json", {"a.png": ((10, 20), [("RBC", 1, 2, 3, 4)])}, ["RBC"])


@pytest.fixture
def bad(tmp_path: Path) -> str:
    picture(tmp_path / "b.png", seed=1)
    return coco(tmp_path / "bad.json", {"b.png": ((10, 20), [("RBC", 3, 3, 3, 3)])}, ["RBC"])


def test_check(run: Run, good: str, bad: str) -> None:
    code, out, _ = run("check", good, "--against", bad)
    assert (code, out.count("Found")) == (0, 0)
    code, out, err = run("check", bad, "--against", good)
    assert code == 1
    assert "zero_area" in out and "RBC [3, 3, 3, 3]" in out
    assert "zero_area 1" in err
    code, out, _ = run("check", good, "--against", good, "--json")
    assert (code, json.loads(out)["counts"]) == (1, {"shared_image": 1})
    assert run("check", "nowhere.json")[0] == 2


def test_check_against_prompts(run: Run, good: str, tmp_path: Path) -> None:
    for label, code in {"RBC": 0, "WBC": 1}.items():
        (tmp_path / "p.yaml").write_text(f"classes: [{{label: {label}, phrases: [cell]}}]")
        assert run("check", good, "--prompts", tmp_path / "p.yaml")[0] == code


def test_check_strict(run: Run, good: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    assert run("check", good)[0] == 1
    code, _, err = run("check", good, "--strict")
    assert (code, "a.png" in err) == (2, True)


def test_list(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert "polyp-kvasir" in out and "train 880, val 120" in out
    assert "MediaEval" in run("list", "polyp-kvasir")[1]
    assert len(json.loads(run("list", "--json")[1])) == 13
    assert json.loads(run("list", "bccd", "--json")[1])[0]["terms"] == "MIT"
    assert run("list", "imagenet")[0] == 2


def test_prepare(run: Run, tmp_path: Path) -> None:
    miniatures.isic(tmp_path / "from")
    words = ("prepare", "isic2016", "--from", tmp_path / "from", "--out", tmp_path / "out")
    code, out, err = run(*words)
    assert (code, "train.json" in out) == (0, True)
    assert "900 images are published, 2 are here" in err
    assert run(*words)[0] == 2  # exists
    code, out, _ = run(*words, "--force", "--json", "--no-copy")
    assert (code, json.loads(out)["boxes"]) == (0, {"train": 2, "test": 1})
    code, out, _ = run("check", tmp_path / "out/train.json", "--against", tmp_path / "out/test.json")
    assert (code, "shared_image" in out) == (1, True)  # the miniature has one picture in both
    assert run("prepare", "bccd", "--from", tmp_path / "from", "--out", tmp_path / "bccd")[0] == 2
    assert run(*words, "--force", "--keep-categories")[0] == 2


def test_prepare_leaves_out_what_cannot_be_read(run: Run, tmp_path: Path) -> None:
    miniatures.clinicdb(tmp_path / "from")
    (tmp_path / "from/Ground Truth/2.tif").unlink()
    words = ("prepare", "polyp-clinicdb", "--from", tmp_path / "from")
    code, out, err = run(*words, "--out", tmp_path / "out", "--json")
    assert (code, json.loads(out)["images"]) == (1, {"train": 1})
    assert "Original/2.tif" in err
    assert run(*words, "--out", tmp_path / "strict", "--strict")[0] == 2


def test_checking_needs_nothing_heavy(good: str) -> None:
    """A check and the list with torch, scipy and SimpleITK blocked."""
    code = f"""
import subprocess
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx", "scipy", "SimpleITK"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
from medprompt.data.check import check_data
from medprompt.data.registry import known_sets
import medprompt.data.native
print(check_data({good!r}).passed, len(known_sets()))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "13"]), done.stderr
