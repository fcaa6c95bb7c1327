"""The libraries that made a bundle and all that they need, as each installed distribution states itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNSTATED = "not stated"

RUNTIME = ("medprompt", "onnxruntime", "openvino")
"""What serves a bundle; what else made it is left out of a device."""


def library_parts(versions: Mapping[str, str]) -> tuple[list[dict[str, Any]], dict[str, tuple[str, ...]]]:
    """Components of libraries in these versions and of what they need in turn, and the graph of the needs by name."""
    needs: dict[str, tuple[str, ...]] = {}
    waiting = [name for name in versions if name != "python"]
    while waiting:
        name = waiting.pop()
        if name not in needs:
            needs[name] = needs_of(name)
            waiting += needs[name]
    serving = _reached(RUNTIME, needs)
    own = [_component(name, versions.get(name), name in serving) for name in sorted(needs)]
    return [*([_python(versions["python"])] if "python" in versions else []), *own], needs


@cache
def needs_of(name: str) -> tuple[str, ...]:
    """Installed distributions that one requires, without its extras: what is not installed had no part."""
    try:
        stated = [Requirement(line) for line in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        return ()
    wanted = [one.name for one in stated if one.marker is None or one.marker.evaluate({"extra": ""})]
    return tuple(sorted({canonicalize_name(one) for one in wanted if _about(one) is not None}))


def licence_of(name: str) -> str:
    """What an installed library states: its SPDX expression, else its classifiers, else its licence's first line."""
    if name == "python":
        return "PSF-2.0"
    about = _about(name)
    if about is None:
        return UNSTATED
    classified = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License :: ")
    ]
    expression, own = ((about.get_all(field) or [""])[0] for field in ("License-Expression", "License"))
    return expression or ", ".join(classified) or own.strip().partition("\n")[0][:80] or UNSTATED


def supplier_of(name: str) -> str:
    """Who an installed library says it is from: its author, else its maintainer, by name."""
    about = _about(name)
    for field in ("Author", "Maintainer", "Author-email", "Maintainer-email"):
        stated = str(about.get(field) or "") if about is not None else ""
        if found := re.sub(r"\s*<[^>]*>", "", stated).strip():
            return found
    return "the medprompt project" if name == "medprompt" else UNSTATED


@cache
def hash_of_files(name: str) -> str:
    """SHA-256 over name and hash of each file that a distribution's wheel brought; empty where none are recorded.

    What an installer adds (metadata, scripts, compiled files) is left out, so that it is the same on every machine.
    """
    try:
        files = metadata.distribution(name).files or ()
    except metadata.PackageNotFoundError:
        return ""
    lines = sorted(
        f"{path.as_posix()} {path.hash.mode}={path.hash.value}"
        for path in files
        if path.hash is not None and ".dist-info" not in path.parts[0] and path.parts[0] != ".."
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


@cache
def _about(name: str) -> Any:
    try:
        return metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None


def _reached(roots: Iterable[str], needs: Mapping[str, Iterable[str]]) -> frozenset[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, ())
    return frozenset(found)


def _component(name: str, version: str | None, serving: bool) -> dict[str, Any]:
    version = version or metadata.version(name)
    digest, purl = hash_of_files(name), f"pkg:pypi/{name}@{version}"
    about = _about(name)
    return {
        "type": "library",
        "bom-ref": purl,
        "supplier": {"name": supplier_of(name)},
        "name": name,
        "version": version,
        "description": str(about.get("Summary") or "") if about is not None else "",
        "scope": "required" if serving else "excluded",
        **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest else {}),
        "licenses": [_licence(licence_of(name))],
        "purl": purl,
        **({"properties": [{"name": "medprompt:hash-of", "value": HASHED}]} if digest else {}),
    }


HASHED = "sorted lines 'file sha256=HASH' of the wheel's RECORD, without .dist-info"


def _licence(stated: str) -> dict[str, Any]:
    return {"license": {"name": stated}}


def _python(version: str) -> dict[str, Any]:
    return {
        "type": "platform",
        "bom-ref": f"pkg:generic/python@{version}",
        "supplier": {"name": "Python Software Foundation"},
        "name": "python",
        "version": version,
        "scope": "required",
        "licenses": [_licence("PSF-2.0")],
        "purl": f"pkg:generic/python@{version}",
    }
