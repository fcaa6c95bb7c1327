"""Records of drawn figures, and a bundle that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle, load_bundle, write_manifest
from medprompt.site.detector_statistics import detector_columns
from medprompt.site.image_statistics import IMAGE_STATISTICS
from medprompt.site.record import SITE_FILE, SiteRecord, record_of_rows, write_record
from tests.runtime.bundles import make_bank, make_folder, make_manifest, record

COLUMNS = len(IMAGE_STATISTICS) + len(detector_columns(make_bank().labels))


def drawn_rows(count: int, seed: int = 0, brighter: float = 0.0) -> NDArray[np.float64]:
    """Figures of images that differ by chance; ``brighter`` moves the third one, brightness."""
    rows = np.random.default_rng(seed).normal(100, 10, (count, COLUMNS)).round(3)
    rows[:, 2] += brighter
    return rows


def drawn_record(count: int = 60, **changes: Any) -> SiteRecord:
    """Of ``make_bank``'s classes."""
    return record_of_rows(list(drawn_rows(count)), make_bank(), 0.2, f"{count} drawn images", **changes)


def bundle_with(folder: Path, found: SiteRecord) -> Bundle:
    """A small bundle with this record, served by the fake engine."""
    make_folder(folder)
    write_record(folder / SITE_FILE, found)
    write_manifest(folder, make_manifest(engines=(record("fake"),)))
    return load_bundle(folder)
