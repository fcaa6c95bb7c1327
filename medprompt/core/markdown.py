"""Markdown for the documents that commands write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(map(markdown_cell, line))} |" for line in (heads, ["---"] * len(heads), *rows)]


def markdown_cell(text: str) -> str:
    """Text that cannot end a table's cell: no bars, no line breaks."""
    return " ".join(text.replace("|", "\\|").split())
