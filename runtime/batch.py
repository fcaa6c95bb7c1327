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
from medprompt.results import AskedSet, Item, Run
from medprompt.runtime.detector import Detector
from medprompt.runtime.prompting import Prompting


def infer_images(
    detector: Detector,
    paths: Sequence[Path],
    overlays: Path | None = None,
    progress: Progress | None = None,
    prompting: Prompting | None = None,
) -> Run:
    """Detect in image files.

    Args:
        detector: The loaded bundle.
        paths: Image files, see ``medprompt.images.find_images``.
        overlays: Folder for pictures with the detections drawn in.
        progress: Told about each image.
        prompting: Which phrases each image is asked with; the whole bank where None.

    Returns:
        One item a file, in their order. A file that cannot be read, or on which the engine fails, is an item
        with the status ``ERROR``.

    Raises:
        InputError: An overlay cannot be written.
    """
    progress, prompting = progress or Silent(), prompting or Prompting()
    progress.step("detect", len(paths))
    pictures = list(_overlay_paths(paths, overlays))
    items: dict[int, Item] = {}
    for place in prompting.order(paths):
        items[place] = _item(detector, prompting, Path(paths[place]), pictures[place])
        progress.advance()
    return Run(
        items=tuple(items[place] for place in range(len(paths))),
        labels=detector.bank.labels,
        bundle_sha256=detector.bundle.sha256,
        bank_sha256=detector.bank.content_hash(),
        engine=detector.choice.device,
        engine_reason="; ".join([detector.choice.reason, *detector.choice.warnings]),
        engine_rejected=detector.choice.rejected,
        thresholds=detector.thresholds,
        intended_use=detector.bundle.manifest.intended_use,
        prompting=prompting.name,
    )


def _item(detector: Detector, prompting: Prompting, path: Path, overlay: Path | None) -> Item:
    try:
        image = load_image(path)
        found = prompting.detect(detector, path, image)
    except (ImageError, EngineError) as error:
        return Item(path, None, str(error))
    if overlay is not None:
        _draw(image, found, overlay)
    return Item(path, found, overlay=overlay, asked=_asked(detector, found))


def _asked(detector: Detector, found: Detections) -> AskedSet | None:
    """What the image was asked with, where that is not the whole bank."""
    asked = detector.prompts.of(found.phrases)
    return None if asked is detector.prompts.whole else AskedSet(asked.sha256[:16], found.phrases)


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
