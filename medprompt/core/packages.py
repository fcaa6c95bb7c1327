"""Which packages are installed, and in which version."""

from __future__ import annotations

from collections.abc import Iterable
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
