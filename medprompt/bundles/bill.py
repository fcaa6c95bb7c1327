"""A bundle's SBOM (bill of materials, CycloneDX) as it follows what is added to the bundle: files and engines."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from medprompt.bundles.anomalies import Anomaly, anomalies_of
from medprompt.core.files import sha256_of_file, write_text
from medprompt.core.manifest import CompiledEngine

BILL_FILE = "sbom.json"
SPEC_VERSION = "1.7"
"""The first that says of a part that it is expected on the device and not in the bundle (``isExternal``)."""

MODEL_REF, BUNDLE_REF = "model", "bundle"
DRIVER_OF_CUDA = {"12": "525", "13": "580"}
"""The first NVIDIA driver for a major version of CUDA, by NVIDIA's release notes."""

Part = dict[str, Any]


def list_file(folder: Path, path: Path) -> None:
    """Add a file to the SBOM of its bundle's folder, or bring it up to date; nothing where the bundle has none."""
    _add(folder, [file_entry(folder, path)])


def list_engine(folder: Path, compiled: CompiledEngine) -> None:
    """Add an engine's files to the SBOM, and the libraries and the driver that it needs on the device, likewise."""
    _add(folder, [*(file_entry(folder, folder / name) for name in compiled.files), *engine_parts(compiled)])


def file_entry(folder: Path, path: Path) -> Part:
    """A file of the bundle's folder and its hash."""
    name = path.relative_to(folder).as_posix()
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256_of_file(path)}],
    }


def engine_parts(compiled: CompiledEngine) -> list[Part]:
    """What an engine file needs and the bundle does not hold: its library in this very version, CUDA, a driver."""
    library = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}[compiled.builder]
    parts = [_external("library", library, f"vers:pypi/{compiled.builder_version}", "Proprietary")]
    if compiled.builder == "tensorrt_rtx":  # its only wheels are of CUDA 13
        parts.append(_external("library", "cuda-runtime", "vers:generic/>=13|<14", "Proprietary"))
        parts.append(
            _external("device-driver", "nvidia-driver", f"vers:generic/>={DRIVER_OF_CUDA['13']}", "Proprietary")
        )
    else:  # its wheels are of CUDA 12 or 13, and the engine does not say of which
        parts.append(_external("library", "cuda-runtime", "vers:generic/>=12|<14", "Proprietary"))
        parts.append(
            _external("device-driver", "nvidia-driver", f"vers:generic/>={DRIVER_OF_CUDA['12']}", "Proprietary")
        )
    return parts


def with_dependencies(components: Iterable[Part], needs: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """The SBOM's graph: the bundle needs all, the model its data, a library what ``needs`` says (names to names)."""
    parts = list(components)
    by_name = {part["name"]: part["bom-ref"] for part in parts if part["type"] not in ("file", "data")}
    own = [part["bom-ref"] for part in parts]
    data = [part["bom-ref"] for part in parts if part["type"] == "data"]
    edges = {BUNDLE_REF: own, MODEL_REF: data}
    for name, targets in needs.items():
        edges[by_name[name]] = [by_name[target] for target in targets if target in by_name]
    edges |= {ref: [] for ref in own if ref not in edges}
    return [{"ref": ref, "dependsOn": sorted(targets)} for ref, targets in edges.items()]


def anomaly_entries(components: Iterable[Part]) -> list[dict[str, Any]]:
    """Known anomalies of an SBOM's parts.

    CycloneDX has no word for a defect that is no security matter. ``vulnerabilities`` is the place in which a fault has
    affected versions, an analysis and a response, and which tools show; a property says what kind it is.
    """
    parts = {part["name"]: part for part in components if part["type"] in ("library", "framework")}
    versions = {name: _version(part) for name, part in parts.items()}
    return [
        _anomaly_entry(one, {name: parts[name] for name in one.affected(versions)}) for one in anomalies_of(versions)
    ]


def _anomaly_entry(one: Anomaly, parts: Mapping[str, Part]) -> dict[str, Any]:
    return {
        "bom-ref": f"anomaly:{one.id}",
        "id": one.id,
        "source": {"name": "issue tracker", "url": one.link},
        "description": one.what,
        "analysis": {
            "state": one.state,
            **({"justification": "protected_by_mitigating_control"} if one.state == "not_affected" else {}),
            "response": ["workaround_available"],
            "detail": one.handled,
        },
        "affects": [
            {"ref": part["bom-ref"], "versions": [{"version": _version(part), "status": "affected"}]}
            for part in parts.values()
        ],
        "properties": [{"name": "medprompt:kind", "value": "known anomaly (defect); no security advisory"}],
    }


def _version(part: Part) -> str:
    return str(part.get("version", str(part.get("versionRange", "")).partition("/")[2]))


def _external(kind: str, name: str, versions: str, licence: str) -> Part:
    return {
        "type": kind,
        "bom-ref": f"required:{name}",
        "supplier": {"name": "NVIDIA Corporation"},
        "name": name,
        "versionRange": versions,
        "isExternal": True,
        "scope": "required",
        "licenses": [{"license": {"name": licence}}],
        "properties": [{"name": "medprompt:presence", "value": "required on the device; not in the bundle"}],
    }


def _add(folder: Path, entries: Iterable[Part]) -> None:
    bill = folder / BILL_FILE
    if not bill.is_file():
        return
    document = json.loads(bill.read_text(encoding="utf-8"))
    new = {(part["type"], part["name"]): part for part in entries}
    kept = [part for part in document["components"] if (part["type"], part["name"]) not in new]
    gone = {part["bom-ref"] for part in kept if part["type"] == "file" and not (folder / part["name"]).exists()}
    kept = [part for part in kept if part["bom-ref"] not in gone]
    document["components"] = [*kept, *new.values()]
    document["version"] = document.get("version", 1) + 1
    if document.get("specVersion") == SPEC_VERSION:  # an SBOM of an older release has neither graph nor anomalies
        _extend_graph(document, list(new.values()), gone)
        document["vulnerabilities"] = anomaly_entries(document["components"])
    write_text(bill, json.dumps(document, indent=2) + "\n")


def _extend_graph(document: dict[str, Any], parts: Iterable[Part], gone: Collection[str]) -> None:
    edges = {edge["ref"]: edge for edge in document["dependencies"] if edge["ref"] not in gone}
    for part in parts:
        edges.setdefault(part["bom-ref"], {"ref": part["bom-ref"], "dependsOn": []})
        edges[BUNDLE_REF]["dependsOn"] = sorted({*edges[BUNDLE_REF]["dependsOn"], part["bom-ref"]} - {*gone})
    document["dependencies"] = list(edges.values())
