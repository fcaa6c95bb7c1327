"""The golden images through an engine that is loaded: does it decide here as PyTorch did at export?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import GOLDEN_FILE, Bundle, load_golden
from medprompt.core.detections import Detections
from medprompt.core.errors import BundleError, ParityError
from medprompt.core.manifest import BundleManifest, ParityRecord, Tolerance
from medprompt.metrics.agreement import check_decisions

KINDS = {"auto": "fp16", "auto-bf16": "bf16"}
"""Precisions that are judged by another one's tolerance: they compute in it what bears it."""


def has_golden(manifest: BundleManifest) -> bool:
    """Whether a bundle holds golden images."""
    return GOLDEN_FILE in manifest.files


def check_golden(
    bundle: Bundle, detect: Callable[[NDArray[np.uint8]], Detections], tolerance: Tolerance
) -> ParityRecord:
    """Run the golden images.

    ``detect`` answers uint8 ``[H, W, 3]`` with all detections (threshold 0), with the bundle's own prompts.

    Raises:
        BundleError: The bundle has no golden images, or they cannot be read.
        EngineError: The engine failed.
    """
    manifest = bundle.manifest
    if not has_golden(manifest):
        raise BundleError(
            "The bundle has no golden images.",
            where=str(bundle.path),
            expected=GOLDEN_FILE,
            fix="export the bundle again",
        )
    golden = load_golden(bundle.path / GOLDEN_FILE, bundle.bank)
    if manifest.postprocess.mask_threshold is not None and any(item.reference.masks is None for item in golden):
        raise BundleError(
            "The golden images have no masks, so they prove nothing of the model's.",
            where=str(bundle.path / GOLDEN_FILE),
            fix="export the bundle again",
        )
    pairs = [(item.reference, detect(item.image_rgb)) for item in golden]
    source = f"{len(golden)} golden images of the bundle"
    threshold = bundle.bank.least_threshold(manifest.default_threshold)
    return check_decisions(pairs, threshold, tolerance, source, manifest.postprocess.top_k)


def tolerance_of_device(bundle: Bundle, device: str, precision: str | None = None) -> Tolerance:
    """What is demanded of a device.

    It is what was demanded at export of the engine in ``precision``, or of the device's first record where None; where
    it was not tried there, the tolerance of its precision, or else the strictest of the bundle.
    """
    records = [record for record in bundle.manifest.engines if record.device == device]
    if precision is not None:
        records = [record for record in records if record.precision == precision]
    demanded = [record.parity.tolerance for record in records if record.parity]
    if demanded:
        return demanded[0]
    kind = precision or (records[0].precision if records else "")
    known = bundle.manifest.tolerances.get(KINDS.get(kind, kind))
    demanded = [record.parity.tolerance for record in bundle.manifest.engines if record.parity]
    return known or max(demanded, key=lambda tolerance: tolerance.min_kept, default=Tolerance())


def describe_self_test(record: ParityRecord) -> str:
    """The numbers of a self-test in one line."""
    wanted = record.tolerance
    masks = f", least mask IoU {record.min_mask_iou:.4f}" if record.min_mask_iou is not None else ""
    return (
        f"kept {record.kept:.2%} of {record.decisions} decisions on {record.images} golden images, largest score "
        f"difference {record.max_score_delta:.4f}{masks}, {record.extra} extra (wanted {wanted.min_kept:.2%} within "
        f"{wanted.max_score_delta:g})"
    )


def failed_self_test(device: str, record: ParityRecord) -> ParityError:
    """The answer to an engine that decides otherwise here than PyTorch did."""
    return ParityError(
        "The engine failed its self-test here: it decides otherwise than PyTorch did at export.",
        where=device,
        expected=f"{record.tolerance.min_kept:.2%} of the decisions kept",
        got=describe_self_test(record),
        fix="try another device, or make the engine again with another precision",
    )
