"""The SBOM's account of the model itself: a model card component and the data sets it was made from (ML-BOM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from medprompt.bundles.bill import MODEL_REF
from medprompt.core.manifest import About, DataRecord, Manifest
from medprompt.export.documents.parts import UNSTATED

PARITY_IS_NO_ACCURACY = (
    "Parity says that the bundle decides as its PyTorch checkpoint does; it does not say that either is right."
)


def model_component(manifest: Manifest, model_bytes: int) -> dict[str, Any]:
    """The weights, with their model card; ``model_bytes``: of the files that hold them in the bundle."""
    about, digest = manifest.about, manifest.checkpoint_sha256
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL_REF,
        "supplier": {"name": about.supplier or UNSTATED},
        "name": manifest.checkpoint,
        "version": digest[:16],
        "description": f"{manifest.architecture}, an open-vocabulary detector, exported by medprompt",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"name": about.licence or UNSTATED}}],
        "purl": f"pkg:generic/{manifest.family}@{digest[:16]}?checksum=sha256:{digest}",
        **_references(about),
        "modelCard": _card(manifest, model_bytes),
        "properties": list(
            _properties(
                {
                    "medprompt:encoder": manifest.encoder,
                    "medprompt:precision": manifest.precision,
                }
            )
        ),
    }


def data_components(data: Iterable[DataRecord]) -> list[dict[str, Any]]:
    """A component each labelled set; an unstated licence is said to be so."""
    return [_data_component(number, record) for number, record in enumerate(data)]


def statements(manifest: Manifest) -> list[dict[str, str]]:
    """What the AI profiles of SPDX and OWASP ask of a model, as properties; what is not known is left out."""
    about, preprocess, post = manifest.about, manifest.preprocess, manifest.postprocess
    trained = [record for record in about.data if record.role == "train"]
    size = "of the processor's own size" if preprocess.sizes == "own" else "{} x {}".format(*preprocess.size_hw)
    stated = {
        "primaryPurpose": "object detection in medical images, for classes told in words",
        "suppliedBy": about.supplier,
        "domain": "medical imaging, research",
        "autonomyType": "none: a person reads every box",
        "informationAboutTraining": "; ".join(map(_in_words, trained)),
        "informationAboutApplication": manifest.intended_use,
        "metric": "; ".join(f"{name} {value:.4f}" for name, value in about.figures.items()),
        "modelExplainability": "each box names the phrase that found it, and its score",
        "hyperparameter": f"at most {post.top_k} boxes of {post.queries or post.top_k} queries; phrases pooled by "
        f"{post.pooling}; operator set {manifest.opset}; {manifest.precision}",
        "metricDecisionThreshold": f"{manifest.default_threshold:g}, where a class has none of its own",
        "modelDataPreprocessing": f"RGB, resized to {size}, {preprocess.resample} as {preprocess.backend} does",
    }
    return list(_properties(stated))


def _card(manifest: Manifest, model_bytes: int) -> dict[str, Any]:
    about = manifest.about
    limitations = [*about.limitations, *manifest.warnings, PARITY_IS_NO_ACCURACY]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "object detection",
            "architectureFamily": manifest.family,
            "modelArchitecture": manifest.architecture,
            "datasets": [{"ref": part["bom-ref"]} for part in data_components(about.data)],
            "inputs": [{"format": f"{spec.name}: {spec.dtype} {list(spec.shape)}"} for spec in manifest.inputs],
            "outputs": [{"format": f"{spec.name}: {spec.dtype} {list(spec.shape)}"} for spec in manifest.outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest))},
        "considerations": {
            "users": ["researchers and engineers of medical imaging"],
            **({"useCases": [manifest.intended_use]} if manifest.intended_use else {}),
            "technicalLimitations": limitations,
            "ethicalConsiderations": [
                {
                    "name": "A missed or a false box may hurt a patient",
                    "mitigationStrategy": "Research use; a person decides.",
                }
            ],
        },
        "properties": list(
            _properties(
                {
                    "owasp:aibom:distribution:modelFileSize": str(model_bytes),
                    "owasp:aibom:distribution:runtimeRequirement": "python",
                }
            )
        ),
    }


def _references(about: About) -> dict[str, Any]:
    found = [{"type": kind, "url": url} for kind, url in about.references.items()]
    return {"externalReferences": found} if found else {}


def _metrics(manifest: Manifest) -> Iterator[dict[str, str]]:
    """What training measured, and how many of PyTorch's decisions each engine keeps."""
    for name, value in manifest.about.figures.items():
        kind, _, part = name.partition("/")
        yield {"type": kind, "value": f"{value:.4f}", **({"slice": part} if part else {})}
    for record in manifest.engines:
        if record.parity is not None:
            yield {
                "type": "share of PyTorch's decisions kept",
                "value": f"{record.parity.kept:.4f}",
                "slice": f"{record.device}, {record.precision}, {record.parity.image_source}",
            }


def _data_component(number: int, record: DataRecord) -> dict[str, Any]:
    stated = {"medprompt:role": record.role, "medprompt:licence": record.licence or UNSTATED}
    return {
        "type": "data",
        "bom-ref": f"data:{number}",
        "name": record.name,
        "description": _in_words(record),
        **({"hashes": [{"alg": "SHA-256", "content": record.sha256}]} if record.sha256 else {}),
        "licenses": [{"license": {"name": record.licence or UNSTATED}}],
        "data": [
            {
                "type": "dataset",
                "name": record.name,
                "description": _in_words(record),
                **({"contents": {"url": record.source}} if record.source.startswith("https://") else {}),
            }
        ],
        "properties": list(_properties({**stated, "medprompt:source": record.source})),
    }


def _in_words(record: DataRecord) -> str:
    counts = [
        f"{count} {what}" for what, count in (("images", record.images), ("boxes", record.boxes)) if count is not None
    ]
    role = "trained on" if record.role == "train" else "measured on, not trained on"
    return ", ".join([f"{record.name} ({role})", *counts, f"licence {record.licence or UNSTATED}"])


def _properties(stated: dict[str, str]) -> Iterator[dict[str, str]]:
    yield from ({"name": name, "value": value} for name, value in stated.items() if value)
