"""``medprompt docs``: the documentation, without a network."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medprompt.core.pages import page_text, page_title, pages
from medprompt.core.terminal import print_markdown, print_table


def docs(
    page: Annotated[str | None, typer.Argument(help="A page to read. Without it, the pages are listed.")] = None,
) -> None:
    """Read the documentation, or list its pages.

    Example: `medprompt docs results`
    """
    if page is None:
        rows = [(name, page_title(path)) for name, path in pages().items()]
        print_table("Pages", ["page", "about"], rows, "read one: medprompt docs PAGE", align="left")
    elif sys.stdout.isatty():
        print_markdown(page_text(page))
    else:
        print(page_text(page), end="")
