"""A change record's folder: what ``medprompt release`` writes, its hashes, and who signed them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from medprompt.bundles.signing import FileSignature, check_file_signature, sign_file
from medprompt.core.errors import BundleError
from medprompt.core.files import sha256_of_file, write_text
from medprompt.core.output_kinds import LISTING, write_listing

RECORD_FILE, RECORD_HASHES = "record.json", "record.sha256"


@dataclass(frozen=True)
class CheckedRecord:
    """A record whose hashes are right.

    Attributes:
        outcome: ``passed``, ``failed`` or ``no verdict``.
        key: Who signed it, see ``FileSignature``; empty where no key was asked for.
    """

    outcome: str
    key: str


def is_record(folder: Path) -> bool:
    """Whether a folder is a change record's."""
    return (folder / RECORD_HASHES).is_file() and (folder / RECORD_FILE).is_file()


def write_hashes(folder: Path) -> None:
    """List the hashes of a record's files as ``sha256sum -c`` reads them: that file is what is signed."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".json", ".html", ".pdf"})
    write_text(folder / RECORD_HASHES, "".join(f"{sha256_of_file(path)}  {path.name}\n" for path in files))


def sign_record(folder: Path, private: Path, password: bytes | None = None) -> FileSignature:
    """Check a record's hashes, then sign their list.

    Raises:
        BundleError: A file has changed.
        InputError: The key cannot be read, or is none of Ed25519.
    """
    check_record(folder)
    signature = sign_file(folder / RECORD_HASHES, private, password)
    if (folder / LISTING).is_file():
        write_listing(folder)  # the signature is ours too
    return signature


def check_record(folder: Path, public: Path | None = None) -> CheckedRecord:
    """Check that a record's files are as they were written and, with a key, who signed them.

    Raises:
        BundleError: A file is missing, changed or not listed; or the signature does not hold.
    """
    signed = check_file_signature(folder / RECORD_HASHES, public) if public else None
    listed = {}
    for line in (folder / RECORD_HASHES).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    present = {path.name for path in folder.iterdir() if path.suffix in {".json", ".html", ".pdf"}}
    for name in sorted(present | listed.keys()):
        path = folder / name
        if Path(name).name != name or not path.is_file() or sha256_of_file(path) != listed.get(name):
            raise BundleError(
                "A file of the change record has changed.",
                where=str(path),
                expected=f"sha256 {listed.get(name, 'in ' + RECORD_HASHES)}",
                fix="fetch the record again, or write it anew with medprompt release",
            )
    outcome = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["outcome"]
    return CheckedRecord(str(outcome), signed.key if signed else "")
