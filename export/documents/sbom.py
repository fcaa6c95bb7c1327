"""The bundle's SBOM (bill of materials): CycloneDX 1.5 JSON, the libraries that made it and the files it holds."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from medprompt.bundles.bill import file_entry
from medprompt.bundles.load import HASH_FILE, MANIFEST_FILE
from medprompt.core.manifest import Manifest
from medprompt.core.markdown import markdown_table
from medprompt.core.packages import package_versions

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

UNSTATED = "not stated"


def library_versions() -> dict[str, str]:
    """Versions of Python, medprompt and the libraries that are installed here."""
    # An engine that is not installed had no part in the bundle.
    return {"python": platform.python_version(), **package_versions(("medprompt", *LIBRARIES))}


def sbom_of_folder(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Describe a bundle's folder, complete but for the SBOM itself and the manifest, as JSON values.

    There is no time stamp or serial number, so that equal exports give equal bytes.
    """
    model = {
        "type": "machine-learning-model",
        "name": manifest.checkpoint,
        "description": f"{manifest.architecture}, exported by medprompt",
        "hashes": [{"alg": "SHA-256", "content": manifest.checkpoint_sha256}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": model},
        "components": [
            *(_library(name, version) for name, version in manifest.versions.items()),
            *(
                file_entry(folder, path)
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name not in (MANIFEST_FILE, HASH_FILE)
            ),
        ],
    }


def licence_list(manifest: Manifest) -> str:
    """The licences of the libraries that made a bundle, as Markdown."""
    rows = [(name, version, licence_of(name)) for name, version in manifest.versions.items()]
    sections = [
        "# Licences",
        "Of the libraries that made this bundle, as each states its own. None of their code is in the bundle.",
        "\n".join(markdown_table(("library", "version", "licence"), rows)),
        f"The weights are those of the checkpoint {manifest.checkpoint}, and under its terms.",
    ]
    return "\n\n".join(sections) + "\n"


def licence_of(name: str) -> str:
    """What an installed library states: its SPDX expression, else its classifiers, else its licence's first line."""
    if name == "python":
        return "PSF-2.0"
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return UNSTATED
    classified = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License :: ")
    ]
    expression, own = ((about.get_all(field) or [""])[0] for field in ("License-Expression", "License"))
    return expression or ", ".join(classified) or own.strip().partition("\n")[0][:80] or UNSTATED


def _library(name: str, version: str) -> dict[str, Any]:
    kind, source = ("platform", "generic") if name == "python" else ("library", "pypi")
    return {
        "type": kind,
        "name": name,
        "version": version,
        "purl": f"pkg:{source}/{name}@{version}",
        "licenses": [{"license": {"name": licence_of(name)}}],
    }
