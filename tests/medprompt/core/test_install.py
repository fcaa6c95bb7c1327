"""What to type where a package is absent: right however medprompt itself was installed."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from medprompt.core import packages
from medprompt.core.errors import missing_extra

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def own_packages(extra: str) -> set[str]:
    """What an extra needs, as pyproject.toml says it, extras within it followed."""
    found: set[str] = set()
    for line in EXTRAS[extra]:
        inner = re.fullmatch(r"medprompt\[(.*)\]", line)
        found |= set().union(*map(own_packages, inner[1].split(","))) if inner else {line}
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_names_its_packages(extra: str) -> None:
    command = packages.install_command(extra)
    assert command.startswith("pip install '")
    assert set(re.findall(r"'([^']+)'", command)) == own_packages(extra)
    assert command in str(missing_extra("This", "a package", extra))


def test_options_of_pip_come_first() -> None:
    assert packages.install_command("lora", "--force-reinstall") == "pip install --force-reinstall 'peft>=0.18'"


@pytest.mark.parametrize("absent", [True, False], ids=["not installed", "unknown extra"])
def test_without_metadata_the_extra_itself_is_named(absent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    packages._requirements.cache_clear()
    if absent:
        monkeypatch.setattr(metadata, "requires", refuse)
    assert packages.install_command("nothing") == "pip install 'medprompt[nothing]'"
    packages._requirements.cache_clear()
