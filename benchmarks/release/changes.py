"""What differs between two bundles, in a reviewer's words: weights, prompts, thresholds, engines, libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medprompt.bundles.load import MODEL_FILE, Bundle
from medprompt.core.manifest import EngineRecord, Manifest
from medprompt.prompts.diff import Change, diff_prompts

NONE = "none"

PARTS = (
    "weights",
    "prompts",
    "thresholds",
    "preprocessing",
    "postprocessing",
    "precision",
    "engines",
    "libraries",
    "papers",
)
"""Parts of a bundle in the order of the record; one without an entry did not change."""


@dataclass(frozen=True)
class Modification:
    """One difference, as text: ``before`` in the baseline, ``after`` in the new bundle."""

    part: str
    what: str
    before: str
    after: str

    def as_json(self) -> dict[str, str]:
        """As JSON values."""
        return dict(vars(self))


def modifications(old: Bundle, new: Bundle) -> tuple[Modification, ...]:
    """All that differs, in the order of ``PARTS``."""
    before, after = old.manifest, new.manifest
    found = [
        *_differing("weights", _weights(old), _weights(new)),
        *map(_of_prompts, diff_prompts(old.bank, new.bank)),
        *_differing("thresholds", {"default": before.default_threshold}, {"default": after.default_threshold}),
        *_differing("preprocessing", _fields(before.preprocess), _fields(after.preprocess)),
        *_differing("postprocessing", _fields(before.postprocess), _fields(after.postprocess)),
        *_differing("precision", _precisions(before), _precisions(after)),
        *_differing("engines", _engines(before), _engines(after)),
        *_differing("libraries", before.versions, after.versions),
        *_differing("papers", _papers(before), _papers(after)),
    ]
    return tuple(sorted(found, key=lambda one: PARTS.index(one.part)))


def _differing(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Modification]:
    for name in dict.fromkeys([*before, *after]):
        then, now = before.get(name), after.get(name)
        if then != now:
            yield Modification(part, name.replace("_", " "), _text(then), _text(now))


def _of_prompts(change: Change) -> Modification:
    part = "thresholds" if change.what == "threshold" else "prompts"
    return Modification(part, f"{change.what} {change.kind}: {change.where}", _text(change.before), _text(change.after))


def _weights(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "checkpoint": f"{manifest.checkpoint}, sha256 {manifest.checkpoint_sha256}",
        "family": manifest.family,
        "architecture": manifest.architecture,
        "text encoder": manifest.encoder,
        "graph (model.onnx)": f"sha256 {manifest.files[MODEL_FILE].sha256}",
        "operator set": manifest.opset,
        "imported from": manifest.source.format if manifest.source else None,
    }


def _precisions(manifest: Manifest) -> dict[str, Any]:
    models = sorted(name for name in manifest.files if name.startswith("model") and name.endswith(".onnx"))
    return {"precision": manifest.precision, "models": ", ".join(models)}


def _engines(manifest: Manifest) -> dict[str, str]:
    """Each engine with what was proven of it; times and machines are no part of the bundle."""
    return {_name(record): _proof(record) for record in manifest.engines}


def _name(record: EngineRecord) -> str:
    file = f", {record.compiled.path}" if record.compiled else ""
    return f"{record.device}, {record.precision}{file}"


def _proof(record: EngineRecord) -> str:
    built = f"built by {record.compiled.builder} {record.compiled.builder_version}, " if record.compiled else ""
    if record.parity is None:
        return f"{built}not run at export"
    verdict = "passed" if record.parity.passed else "failed"
    return f"{built}parity {verdict}: {record.parity.kept:.2%} of {record.parity.decisions} decisions kept"


def _papers(manifest: Manifest) -> dict[str, Any]:
    data = [f"{record.name} ({record.role}), sha256 {record.sha256[:16]}" for record in manifest.about.data]
    return {
        "intended use": manifest.intended_use,
        "supplier": manifest.about.supplier,
        "licence": manifest.about.licence,
        "data sets": "; ".join(data),
        "warnings": "; ".join(manifest.warnings),
    }


def _fields(model: Any) -> dict[str, Any]:
    return dict(model.model_dump(mode="json"))


def _text(value: Any) -> str:
    if value in (None, "", (), []):
        return NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
