"""Figures of the shipped code: its size, the length of its functions, what is typed, documented and commented.

Shipped is what the wheel carries: ``benchmarks/research`` is left out. Lines are all lines of a file. A function is as
long as its ``def`` and body; decorators and the docstring do not count. Public is what no ``_`` hides.
Run it as ``python .ci/code_figures.py [ROOT]``; it reads the files and imports nothing of ours.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("medprompt", "export", "runtime", "benchmarks")
LONG = 40
"""Functions with more lines than this are counted as long."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def shipped_files(root: Path) -> list[Path]:
    """Every Python file that the wheel carries."""
    found = (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py")))
    return [path for path in found if "research" not in path.relative_to(root).parts]


def functions_of(tree: ast.Module) -> list[Function]:
    """Every function and method, inner ones too."""
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def length_of(node: Function) -> int:
    """The lines from ``def`` to the end, the docstring left out."""
    first = node.body[0] if ast.get_docstring(node) else None
    return _lines(node) - (_lines(first) if first else 0)


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_typed(node: Function) -> bool:
    """Whether the result and every argument but ``self`` and ``cls`` have a type."""
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    untyped = (one for one in arguments if one and one.annotation is None and one.arg not in ("self", "cls"))
    return node.returns is not None and not any(untyped)


def public_names(body: Sequence[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Public classes, functions and methods; what lies inside a function is nobody's name."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node.body)


def comment_lines(text: str) -> int:
    """Lines with a comment, those of the tools (``noqa``, ``type:``) left out."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = (token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
    return sum(not comment.startswith(("noqa", "type:", "!")) for comment in comments)


def quantile(ordered: Sequence[int], share: float) -> int:
    """The nearest-rank quantile of sorted numbers."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(numbers: Sequence[int], *shares: float) -> str:
    """The quantiles and the largest, as ``a/b/max``."""
    ordered = sorted(numbers)
    return "/".join(str(number) for number in (*(quantile(ordered, share) for share in shares), ordered[-1]))


def main(arguments: Sequence[str]) -> None:
    """Print one figure a line."""
    root = Path(arguments[0]) if arguments else Path(__file__).parents[1]
    texts = [path.read_text(encoding="utf-8") for path in shipped_files(root)]
    trees = [ast.parse(text) for text in texts]
    lines = [len(text.splitlines()) for text in texts]
    functions = [node for tree in trees for node in functions_of(tree)]
    lengths = [length_of(node) for node in functions]
    names = [node for tree in trees for node in public_names(tree.body)]
    documented = sum(ast.get_docstring(node) is not None for node in names)
    typed = sum(map(is_typed, functions))
    print(f"files {len(texts)}, lines {sum(lines)}; lines of a file, median/p90/max: {spread(lines, 0.5, 0.9)}")
    print(f"functions {len(functions)}; lines, median/p90/p99/max: {spread(lengths, 0.5, 0.9, 0.99)}")
    print(f"functions over {LONG} lines: {sum(length > LONG for length in lengths)}")
    print(f"functions fully typed: {typed / len(functions):.1%}")
    print(f"public names documented: {documented} of {len(names)}, {documented / len(names):.1%}")
    print(f"lines with a comment: {sum(map(comment_lines, texts)) / sum(lines):.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
