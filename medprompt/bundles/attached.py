"""Reports about a finished bundle, kept in its folder: bound to it by its hash, which they do not change.

A measurement names the bundle's hash, so it cannot be part of what the hash covers. Reports lie in ``attached/`` with
an index of their hashes; the index is signed beside the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from medprompt.bundles.load import Bundle
from medprompt.core.errors import BundleError, InputError
from medprompt.core.files import atomic_write, sha256_of_file, write_text
from medprompt.core.models import FrozenModel, validate
from medprompt.core.output_kinds import ATTACHED_FOLDER
from medprompt.core.outputs import lock_outputs

INDEX_FILE = "index.json"

REPORT_KINDS: Mapping[str, frozenset[str]] = {
    "accuracy": frozenset({"bundle_sha256", "matching", "sets"}),
    "regression": frozenset({"bundle_sha256", "baseline", "checks", "outcome"}),
}
"""What ``medprompt bench … --json`` prints, by the keys that tell it. A report of another kind says its ``kind``."""


class AttachedReport(FrozenModel):
    """A report in ``attached/``.

    Attributes:
        kind: See ``REPORT_KINDS``.
        bundle_sha256: The bundle that it is about.
        date: When it was attached, in UTC.
    """

    kind: str
    bundle_sha256: str
    sha256: str
    bytes: int
    date: str


class AttachedIndex(FrozenModel):
    """The content of ``attached/index.json``: reports by file name."""

    reports: dict[str, AttachedReport] = Field(default_factory=dict)


def read_report(path: Path) -> tuple[str, dict[str, Any]]:
    """A report's kind and content.

    Raises:
        InputError: It cannot be read, is no report, or does not say which bundle it is about.
    """
    failure = {"where": str(path), "fix": "medprompt bench accuracy BUNDLE --data DATA --json > REPORT"}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("The report cannot be read.", got=str(error), **failure) from error
    table = content if isinstance(content, dict) else {}
    kinds = [kind for kind, keys in REPORT_KINDS.items() if keys <= table.keys()]
    kind = table.get("kind") or (kinds or [""])[0]
    if not isinstance(kind, str) or not kind or not isinstance(table.get("bundle_sha256"), str):
        expected = f"a report that names its bundle: {', '.join(REPORT_KINDS)}"
        raise InputError("This is no report about a bundle.", expected=expected, got="other content", **failure)
    return kind, table


def attach_report(bundle: Bundle, path: Path) -> AttachedReport:
    """Copy a report about exactly this bundle into its folder. An equal one is attached once.

    Raises:
        InputError: See ``read_report``; or it is about another bundle.
        BundleError: The index of what is attached is damaged.
    """
    kind, content = read_report(path)
    check_about(bundle.sha256, content, path)
    digest, folder = sha256_of_file(path), bundle.path / ATTACHED_FOLDER
    name = f"{kind.replace(' ', '-')}-{digest[:16]}.json"
    with lock_outputs([bundle.path]):  # a compile may be at it
        index = attached_index(bundle.path)
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = AttachedReport(
            kind=kind, bundle_sha256=bundle.sha256, sha256=digest, bytes=path.stat().st_size, date=date
        )
        with atomic_write(folder / name) as aside:
            aside.write_bytes(path.read_bytes())
        reports = {**index.reports, name: entry}
        write_text(index_of(bundle.path), AttachedIndex(reports=reports).model_dump_json(indent=2) + "\n")
    return entry


def check_about(sha256: str, content: Mapping[str, Any], path: Path) -> None:
    """Refuse a report about another bundle than the one with this hash."""
    if content["bundle_sha256"] != sha256:
        raise InputError(
            "The report is about another bundle.",
            where=str(path),
            expected=f"bundle {sha256[:16]}",
            got=f"bundle {str(content['bundle_sha256'])[:16]}",
            fix="measure this bundle; one that was compiled or changed since has another hash",
        )


def index_of(folder: Path) -> Path:
    """Where a bundle's folder lists what is attached."""
    return folder / ATTACHED_FOLDER / INDEX_FILE


def attached_index(folder: Path) -> AttachedIndex:
    """What is attached to the bundle in a folder.

    Raises:
        BundleError: The index is damaged.
    """
    path = index_of(folder)
    failure = BundleError("The index of attached reports is damaged.", where=str(path), fix="attach the reports again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return AttachedIndex()
    except (OSError, ValueError) as error:
        raise failure from error
    return validate(AttachedIndex, content, failure)


def attached_reports(bundle: Bundle) -> tuple[tuple[str, AttachedReport, dict[str, Any]], ...]:
    """Name, entry and content of each attached report about this very bundle, unchanged since it was attached.

    Raises:
        BundleError: One is missing, changed, or about another bundle; or the index is damaged.
    """
    found = []
    for name, entry in attached_index(bundle.path).reports.items():
        if fault := attached_fault(bundle, name, entry):
            raise BundleError(
                "An attached report cannot be used.",
                where=str(bundle.path / ATTACHED_FOLDER / name),
                got=fault,
                fix="remove it and its line of the index; then attach a report about this bundle",
            )
        found.append((name, entry, read_report(bundle.path / ATTACHED_FOLDER / name)[1]))
    return tuple(found)


def attached_fault(bundle: Bundle, name: str, entry: AttachedReport) -> str:
    """What is wrong with an attached report; empty where nothing is."""
    path = bundle.path / ATTACHED_FOLDER / name
    if Path(name).name != name or not path.is_file():
        return "it is missing"
    if sha256_of_file(path) != entry.sha256:
        return "it has changed since it was attached"
    about = read_report(path)[1]["bundle_sha256"]
    return "" if about == bundle.sha256 else f"it is about another bundle, {str(about)[:16]}"
