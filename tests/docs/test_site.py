"""The pages lead somewhere, tell no history, and say only what the program has."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import medprompt
from medprompt.cli import app
from medprompt.core import errors
from medprompt.export.finetune.recipe import DataEntry, Recipe
from tests.docs.pages import DOCS, FENCE, PAGES, ROOT, USER_PAGES, anchors, blocks, links, name_of, prose

CHECKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", DOCS / "llms.txt"]
HISTORY = re.compile(
    r"\b(?:before|previously|formerly|used to|no longer|retracted|earlier (?:version|checkpoint|recipe)s?)\b"
    r"|(?-i:\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}\b)"  # a commit, or the hash of a checkpoint
    r"|OWL-ViT demo|former (?:demo|checkpoint)",
    re.I,
)
CODE = [path for room in ("medprompt", "export", "runtime", "benchmarks") for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_links_resolve(page: Path) -> None:
    dead = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_the_repositorys_files_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {
        f"benchmarks/research/{name}.py" for name in re.findall(r"medprompt\.benchmarks\.research\.([a-z_0-9]+)", text)
    }
    named |= set(re.findall(r"\bbenchmarks/research/[\w-]+\.\w+", text))
    if page.parent == DOCS / "research":
        rows = re.findall(r"^\| ((?:`[a-z_0-9]+`(?:, )?)+) \|", text, re.M)  # the table of modules
        named |= {f"benchmarks/research/{name}.py" for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]


@pytest.mark.parametrize("page", [*USER_PAGES, ROOT / "README.md"], ids=name_of)
def test_user_pages_tell_no_history(page: Path) -> None:
    assert not [found.group() for found in HISTORY.finditer(prose(page))]


@pytest.mark.parametrize(
    ("text", "bites"),
    [
        ("the checkpoint before it", True),
        ("Before a bank stated its task", True),
        ("history: 9e0ffad", True),
        ("sha256 ad5f3b7d", True),
        ("it is no longer composed", True),
        ("on the OWL-ViT demo checkpoint", True),
        ("beforehand; refaced facades; 12345678; Ed25519", False),
        ("", False),
    ],
)
def test_the_reading_test_bites(text: str, bites: bool) -> None:
    assert bool(HISTORY.search(text)) is bites


def test_page_names_are_unique_and_in_the_navigation() -> None:
    names = [page.stem for page in USER_PAGES]
    assert len(names) == len(set(names))
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    index = (DOCS / "llms.txt").read_text(encoding="utf-8")
    for page in USER_PAGES:
        assert page.relative_to(DOCS).as_posix() in config
        assert f"({page.relative_to(DOCS).as_posix()})" in index
    assert yaml.safe_load(config)["theme"]["font"] is False


def test_pages_that_messages_name_exist() -> None:
    names = {page.stem for page in USER_PAGES}
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        for page in re.findall(r"medprompt docs ([a-z][a-z-]*)", text):
            assert page in names, f"{path}: medprompt docs {page}"
        for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|json)", text):
            assert (ROOT / page).is_file(), f"{path}: {page}"


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the rest of them."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def _calls(page: Path) -> list[list[str]]:
    """Every call of ``medprompt`` in its shell blocks, in words."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    calls = (part for line in text.splitlines() for part in re.split(r"&&|\|", line))
    words = [shlex.split(call, comments=True) for call in calls if call.strip().startswith("medprompt ")]
    return [call[1:] for call in words]


@pytest.mark.parametrize("page", [*USER_PAGES, ROOT / "README.md"], ids=name_of)
def test_commands_and_options_of_shell_blocks_exist(page: Path) -> None:
    for call in _calls(page):
        command, rest = _command(call)
        assert not getattr(command, "commands", {}) or rest[:1] in ([], ["--version"], ["--help"]), call
        known = {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
        assert not [word for word in rest if word.startswith("--") and word not in known | {"--help", "--version"}], (
            call
        )


def _options(command: Any) -> set[str]:
    own = {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
    return own.union(*map(_options, getattr(command, "commands", {}).values()))


FOREIGN = {"--gpus", "--fp16", "--enable-gpl", "--enable-libx264", "--enable-libx265", "--no-binary"}
"""Of docker, trtexec, FFmpeg's configure and pip."""


def test_options_named_in_the_text_exist() -> None:
    known = _options(typer.main.get_command(app)) | FOREIGN | {"--help", "--version"}
    for page in USER_PAGES:
        spans = " ".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))))
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", spans))
        assert not named - known, name_of(page)


def test_every_key_of_a_recipe_is_explained() -> None:
    page = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")
    for name in {*Recipe.model_fields, *DataEntry.model_fields} - {"data"}:
        assert re.search(rf"^\| .*`{name}`", page, re.M), name


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first = re.search(r"^## \[?(\d[^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert first
    assert project["version"] == first.group(1)


def test_every_public_name_is_on_the_page_of_the_python_face() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    shown = {*re.findall(r"^::: medprompt\.(\w+)$", page, re.M), *dir(errors), "__version__"}
    assert not set(medprompt.__all__) - shown


def test_the_script_of_the_tutorial_is_the_one_that_is_run() -> None:
    script = (DOCS / "examples" / "first_bundle.py").read_text(encoding="utf-8")
    body = script.split('"""\n\n', 1)[1]
    assert body in blocks(DOCS / "tutorials" / "first-bundle.md", "python")
    assert len([line for line in body.splitlines() if line.strip()]) <= 14


@pytest.mark.slow
def test_the_site_builds_strictly_and_offline(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "reference" / "cli.html").read_text(encoding="utf-8")
    assert "medprompt prompts embed" in page and "--tile-overlap" in page
    for html in (tmp_path / "site").rglob("*.html"):
        text = html.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", text), html
