"""No command replaces what is not its own, an input, or its own without leave: each output of each command."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from medprompt.benchmarks.accuracy.tables import IMAGE_COLUMNS
from medprompt.benchmarks.latency.sweep_report import Row
from medprompt.benchmarks.report.page import PDF_END
from medprompt.cli import app
from medprompt.core.outputs import lock_outputs, replaced_whole
from medprompt.core.overlay import save_overlay
from medprompt.generation.prompt_map import save_prompt_map
from medprompt.prompts.bank import save_bank
from medprompt.prompts.file import prompts_from_yaml, save_prompts
from medprompt.results.run import CSV_COLUMNS
from medprompt.site.record import write_record
from tests.benchmarks.fakes import LEVELS, fake_bundle, write_set
from tests.medprompt.site.records import drawn_record
from tests.runtime.bundles import make_bank
from tests.shared import Cli

SHARED = Path(__file__).parents[2] / "compatible" / "v0.1"
HTML = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="medprompt">\n'
)
CAPTION = '{"a.png": {"caption": "red cell", "prefix": ["red "], "suffix": [""], "name": ["cell"]}}'


def _checkpoint(path: Path) -> None:
    with replaced_whole(path) as folder:
        (folder / "config.json").write_text("{}")


def _run_begun(path: Path) -> None:
    path.mkdir()
    (path / "recipe.json").write_text("{}")


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode("latin-1"))


OURS: dict[str, Callable[[Path], object]] = {
    "bundle": fake_bundle,
    "checkpoint": _checkpoint,
    "prompts": lambda path: save_prompts(prompts_from_yaml(Path("P.yaml")), path),
    "bank": lambda path: save_bank(make_bank(), path),
    "map": lambda path: save_prompt_map({"a.png": ("red cell",)}, path),
    "captions": _text(CAPTION),
    "results": lambda path: shutil.copy(SHARED / "results.json", path),
    "coco": _text('[\n  {\n    "image_id": 1,\n    "score": 0.5,\n    "file_name": "a",\n    "category_name": "b"}\n]'),
    "coco data set": _text('{\n  "info": {\n    "description": "Detections of medprompt, not labels"'),
    "csv": _text(",".join(CSV_COLUMNS) + "\n"),
    "image csv": _text(",".join(IMAGE_COLUMNS) + ",true_positives\n"),
    "point csv": _text(",".join(Row.__dataclass_fields__) + "\n"),
    "site record": lambda path: write_record(path, drawn_record()),
    "picture": lambda path: save_overlay(Image.new("RGB", (9, 9)), path),
    "baseline": lambda path: shutil.copy(SHARED / "baseline.json", path),
    "markdown": _text("## ok Bundle against baseline: passed\n"),
    "junit": _text("<?xml version='1.0' encoding='utf-8'?>\n<testsuites tests=\"1\" failures=\"0\" errors=\"0\">\n"
                   '  <testsuite name="medprompt bench regress" tests="1">'),
    "gpu check": _text('{\n  "gpu_check": 1,\n  "medprompt"'),
    "page": _text(HTML),
    "pdf": _text("%PDF-1.4\n%%EOF" + PDF_END.decode()),
}  # fmt: skip
"""Something that medprompt wrote, by its kind."""

CKPT, BUNDLE, SET = ("ckpt", "--prompts", "P.yaml"), "gone.bundle", ("--data", "set/labels.json")
MLM = ("P.yaml", "--method", "mlm", "--mlm", "gone")
OUTPUTS: dict[tuple[str, str], tuple[tuple[str, ...], str, str]] = {
    ("export", "--out"): (CKPT, "bundle", "P.yaml"),
    ("infer", "--out"): ((BUNDLE, "set/0.png", "set/1.png"), "results", "set/1.png"),
    ("infer", "--coco"): ((BUNDLE, "set"), "coco", "set/0.png"),
    ("infer", "--coco-dataset"): ((BUNDLE, "set"), "coco data set", "set/0.png"),
    ("set-thresholds", "--out"): (("gone.bundle", "--from", "P.yaml"), "bundle", "P.yaml"),
    ("triton", "--out"): ((BUNDLE, "--prompts", "P.yaml"), "checkpoint", "P.yaml"),
    ("infer", "--csv"): ((BUNDLE, "set"), "csv", "set/0.png"),
    ("finetune", "--out"): ((*CKPT, "--recipe", "recipe.yaml"), "checkpoint", "ckpt"),
    ("import", "--out"): (("P.yaml", "--tokenizer", "ckpt"), "checkpoint", "P.yaml"),
    ("init-small", "--out"): (("--prompts", "P.yaml"), "checkpoint", "P.yaml"),
    ("demo", "--out"): ((), "checkpoint", ""),
    ("data prepare", "--out"): (("isic2016", "--from", "set"), "checkpoint", "set"),
    ("prompts embed", "--out"): (CKPT, "bank", "ckpt"),
    ("prompts generate", "--out"): (MLM, "prompts", "P.yaml"),
    ("prompts generate", "--prompt-map"): ((*MLM, "--out", "n"), "map", "P.yaml"),
    ("prompts generate", "--captions"): ((*MLM, "--out", "n"), "captions", "n"),
    ("prompts collapse", "--out"): (("gone.json", "--label", "a"), "prompts", ""),
    ("prompts collapse", "--prompt-map"): (("gone.json", "--label", "a", "--out", "n"), "map", "n"),
    ("prompts augment", "--out"): (("P.yaml", "--lexicon", "gone"), "prompts", "P.yaml"),
    ("prompts packs", "--out"): (("bccd",), "prompts", ""),
    ("prompts calibrate", "--out"): ((*CKPT, *SET), "prompts", "P.yaml"),
    ("prompts search", "--out"): ((*CKPT, *SET, "--test-data", "gone.json"), "prompts", "P.yaml"),
    ("prompts tune", "--out"): ((*CKPT, *SET), "bank", "set/labels.json"),
    ("bench accuracy", "--csv"): ((BUNDLE, *SET), "image csv", "set/labels.json"),
    ("release", "--out"): ((BUNDLE, "--baseline", "old.bundle", "--limits", "P.yaml"), "checkpoint", "P.yaml"),
    ("bench report", "--out"): ((BUNDLE, *SET), "page", "set/labels.json"),
    ("bench report", "--pdf"): ((BUNDLE, *SET, "--out", "n.html"), "pdf", "n.html"),
    ("bench sweep", "--csv"): ((BUNDLE, "--images", "set"), "point csv", "set/0.png"),
    ("bench sweep", "--plot"): ((BUNDLE, "--images", "set"), "picture", "set/0.png"),
    ("bench site", "--thresholds"): ((BUNDLE, "--images", "set", *SET), "prompts", "set/labels.json"),
    ("bench site", "--record"): ((BUNDLE, "--images", "set"), "site record", "set/0.png"),
    ("export-segmenter", "--out"): (("ckpt", "--images", "set"), "bundle", "ckpt"),
    ("bench regress", "--markdown"): ((BUNDLE, "--baseline", "b.json", *SET), "markdown", "b.json"),
    ("bench regress", "--junit"): ((BUNDLE, "--baseline", "b.json", *SET), "junit", "b.json"),
    ("gpu-check", "--out"): ((BUNDLE, "--checkpoint", "ckpt"), "gpu check", "ckpt"),
}  # fmt: skip
"""Command and option of each output: the other words, its kind, and an input or another output of that command."""

ELSEWHERE = {
    *(("infer", option) for option in ("--overlays", "--sr", "--seg", "--annotated")),
    *(("keygen", option) for option in ("--private-key", "--public-key")),
    ("bench regress", "--baseline"),
    ("compile", "--timing-cache"),
    ("release", "--report"),  # it is read
    ("dicom listen", "--queue"),
}
"""Outputs of other rules, tested in tests/runtime, tests/medprompt/bundles, tests/export/compile and below."""

READ = {
    *(
        "--about",
        "--absent",
        "--base",
        "--calibration",
        "--config",
        "--checkpoint",
        "--data-root",
        "--from",
        "--images",
        "--key",
        "--lexicon",
        "--limits",
        "--mlm",
        "--password-file",
        "--segment",
        "--token-file",
        "--tokenizer",
        "--words",
    ),
    *("--private-key", "--prompt-map", "--prompts", "--rank", "--recipe", "--reference", "--slices"),
    *("--against", "--baseline", "--cache", "--coco-ids", "--labelled-images"),
}
"""Options that name what is read; a cache is a folder or file that refuses what is none of its own."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inputs of every command but a model, so that nothing is loaded whatever is allowed."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set", LEVELS)
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "config.json").write_text("{}")
    (tmp_path / "P.yaml").write_text("classes: [{label: a, phrases: [red cell]}]\n")
    (tmp_path / "recipe.yaml").write_text("data: [{train: set/labels.json}]\nsteps: 1\n")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    return tmp_path


