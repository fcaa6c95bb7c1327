"""What a node is told: by a TOML file, by options, or both."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from medprompt.core.errors import InputError
from medprompt.core.models import FrozenModel, validate

AETitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
"""Of value representation AE (PS3.5, 6.2): up to 16 characters, no backslash."""

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Tls(FrozenModel):
    """Certificates (PEM): one's own, and the authority ``ca`` that a peer's must be of."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


class Destination(FrozenModel):
    """Where results go: an archive's AE title, host, port (C-STORE), or its DICOMweb URL (STOW-RS)."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    ae_title: AETitle | None = None
    host: str = "127.0.0.1"
    port: Port = 104
    tls: Tls | None = None
    commitment: bool = False
    url: str | None = Field(default=None, pattern=r"^https?://")
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.ae_title is None) == (self.url is None):
            raise ValueError("expected either ae_title (C-STORE) or url (STOW-RS)")
        if self.commitment and self.url:
            raise ValueError("expected commitment of a destination with ae_title only")
        return self


class Limits(FrozenModel):
    """What one peer, and all of them together, may take."""

    associations: int = Field(default=8, ge=1, le=100)
    pdu_bytes: int = Field(default=1 << 18, ge=4096, le=1 << 24)
    object_mb: float = Field(default=512, gt=0)
    queue_objects: int = Field(default=100_000, ge=1)
    free_mb: float = Field(default=1024, ge=0)
    peer_s: Seconds = 30


class Retry(FrozenModel):
    """When a delivery is tried again: after ``first_s``, then twice as long each time, up to ``longest_s``."""

    first_s: Seconds = 5
    longest_s: Seconds = 900
    attempts: int = Field(default=200, ge=1)
    analyses: int = Field(default=10, ge=1)
    commitment_s: Seconds = 600


class Keep(FrozenModel):
    """How long files stay after the last delivery, and how long an instance is known again."""

    hours: float = Field(default=0, ge=0)
    known_days: float = Field(default=30, gt=0)


class NodeConfig(FrozenModel):
    """A node; ``medprompt docs dicom-node`` has every key."""

    queue: Path
    calling: Annotated[tuple[AETitle, ...], Field(min_length=1)]
    destination: Annotated[tuple[Destination, ...], Field(min_length=1)]
    ae_title: AETitle = "MEDPROMPT"
    host: str = "127.0.0.1"
    port: Port = 11112
    quiet_s: Seconds = 60
    frames: str = "all"
    tls: Tls | None = None
    limits: Limits = Limits()
    retry: Retry = Retry()
    keep: Keep = Keep()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [one.name for one in self.destination]
        if len(set(names)) < len(names):
            raise ValueError("expected destinations of different names")
        if self.tls and not (self.tls.certificate and self.tls.key):
            raise ValueError("expected tls.certificate and tls.key")
        return self


def node_config(path: Path | None, given: dict[str, Any]) -> NodeConfig:
    """Read a node's configuration.

    Args:
        path: TOML; paths in it count from its folder.
        given: Keys that count more than the file's, where not None.

    Raises:
        InputError: The file cannot be read, or a rule is broken.
    """
    raw = _toml(path) if path else {}
    raw |= {name: value for name, value in given.items() if value is not None}
    failure = InputError(
        "The node's configuration cannot be used.",
        where=str(path or "options"),
        fix="see `medprompt docs dicom-node`",
    )
    return validate(NodeConfig, raw, failure)


def _toml(path: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        got = error.strerror or "" if isinstance(error, OSError) else str(error)
        raise InputError(
            "The node's configuration cannot be read.", where=str(path), expected="TOML", got=got
        ) from None
    _from_folder(raw, path.parent)
    return raw


def _from_folder(table: dict[str, Any], folder: Path) -> None:
    """Make the paths of a table, and of the tables in it, absolute."""
    for key, value in table.items():
        if key in ("queue", "certificate", "key", "ca", "token_file") and isinstance(value, str):
            table[key] = folder.absolute() / value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _from_folder(inner, folder)
