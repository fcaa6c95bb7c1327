"""The bundle's SBOM (bill of materials, CycloneDX): model, data, libraries, files, and what a device must have."""

from __future__ import annotations

import json
import platform
import uuid
from pathlib import Path
from typing import Any

from medprompt.bundles.bill import (
    BILL_FILE,
    BUNDLE_REF,
    SPEC_VERSION,
    anomaly_entries,
    engine_parts,
    file_entry,
    with_dependencies,
)
from medprompt.bundles.load import HASH_FILE, MANIFEST_FILE
from medprompt.core.manifest import BundleManifest, Manifest
from medprompt.core.markdown import markdown_table
from medprompt.core.output_kinds import ATTACHED_FOLDER
from medprompt.core.packages import package_version, package_versions
from medprompt.export.documents.ml_bom import data_components, model_component, statements
from medprompt.export.documents.parts import library_parts, licence_of

LIBRARIES = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxslim",
    "onnxruntime",
    "openvino",
    "numpy",
    "pillow",
    "torchvision",
    "timm",
    "scipy",
    "safetensors",
    "pydantic",
)
"""What shapes a bundle's bytes or its parity."""

UNLISTED = frozenset({MANIFEST_FILE, HASH_FILE, BILL_FILE})


def library_versions() -> dict[str, str]:
    """Versions of Python, medprompt and the libraries that are installed here."""
    # An engine that is not installed had no part in the bundle.
    return {"python": platform.python_version(), **package_versions(("medprompt", *LIBRARIES))}


def sbom_of_folder(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Describe a bundle's folder, complete but for the SBOM itself and the manifest, as JSON values.

    There is no time stamp, and the serial number is made of the content, so that equal exports give equal bytes.
    """
    libraries, needs = library_parts(manifest.versions)
    compiled = [record.compiled for record in manifest.engines if record.compiled]
    required = {part["name"]: part for engine in compiled for part in engine_parts(engine)}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in UNLISTED]
    components = [
        model_component(manifest, sum(path.stat().st_size for path in files if path.suffix in {".onnx", ".data"})),
        *data_components(manifest.about.data),
        *libraries,
        *required.values(),
        *(file_entry(folder, path) for path in files if path.parent != folder / ATTACHED_FOLDER),
    ]
    content = {
        "metadata": _metadata(manifest),
        "components": components,
        "dependencies": with_dependencies(components, needs),
        "vulnerabilities": anomaly_entries(components),
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **content,
    }


def licence_list(manifest: BundleManifest) -> str:
    """The licences of the libraries that made a bundle, as Markdown."""
    rows = [(name, version, licence_of(name)) for name, version in manifest.versions.items()]
    terms = f": {manifest.about.licence}" if manifest.about.licence else ""
    sections = [
        "# Licences",
        "Of the libraries that made this bundle, as each states its own. None of their code is in the bundle.",
        "\n".join(markdown_table(("library", "version", "licence"), rows)),
        f"The weights are those of the checkpoint {manifest.checkpoint}, and under its terms{terms}.",
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(manifest: Manifest) -> dict[str, Any]:
    about = manifest.about
    return {
        "tools": {
            "components": [{"type": "application", "name": "medprompt", "version": package_version("medprompt")}]
        },
        "component": {
            "type": "application",
            "bom-ref": BUNDLE_REF,
            **({"supplier": {"name": about.supplier}} if about.supplier else {}),
            "name": f"{manifest.checkpoint} bundle",
            "version": manifest.checkpoint_sha256[:16],
            "description": f"Bundle of {manifest.architecture}. {manifest.intended_use}",
        },
        "properties": statements(manifest),
    }