def files_of(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def called(cli: Cli, key: tuple[str, str], path: str, *more: str) -> tuple[int, str]:
    words, _, _ = OUTPUTS[key]
    code, _, err = cli(*key[0].split(), *words, key[1], path, *more)
    assert "Traceback" not in err
    return code, err


@pytest.mark.parametrize("key", OUTPUTS, ids=" ".join)
class TestEveryOutput:
    def test_is_no_input_and_no_other_output(self, world: Path, cli: Cli, key: tuple[str, str]) -> None:
        other = OUTPUTS[key][2]
        if not other:
            pytest.skip("the command reads nothing that exists")
        before = files_of(world)
        code, err = called(cli, key, f"set/../{other}", "--force")
        assert code == 2 and ("would replace inputs" in err or "Two outputs are one" in err), err
        assert files_of(world) == before

    @pytest.mark.parametrize("foreign", ["thesis", "thesis/thesis.txt", ".", "/dev/null"])
    def test_is_nothing_foreign(self, world: Path, cli: Cli, key: tuple[str, str], foreign: str) -> None:
        before = files_of(world)
        for more in ((), ("--force",)):
            code, err = called(cli, key, foreign, *more)
            assert code == 2 and "--force" not in err, err
            assert "medprompt did not write it" in err or "would replace inputs" in err
        assert files_of(world) == before

    def test_is_our_own_only_with_leave(self, world: Path, cli: Cli, key: tuple[str, str]) -> None:
        OURS[OUTPUTS[key][1]](world / "ours")
        before = files_of(world)
        code, err = called(cli, key, "ours")
        assert code == 2 and "exists already" in err and "pass --force" in err, err
        assert files_of(world) == before
        if key[0] not in ("demo", "init-small", "prompts packs"):  # which would do their work
            code, err = called(cli, key, "ours", "--force")
            assert code == 2 and "exists" not in err.replace("does not exist", ""), err  # no model is there
            assert files_of(world) == before

    def test_is_one_process_alone(self, world: Path, cli: Cli, key: tuple[str, str]) -> None:
        with lock_outputs([world / "ours"]):
            code, err = called(cli, key, "ours")
        assert code == 2 and "Another process is writing here" in err, err
        assert not (world / "ours").exists()


def test_the_table_has_every_path_of_every_command() -> None:
    paths = set(_path_options(get_command(app), ()))
    unknown = {key for key in paths - OUTPUTS.keys() - ELSEWHERE if key[1] not in READ}
    assert unknown == set()
    assert OUTPUTS.keys() | ELSEWHERE <= paths


def _path_options(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from _path_options(inner, (*words, name))
    hints = get_type_hints(command.callback) if command.callback else {}
    for option in command.params:
        kinds = [one for hint in [hints.get(option.name)] for one in (hint, *get_args(hint))]
        if option.param_type_name == "option" and any(Path in (kind, *get_args(kind)) for kind in kinds):
            yield " ".join(words), option.opts[0]


def test_a_bundle_is_ours_as_long_as_it_is_as_we_wrote_it(world: Path, cli: Cli) -> None:
    for change in ("note.txt", "prompts.safetensors"):
        fake_bundle(world / "ours")
        (world / "ours" / change).write_text("years of work")
        before = files_of(world)
        code, err = called(cli, ("export", "--out"), "ours", "--force")
        assert code == 2 and change in err and "medprompt did not write it" in err
        assert files_of(world) == before
        shutil.rmtree(world / "ours")


def test_update_baseline_is_leave_for_a_baseline_alone(world: Path, cli: Cli) -> None:
    words = ("bench", "regress", BUNDLE, *SET, "--update-baseline", "--reason", "new", "--baseline")
    code, _, err = cli(*words, "thesis/thesis.txt")
    assert code == 2 and "medprompt did not write it" in err
    shutil.copy(SHARED / "baseline.json", world / "b.json")
    code, _, err = cli(*words, "b.json")
    assert code == 2 and "bundle" in err and "exists" not in err.replace("does not exist", "")


def test_two_keys_are_two_files(world: Path, cli: Cli) -> None:
    code, _, err = cli("keygen", "--private-key", "k.pem", "--public-key", "set/../k.pem")
    assert code == 2 and "Two outputs are one" in err
    assert not (world / "k.pem").exists()


def test_a_folder_of_another_training_is_no_run_of_ours(world: Path, cli: Cli) -> None:
    (world / "new.run" / "checkpoint-500").mkdir(parents=True)
    (world / "new.run" / "checkpoint-500" / "weights.bin").write_bytes(b"weeks")
    before = files_of(world)
    code, err = called(cli, ("finetune", "--out"), "new", "--force")
    assert code == 2 and "new.run" in err
    assert files_of(world) == before


def test_a_cache_that_is_none_is_not_cut_short(tmp_path: Path) -> None:
    from medprompt.core.errors import PromptError
    from medprompt.generation.answers import AnswerCache

    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PromptError, match="not an answer"):
        AnswerCache(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_pictures_are_told_from_others(world: Path) -> None:
    from medprompt.core.overlay import PICTURE

    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(world / "theirs.png")
    save_overlay(Image.new("RGB", (9, 9)), world / "ours.png")
    assert (PICTURE.foreign(world / "theirs.png"), PICTURE.foreign(world / "ours.png")) == (
        str(world / "theirs.png"),
        "",
    )
