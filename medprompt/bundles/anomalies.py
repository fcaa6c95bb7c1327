"""Known anomalies of the parts that medprompt builds on: which of them apply to given versions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from medprompt.core.errors import InputError
from medprompt.core.models import FrozenModel, validate
from medprompt.core.yaml import load_yaml

ANOMALIES_FILE = Path(__file__).with_name("anomalies.yaml")


class Anomaly(FrozenModel):
    """A fault of somebody else's part.

    Attributes:
        parts: Versions that have it (PEP 440 specifiers), by distribution.
        together: It takes all of the parts; else any one.
        link: Where it was reported.
        handled: What medprompt does about it, or what is left for its user to do.
        state: Of the analysis, as CycloneDX has it: ``not_affected`` where medprompt works around it.
    """

    id: str
    parts: dict[str, str]
    together: bool = False
    link: str
    what: str
    handled: str
    state: Literal["in_triage", "not_affected"]

    def affected(self, versions: Mapping[str, str]) -> dict[str, str]:
        """Those of some parts' versions that have it, by distribution."""
        found = {name: versions[name] for name, range_ in self.parts.items() if _within(versions.get(name, ""), range_)}
        return found if not self.together or len(found) == len(self.parts) else {}


class _AnomalyList(FrozenModel):
    anomalies: tuple[Anomaly, ...]


@cache
def known_anomalies() -> tuple[Anomaly, ...]:
    """All that the list has, see ``anomalies.yaml``."""
    failure = InputError(
        "The list of known anomalies is damaged.", where=str(ANOMALIES_FILE), fix="reinstall medprompt"
    )
    return validate(_AnomalyList, {"anomalies": load_yaml(ANOMALIES_FILE)}, failure).anomalies


def anomalies_of(versions: Mapping[str, str]) -> tuple[Anomaly, ...]:
    """Those that apply to parts of these versions, by distribution."""
    return tuple(one for one in known_anomalies() if one.affected(versions))


def _within(version: str, range_: str) -> bool:
    try:
        return bool(version) and SpecifierSet(range_).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # a version that cannot be read may be one of them
