"""The repository's pages as the tests of this folder read them: links, anchors, code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
USER_PAGES = [page for page in PAGES if "research" not in page.relative_to(DOCS).parts]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)


def name_of(page: Path) -> str:
    """The page's path in the repository, as a test's id."""
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The page's text without blocks and spans of code."""
    return re.sub(r"`[^`\n]+`", "``", FENCE.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> Iterator[str]:
    """Targets of its links and pictures that lead to files or headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http://", "https://", "mailto:")):
            yield target


def anchors(page: Path) -> set[str]:
    """The ids of its headings, as Markdown's ``toc`` makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in plain}


def blocks(page: Path, language: str) -> list[str]:
    """Its code blocks in a language."""
    return [body for _, kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]
