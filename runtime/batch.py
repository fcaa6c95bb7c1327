"""Many files through one detector: what cannot be read is reported, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.detections import Detections
from medprompt.errors import EngineError, ImageError
from medprompt.images import load_image
from medprompt.progress import Progress, Silent
from medprompt.results import Item, Run
from medprompt.runtime.detector import Detector


def infer_images(
    detector: Detector, paths: Sequence[Path], overlays: Path | None = None, progress: Progress | None = None
) -> Run:
    """Detect in image files.

    Args:
        detector: The loaded bundle.
        paths: Image files, see ``medprompt.images.find_images``.
        overlays: Folder for pictures with the detections drawn in.
        progress: Told about each image.

    Returns:
        One item a file, in their order. A file that cannot be read, or on which the engine fails, is an item
        with the status ``ERROR``.

    Raises:
        InputError: An overlay cannot be written.
    """
    progress = progress or Silent()
    progress.step("detect", len(paths))
    items = []
    for path, overlay in zip(paths, _overlay_paths(paths, overlays), strict=True):
        items.append(_item(detector, Path(path), overlay))
        progress.advance()
    return Run(
        items=tuple(items),
        labels=detector.bank.labels,
        bundle_sha256=detector.bundle.sha256,
        bank_sha256=detector.bank.content_hash(),
        engine=detector.choice.device,
        engine_reason="; ".join([detector.choice.reason, *detector.choice.warnings]),
        engine_rejected=detector.choice.rejected,
        thresholds=detector.thresholds,
        intended_use=detector.bundle.manifest.intended_use,
    )


def _item(detector: Detector, path: Path, overlay: Path | None) -> Item:
    try:
        image = load_image(path)
        found = detector(image)
    except (ImageError, EngineError) as error:
        return Item(path, None, str(error))
    if overlay is not None:
        _draw(image, found, overlay)
    return Item(path, found, overlay=overlay)


def _draw(image: NDArray[np.uint8], found: Detections, overlay: Path) -> None:
    from medprompt.overlay import draw_overlay, save_overlay

    save_overlay(draw_overlay(image, found), overlay)


def _overlay_paths(paths: Sequence[Path], folder: Path | None) -> Iterator[Path | None]:
    """A name for each picture; files of one name from several folders get a number."""
    taken: set[str] = set()
    for path in paths:
        if folder is None:
            yield None
            continue
        stem, number = Path(path).stem, 1
        name = f"{stem}.png"
        while name in taken:
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name)
        yield folder / name
