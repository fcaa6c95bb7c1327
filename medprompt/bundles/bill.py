"""A bundle's files in its SBOM (bill of materials, CycloneDX)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medprompt.core.files import sha256_of_file, write_text

BILL_FILE = "sbom.json"


def list_file(folder: Path, path: Path) -> None:
    """Add a file to the SBOM of its bundle's folder, or bring it up to date; nothing where the bundle has none."""
    bill = folder / BILL_FILE
    if bill.is_file():
        document, entry = json.loads(bill.read_text(encoding="utf-8")), file_entry(folder, path)
        others = [part for part in document["components"] if (part["type"], part["name"]) != ("file", entry["name"])]
        write_text(bill, json.dumps({**document, "components": [*others, entry]}, indent=2) + "\n")


def file_entry(folder: Path, path: Path) -> dict[str, Any]:
    """A file of the bundle's folder and its hash."""
    return {
        "type": "file",
        "name": path.relative_to(folder).as_posix(),
        "hashes": [{"alg": "SHA-256", "content": sha256_of_file(path)}],
    }
