"""A bundle's hashes, then its golden images through an engine against what PyTorch decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medprompt.bundles.load import Bundle, SegmenterBundle, load_bundle, load_segmenter
from medprompt.core.manifest import ParityRecord
from medprompt.runtime.detector import Detector
from medprompt.runtime.segmenter import Segmenter, prove
from medprompt.runtime.selection.order import EngineChoice
from medprompt.runtime.selection.selftest import check_golden, tolerance_of_device

__all__ = ["Verification", "tolerance_of_device", "verify_bundle", "verify_on_device", "verify_segmenter"]


@dataclass(frozen=True)
class Verification:
    """What a self-test found: the engine that serves, and the comparison with PyTorch's decisions."""

    choice: EngineChoice
    parity: ParityRecord


def verify_on_device(bundle: Bundle | Path | str, device: str = "auto", threads: int | None = None) -> Verification:
    """Check a bundle on the device that will serve it.

    Args:
        bundle: A bundle, or its folder.
        device: An engine's name, or ``auto``: then an engine that fails is refused, and the next in order is tried.
        threads: CPU threads; the engine's own choice where None.

    Returns:
        The engine and its comparison with PyTorch's decisions, under the tolerance that was demanded of it at export,
        or the one of its precision where it was not tried there.

    Raises:
        BundleError: A changed or missing file, or no golden images.
        EngineError: The device is not installed, or refuses the model.
        ParityError: ``auto``, and every engine decides otherwise.
    """
    loaded = load_bundle(bundle)
    with Detector.load(loaded, device=device, threshold=0.0, threads=threads, self_test=device == "auto") as detector:
        choice = detector.choice
        precision = choice.record.precision if choice.record else None
        tolerance = tolerance_of_device(loaded, choice.device, precision)
        return Verification(choice, choice.self_test or check_golden(loaded, detector, tolerance))


def verify_segmenter(
    bundle: SegmenterBundle | Path | str, device: str = "auto", threads: int | None = None
) -> Verification:
    """Check a segmenter on the device that will serve it: are the masks of its golden boxes PyTorch's?

    Args:
        bundle: A segmenter, or its folder.
        device: An engine's name, or ``auto``: then an engine that fails is refused, and the next in order is tried.
        threads: CPU threads; the engine's own choice where None.

    Raises:
        BundleError: A changed or missing file, or no golden images.
        EngineError: The device is not installed, or refuses the models.
        ParityError: ``auto``, and every engine makes other masks.
    """
    loaded = load_segmenter(bundle)
    auto = device == "auto"
    with Segmenter.load(loaded, device, threads, strict=not auto, self_test=auto) as segmenter:
        choice = segmenter.choice
        return Verification(choice, choice.self_test or prove(loaded, segmenter.engine, choice))


def verify_bundle(path: Path | str, device: str = "auto", threads: int | None = None) -> ParityRecord:
    """The comparison alone; see ``verify_on_device``."""
    return verify_on_device(path, device, threads).parity
