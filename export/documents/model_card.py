"""The bundle's model card: what it finds, on what terms, and how well it matches PyTorch. Markdown."""

from __future__ import annotations

from medprompt.core.manifest import EngineRecord, Manifest, ParityRecord, Preprocess
from medprompt.core.markdown import markdown_table
from medprompt.export.graph.onnx_export import OnnxFacts
from medprompt.prompts.schema import Prompts
from medprompt.prompts.summary import class_table, threshold_warnings


def model_card(manifest: Manifest, prompts: Prompts, facts: OnnxFacts) -> str:
    """Write the card of a bundle from its manifest, engines included."""
    warnings = (*manifest.warnings, *threshold_warnings(prompts, manifest))
    sections = [
        f"# Model card: {manifest.checkpoint}",
        _about(manifest, facts),
        "## Intended use",
        f"{manifest.intended_use} Accuracy is not measured here: parity says that the bundle decides as "
        "its PyTorch checkpoint does, not that either is right.",
        "## Classes and phrases",
        class_table(prompts, manifest.default_threshold),
        f"Phrases of one class are pooled by {prompts.pooling}. Other prompts can be swapped in with a bank "
        "made by the same checkpoint; the parity below was measured with these.",
        "## Parity with PyTorch",
        _parity_table(manifest.engines),
        *(["## Warnings", "\n".join(f"- {warning}" for warning in warnings)] if warnings else []),
    ]
    return "\n\n".join(sections) + "\n"


def _about(manifest: Manifest, facts: OnnxFacts) -> str:
    post = manifest.postprocess
    nms = f"IoU {post.nms_iou:g}" if post.nms_iou is not None else "off, as in the reference"
    return "\n".join(
        [
            f"- Architecture: {manifest.architecture} ({manifest.family})",
            f"- Checkpoint SHA-256: `{manifest.checkpoint_sha256}`",
            f"- Text encoder fingerprint: `{manifest.encoder}`",
            f"- Image: RGB, resized to {_size(manifest.preprocess)} ({manifest.preprocess.resample} as in "
            f"transformers' image processor on {manifest.preprocess.backend}, padding: {_padding(manifest)}, on the "
            f"{manifest.preprocess.placement})",
            f"- Detections: at most {post.top_k} an image; non-maximum suppression: {nms}",
            f"- ONNX: operator set {manifest.opset}, {facts.nodes} nodes, {facts.bytes / 1e6:.1f} MB, "
            f"{manifest.precision}, optimiser: {facts.optimiser}",
            f"- Made with: {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}",
        ]
    )


def _padding(manifest: Manifest) -> str:
    spec = manifest.preprocess
    return spec.pad if spec.pad == "none" else f"{spec.pad}, level {spec.pad_value:g}"


def _size(preprocess: Preprocess) -> str:
    own = preprocess.own_size
    if preprocess.sizes == "own" and own is not None:
        return f"the size of the checkpoint's own image processor ({own}), the aspect ratio kept"
    return "{} x {}".format(*preprocess.size_hw)


def _parity_table(engines: tuple[EngineRecord, ...]) -> str:
    heads = ["Device", "Precision", "Images", "Decisions", "Kept", "Extra", "Max score difference", "Latency", "Result"]
    return "\n".join(markdown_table(heads, map(_engine_row, engines)))


def _engine_row(record: EngineRecord) -> list[str]:
    parity = record.parity
    if parity is None:
        return [record.device, record.precision, *["-"] * 6, f"not run: {record.reason}"]
    return [
        record.device,
        record.precision,
        parity.image_source,
        f"{parity.decisions} ({_what(parity)})",
        f"{parity.kept:.2%}",
        str(parity.extra),
        f"{parity.max_score_delta:.1e}",
        f"{record.latency_ms:.1f} ms" if record.latency_ms is not None else "-",
        "passed" if parity.passed else f"failed: {record.reason}",
    ]


def _what(parity: ParityRecord) -> str:
    if parity.fallback_top:
        return f"the best {parity.fallback_top} an image, since too few reach {parity.threshold:g}"
    return f"score >= {parity.threshold:g}"
