"""The self-test: a bundle's hashes, then its golden images through an engine against what PyTorch decided."""

from __future__ import annotations

from pathlib import Path

from medprompt.bundle import GOLDEN_FILE, Bundle, load_bundle, load_golden
from medprompt.errors import BundleError
from medprompt.manifest import ParityRecord, Tolerance
from medprompt.parity import check_decisions
from medprompt.runtime.detector import Detector


def verify_bundle(path: Path | str, device: str = "auto", threads: int | None = None) -> ParityRecord:
    """Check a bundle on the device that will serve it.

    Args:
        path: The bundle's folder.
        device: An engine's name, or ``auto``; see ``medprompt.runtime.select``.
        threads: CPU threads; the engine's own choice where None.

    Returns:
        The comparison with PyTorch's decisions, under the tolerance that was demanded of this device at
        export.

    Raises:
        BundleError: A changed or missing file, or no golden images.
        EngineError: The device is not installed, or refuses the model.
    """
    bundle = load_bundle(path)
    if GOLDEN_FILE not in bundle.manifest.files:
        raise BundleError(
            "The bundle has no golden images.",
            where=str(bundle.path),
            expected=GOLDEN_FILE,
            fix="export the bundle again",
        )
    golden = load_golden(bundle.path / GOLDEN_FILE, bundle.bank)
    with Detector.load(bundle, device=device, threshold=0.0, threads=threads) as detector:
        pairs = [(item.reference, detector(item.image_rgb)) for item in golden]
        tolerance = tolerance_of_device(bundle, detector.choice.device)
    source = f"{len(golden)} golden images of the bundle"
    manifest = bundle.manifest
    return check_decisions(pairs, manifest.default_threshold, tolerance, source, manifest.postprocess.top_k)


def tolerance_of_device(bundle: Bundle, device: str) -> Tolerance:
    """What was demanded of a device at export; the strictest of the bundle where it was not tried there."""
    demanded = {record.device: record.parity.tolerance for record in bundle.manifest.engines if record.parity}
    strictest = max(demanded.values(), key=lambda tolerance: tolerance.min_kept, default=Tolerance())
    return demanded.get(device, strictest)
