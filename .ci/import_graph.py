"""Rooms and arrows: which part of the code imports which. Exit code 1 where a rule of the house is broken.

Rules: no two packages import each other, directly or in a circle; no arrow runs upward, from a layer to one above it;
nothing but a few files lies loose on top of ``medprompt/``. An arrow counts wherever in a file the import stands.

The figures count rooms: ``export``, ``runtime`` and ``benchmarks`` as one each, and every package or loose module of
``medprompt/``. Run it as ``python .ci/import_graph.py [ROOT]``; it reads the files and imports nothing of ours.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FOLDERS = {
    "medprompt": "medprompt",
    "export": "medprompt.export",
    "runtime": "medprompt.runtime",
    "benchmarks": "medprompt.benchmarks",
}
"""The repository's folders, and the names they are imported by."""

LAYERS = ("medprompt.core", "medprompt", "medprompt.runtime", "medprompt.export", "medprompt.benchmarks")
"""From the bottom to the top; a package belongs to the longest of these names that it begins with."""

TOP = ("medprompt", "medprompt.cli", "medprompt.__main__", "medprompt.commands")
"""Above all layers: the face and the command line. Nothing below imports them."""

LOOSE = {"__init__", "__main__", "cli"}
"""What may lie on top of ``medprompt/``."""

Arrows = Mapping[str, set[str]]


def modules_of(root: Path) -> dict[str, Path]:
    """Every module's name, with its file."""
    found: dict[str, Path] = {}
    for folder, name in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = (name, *path.relative_to(root / folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in full]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name in modules)


def package_of(module: str, modules: Mapping[str, Path]) -> str:
    """The package that a module lies in; the face and the command line stand for themselves."""
    if module in TOP or modules[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0]


def room_of(module: str) -> str:
    """The room that a module is in: see the module's docstring."""
    parts = module.split(".")
    return ".".join(parts[:2])


def layer_of(package: str) -> int:
    """How high a package stands."""
    if package in TOP:
        return len(LAYERS)
    return LAYERS.index(max((name for name in LAYERS if f"{package}.".startswith(f"{name}.")), key=len))


def circles_of(arrows: Arrows) -> list[list[str]]:
    """The groups that reach each other both ways."""
    reach = {name: _reached(name, arrows) for name in arrows}
    groups = {
        tuple(sorted(other for other in reached if name in reach.get(other, set())))
        for name, reached in reach.items()
        if name in reached
    }
    return [list(group) for group in sorted(groups)]


def _reached(start: str, arrows: Arrows) -> set[str]:
    seen: set[str] = set()
    todo = list(arrows.get(start, ()))
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(arrows.get(name, ()))
    return seen


def arrows_between(units: Mapping[str, str], imports: Arrows) -> dict[str, set[str]]:
    """Imports between modules as arrows between the units that the modules are in."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports.items():
        found[units[module]] |= {units[target] for target in targets} - {units[module]}
    return dict(found)


def main(arguments: Sequence[str]) -> int:
    """Print the figures and the broken rules."""
    root = Path(arguments[0]) if arguments else Path(__file__).parents[1]
    modules = modules_of(root)
    imports = {module: set(imports_of(path, modules)) for module, path in modules.items()}
    rooms = arrows_between({module: room_of(module) for module in modules}, imports)
    packages = arrows_between({module: package_of(module, modules) for module in modules}, imports)
    upward = sorted(
        f"{package} -> {target}"
        for package, targets in packages.items()
        for target in targets
        if layer_of(target) > layer_of(package)
    )
    circles = circles_of(packages)
    loose = sorted(path.stem for path in (root / "medprompt").glob("*.py") if path.stem not in LOOSE)
    print(f"rooms {len(rooms)}, arrows {sum(map(len, rooms.values()))}, circles {len(circles_of(rooms))}")
    print(f"packages {len(packages)}, arrows {sum(map(len, packages.values()))}, circles {len(circles)}")
    print(f"upward {len(upward)}, loose modules {len(loose)}")
    for title, broken in (("circle", [", ".join(group) for group in circles]), ("upward", upward), ("loose", loose)):
        for line in broken:
            print(f"{title}: {line}")
    return 1 if circles or upward or loose else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
