"""Which packages are installed, in which version, and the command that installs what an extra needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata


def package_version(distribution: str) -> str:
    """The version of an installed distribution, by its name on the package index; empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def package_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed, by name and in order."""
    return {name: version for name in distributions if (version := package_version(name))}


OF_EXTRA = re.compile(
    r"""^(?P<name>[\w.-]+)(\[(?P<extras>[^]]*)\])?(?P<version>[^;]*);.*extra == ["'](?P<extra>[^"']+)"""
)
"""A line of the installed metadata: ``onnxruntime>=1.20; extra == "cpu"``."""


def install_command(extra: str, *options: str) -> str:
    """The command, with pip's options, that installs what an extra needs: ``pip install 'onnxruntime>=1.20' …``."""
    packages = tuple(dict.fromkeys(_packages(extra))) or (f"medprompt[{extra}]",)
    return " ".join(["pip install", *options, *(f"'{package}'" for package in packages)])


def _packages(extra: str) -> Iterator[str]:
    """Requirements of an extra, those of the extras that it includes in their place."""
    for line in filter(lambda line: line["extra"] == extra, _requirements()):
        if line["name"] != "medprompt":
            extras = f"[{line['extras']}]" if line["extras"] else ""
            yield line["name"] + extras + line["version"].strip()
            continue
        for included in line["extras"].split(","):
            yield from _packages(included.strip())


@cache
def _requirements() -> tuple[dict[str, str], ...]:
    try:
        lines = metadata.requires("medprompt") or ()
    except metadata.PackageNotFoundError:  # run from a folder on the path, without being installed
        lines = ()
    return tuple(found.groupdict() for line in lines if (found := OF_EXTRA.match(line)))
