"""A small bundle whose papers are complete, for tests of several rooms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medprompt.bundles.bill import BILL_FILE
from medprompt.bundles.load import Bundle, load_bundle, write_manifest
from medprompt.core.manifest import About, DataRecord
from medprompt.export.documents.sbom import library_versions, sbom_of_folder
from tests.runtime.bundles import make_folder, make_manifest, record

DATA = DataRecord(
    name="cells:train", images=3, boxes=7, sha256="a" * 64, licence="MIT", source="https://example.org/cells"
)
ABOUT = About(
    supplier="A laboratory",
    licence="Apache-2.0",
    limitations=("Other stains may be missed.",),
    data=(DATA,),
    figures={"ap50/cells": 0.5},
)


def complete_bundle(folder: Path, **changes: Any) -> Bundle:
    """A bundle of ``make_folder`` with all papers but an attached report; ``changes`` are of its manifest."""
    versions = {
        name: version for name, version in library_versions().items() if name in ("python", "medprompt", "numpy")
    }
    manifest = make_manifest(**{"about": ABOUT, "versions": versions, "engines": (record("fake"),)} | changes)
    make_folder(folder)
    (folder / "reports").mkdir()
    for name in ("MODEL_CARD.md", "LICENCES.md", "reports/parity.json"):
        (folder / name).write_text("{}\n")
    (folder / BILL_FILE).write_text(json.dumps(sbom_of_folder(folder, manifest)))
    write_manifest(folder, manifest)
    return load_bundle(folder)


def accuracy_report(bundle: Bundle, path: Path, **changes: Any) -> Path:
    """A report as ``medprompt bench accuracy --json`` prints it, of one set."""
    estimate = {"value": 0.8, "low": 0.7, "high": 0.9}
    entry = {"name": "cells:val", "images": 3, "boxes": 7, "unread": [], "parity": None}
    content = {
        "device": "fake",
        "bundle_sha256": bundle.sha256,
        "matching": {},
        "intervals": {"method": "percentile bootstrap over images"},
        "sets": [{**entry, "bundle": {"estimates": {"ap50": estimate}}}],
    }
    path.write_text(json.dumps(content | changes))
    return path
