"""Are a bundle's papers complete? What a reviewer needs beside the model, and which of it is missing or blank."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from medprompt.bundles.attached import attached_fault, attached_index
from medprompt.bundles.bill import BILL_FILE
from medprompt.bundles.load import Bundle
from medprompt.core.errors import missing_extra
from medprompt.core.manifest import About, Manifest

PAPERS = ("MODEL_CARD.md", "LICENCES.md", BILL_FILE, "reports/parity.json")

NEEDED_REPORTS = ("accuracy",)
"""Kinds of report that must be attached."""


def paper_faults(bundle: Bundle) -> tuple[str, ...]:
    """What is missing, blank, or not about this very bundle, a sentence each; none where the papers are complete.

    Raises:
        EngineError: The library that knows CycloneDX's schema is not installed.
    """
    return (*_missing(bundle.manifest), *_blanks(bundle.manifest), *_bill_faults(bundle), *_report_faults(bundle))


def schema_faults(text: str) -> tuple[str, ...]:
    """Where a text breaks the schema of the CycloneDX version that it names.

    Raises:
        EngineError: The library that knows the schema is not installed.
    """
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError as error:
        raise missing_extra("Checking an SBOM", "cyclonedx-python-lib", "sbom") from error
    stated = json.loads(text).get("specVersion")
    known = {version.to_version(): version for version in SchemaVersion}
    if stated not in known:
        return (f"its CycloneDX version is {stated}, which is not known",)
    found = JsonStrictValidator(known[stated]).validate_str(text, all_errors=True)
    return tuple(str(error).partition("\n")[0][:200] for error in found or ())


def _missing(manifest: Manifest) -> Iterator[str]:
    yield from (f"{name} is missing" for name in PAPERS if name not in manifest.files)


def _blanks(manifest: Manifest) -> Iterator[str]:
    about: About = manifest.about
    stated: Mapping[str, object] = {
        "the intended use": manifest.intended_use.strip(),
        "the supplier of the weights": about.supplier,
        "the licence of the weights": about.licence,
        "what is known to go wrong (limitations)": about.limitations,
        "the data sets of the weights": about.data,
    }
    yield from (f"{what}: blank" for what, value in stated.items() if not value)
    for record in about.data:
        blank = [name for name in ("licence", "source", "sha256") if not getattr(record, name)]
        yield from (f"data set {record.name}, {name}: blank" for name in blank)


def _bill_faults(bundle: Bundle) -> Iterator[str]:
    path = bundle.path / BILL_FILE
    if BILL_FILE not in bundle.manifest.files:
        return
    text = path.read_text(encoding="utf-8")
    yield from (f"{BILL_FILE}: {fault}" for fault in schema_faults(text))
    bill: dict[str, Any] = json.loads(text)
    parts = bill.get("components", [])
    if not any("modelCard" in part for part in parts):
        yield f"{BILL_FILE} has no model card: export again"
    listed = {part["name"]: part["hashes"][0]["content"] for part in parts if part["type"] == "file"}
    for name, entry in bundle.manifest.files.items():
        if name != BILL_FILE and listed.get(name) != entry.sha256:
            yield f"{BILL_FILE} does not list {name} as it is"


def _report_faults(bundle: Bundle) -> Iterator[str]:
    reports = attached_index(bundle.path).reports
    faults = {name: attached_fault(bundle, name, entry) for name, entry in reports.items()}
    yield from (f"attached report {name}: {fault}" for name, fault in faults.items() if fault)
    sound = {entry.kind for name, entry in reports.items() if not faults[name]}
    yield from (f"no {kind} report is attached" for kind in NEEDED_REPORTS if kind not in sound)
