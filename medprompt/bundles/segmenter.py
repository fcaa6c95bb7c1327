"""A segmenter: a bundle of two models and golden images, verified as every bundle is before any of it is parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medprompt.bundles.load import Bundle, load_bundle, need_files, task_of, verified_folder
from medprompt.core.segmenter import SegmenterManifest

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
SEGMENT = "segment"


@dataclass(frozen=True)
class SegmenterBundle:
    """A verified segmenter; see ``medprompt.bundles.load.Bundle``."""

    path: Path
    manifest: SegmenterManifest
    sha256: str


def load_segmenter(bundle: SegmenterBundle | Path | str) -> SegmenterBundle:
    """Verify a segmenter and read its manifest; what is loaded already comes back as it is.

    Raises:
        BundleError: See ``load_bundle``; also a detector's bundle.
    """
    if isinstance(bundle, SegmenterBundle):
        return bundle
    folder = Path(bundle)
    manifest, digest = verified_folder(folder, SegmenterManifest, SEGMENT)
    need_files(folder, manifest.files, (ENCODER_FILE, DECODER_FILE))
    return SegmenterBundle(folder, manifest, digest)


def load_any_bundle(bundle: Path | str) -> Bundle | SegmenterBundle:
    """Verify a detector or a segmenter, whichever it says it is.

    Raises:
        BundleError: See ``load_bundle``.
    """
    return load_segmenter(bundle) if task_of(Path(bundle)) == SEGMENT else load_bundle(bundle)
