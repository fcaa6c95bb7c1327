"""What the site generates: the command line's reference from the app itself, and a page for each notebook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CLI_PAGE = "reference/cli.md"
_TREE = TemporaryDirectory(prefix="medprompt-docs-")


@event_priority(100)  # ahead of mkdocstrings, which takes its paths here
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings the package as a wheel has it: in the repository parts of it lie beside ``medprompt/``."""
    package = Path(_TREE.name, "medprompt")
    package.mkdir(exist_ok=True)
    for part in (*(ROOT / "medprompt").iterdir(), ROOT / "export", ROOT / "runtime", ROOT / "benchmarks"):
        link = package / part.name
        if not link.exists():
            link.symlink_to(part)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_TREE.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a Markdown page beside each notebook; the notebook itself stays there to be downloaded."""
    for file in list(files):
        path = PurePosixPath(file.src_uri)
        if path.suffix == ".ipynb":
            notebook = json.loads(Path(config.docs_dir, path).read_text(encoding="utf-8"))
            files.append(File.generated(config, str(path.with_suffix(".md")), content=page_of_notebook(notebook, path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Append every command to the page of the command line."""
    if page.file.src_uri != CLI_PAGE:
        return markdown
    from medprompt.cli import app

    return "\n".join([markdown, *command_lines(typer.main.get_command(app), "medprompt")])


def page_of_notebook(notebook: dict[str, Any], path: PurePosixPath) -> str:
    """Its text and code as Markdown."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    parts = [f"```python\n{text}\n```" if kind == "code" else text for kind, text in zip(kinds, cells, strict=True)]
    parts.insert(1, f"[Download this notebook]({path.name}).")
    return "\n\n".join(parts) + "\n"


def command_lines(command: Any, name: str) -> Iterator[str]:
    """A heading, the help text and a table of parameters for the command and all below it."""
    if command.hidden:
        return
    if " " in name:
        yield f"\n{'#' * min(3, name.count(' ') + 1)} {name}\n"
    yield (command.help or "").strip() + "\n"
    parameters = [one for one in command.params if not one.hidden and one.name != "help"]
    if parameters:
        yield "| parameter | takes | default | |\n|---|---|---|---|"
    for one in parameters:
        is_option = one.param_type_name == "option"
        spelling = ", ".join(f"`{word}`" for word in [*one.opts, *one.secondary_opts]) if is_option else f"`{one.name}`"
        takes = one.display_type(typer.Context(command)).strip("<>") + (" …" if one.multiple or one.nargs == -1 else "")
        cells = (spelling, takes, default_of(one), one.help or "")
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
    for child in getattr(command, "commands", {}).values():
        yield from command_lines(child, f"{name} {child.name}")


def default_of(parameter: Any) -> str:
    """Its default in words; empty where there is none."""
    if parameter.required:
        return "required"
    default = getattr(parameter.default, "value", parameter.default)
    return "" if default in (None, False, "", [], ()) or callable(default) else f"`{default}`"
