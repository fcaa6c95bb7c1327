"""Nothing that an extra installs states the GPL: a device maker may ship it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from medprompt.export.documents.parts import licence_of

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted({*PROJECT["optional-dependencies"]} - {"dev", "docs"})
GPL = re.compile(r"\bA?GPL|(?<!Lesser )General Public", re.IGNORECASE)


def installed_by(lines: list[str], found: set[str]) -> set[str]:
    """Distributions that requirements bring, theirs in turn, as far as they are installed here."""
    for one in map(Requirement, lines):
        if one.name == "medprompt":
            installed_by([line for extra in one.extras for line in PROJECT["optional-dependencies"][extra]], found)
            continue
        try:
            own = metadata.requires(one.name) or []
        except metadata.PackageNotFoundError:
            continue
        new = {f"{one.name}[{extra}]" for extra in {"", *one.extras}} - found
        found |= new
        for key in new:
            extra = key.partition("[")[2][:-1]
            wanted = [
                line for line in own if (mark := Requirement(line).marker) is None or mark.evaluate({"extra": extra})
            ]
            installed_by(wanted, found)
    return found


def test_no_extra_brings_the_gpl() -> None:
    names = {key.partition("[")[0] for key in installed_by([f"medprompt[{','.join(EXTRAS)}]"], set())}
    assert {"numpy", "pydicom", "av"} <= names
    assert {name: licence for name in names if GPL.search(licence := licence_of(name))} == {}


@pytest.mark.parametrize(
    ("licence", "gpl"),
    [
        ("GPL-3.0-only", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0", True),
        ("LGPL-3.0-or-later", False),
        ("GNU Lesser General Public License v2", False),
    ],
)
def test_what_counts_as_gpl(licence: str, gpl: bool) -> None:
    assert bool(GPL.search(licence)) is gpl
