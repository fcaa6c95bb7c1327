"""Does a bundle fit the images of a site? Figures are taken as images pass through the detector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import BundleError
from medprompt.core.tiling import Tiling
from medprompt.images.sources import spread
from medprompt.runtime.decode import decode
from medprompt.runtime.detector import Detector
from medprompt.runtime.pipeline import Steps
from medprompt.runtime.strategies import Prompting
from medprompt.site.check import SiteCheck, check_rows
from medprompt.site.image_statistics import IMAGE_STATISTICS
from medprompt.site.record import MAX_IMAGES, SiteRecord, prompts_sha256, record_of_bundle, site_row

Image = NDArray[np.uint8]


class SiteWatch:
    """Takes figures of images on their way through a detector, and compares them with what a bundle was proven on.

    Args:
        record: What is compared with.
        paths: Images of the run: of many, ``MAX_IMAGES`` are watched, spread evenly; each file once, for frames of one
            file are not independent.
        left_out: Why the detector's own figures are not compared; empty where they are.
    """

    def __init__(self, record: SiteRecord, paths: Iterable[Path], left_out: str = "") -> None:
        files = list(dict.fromkeys(paths))
        self.record, self.left_out = record, left_out
        self._wanted = {files[index] for index in spread(len(files), MAX_IMAGES)}
        self._rows: dict[Path, NDArray[np.float64]] = {}

    def see(self, path: Path, image_rgb: Image, detector: Detector, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Take the figures of an image (uint8 ``[H, W, 3]``) and the graph's answer about it, as a batch of one."""
        if path in self._wanted and path not in self._rows:
            self._rows[path] = row_of_outputs(image_rgb, detector, outputs, self.record.threshold)

    def check(self) -> SiteCheck:
        """Compare what was seen."""
        return check_rows(self.record, np.array(list(self._rows.values())), self.left_out)


class Watched(Prompting):
    """Prompts as another way does, and lets a watch see each image with the first answer about it."""

    def __init__(self, inner: Prompting, watch: SiteWatch) -> None:
        self.inner, self.watch = inner, watch

    @property
    def name(self) -> str:
        """See ``Prompting.name``."""
        return self.inner.name

    @property
    def tiling(self) -> Tiling | None:
        """See ``Prompting.tiling``."""
        return self.inner.tiling

    def order(self, paths: Sequence[Path]) -> list[int]:
        """See ``Prompting.order``."""
        return self.inner.order(paths)

    def steps(self, detector: Detector, path: Path, image_rgb: Image) -> Steps[Any]:
        """See ``Prompting.steps``."""
        inner = self.inner.steps(detector, path, image_rgb)
        request = next(inner)
        outputs = yield request
        self.watch.see(path, image_rgb, detector, outputs)
        try:
            request = inner.send(outputs)
            while True:
                request = inner.send((yield request))
        except StopIteration as end:
            return end.value


def row_of_outputs(
    image_rgb: Image, detector: Detector, outputs: Mapping[str, NDArray[Any]], threshold: float
) -> NDArray[np.float64]:
    """The figures of an image and of the graph's answer about it, as a batch of one; see ``site_row``."""
    post = detector.manifest.postprocess.model_copy(update={"mask_threshold": None})  # masks of all K cost seconds
    unmasked = detector.manifest.model_copy(update={"postprocess": post})
    found = decode(outputs, detector.bank, unmasked, (image_rgb.shape[0], image_rgb.shape[1]))
    return site_row(image_rgb, found, threshold)


def row_of_image(image_rgb: Image, detector: Detector, threshold: float) -> NDArray[np.float64]:
    """Detect in an image, uint8 ``[H, W, 3]``, and take its figures."""
    outputs = detector.outputs(detector.image_feeds([image_rgb]), detector.prompts.whole)
    return row_of_outputs(image_rgb, detector, outputs, threshold)


def usable_record(bundle: Bundle, record: SiteRecord | None = None) -> SiteRecord:
    """The bundle's own record, or the given one, if this medprompt can compare with it.

    Raises:
        BundleError: See ``record_of_bundle``; or its figures are those of another medprompt.
    """
    found = record or record_of_bundle(bundle)
    names = list(found.columns)[: len(IMAGE_STATISTICS)]
    if names != list(IMAGE_STATISTICS):
        raise BundleError(
            "The images that the bundle was proven on were recorded with other figures than this medprompt has.",
            where=str(bundle.path),
            got=", ".join(sorted(set(names) ^ set(IMAGE_STATISTICS))[:5]),
            fix="medprompt bench site BUNDLE --images PROVEN/ --record site.json, then --against site.json",
        )
    return found


def why_left_out(record: SiteRecord, detector: Detector, prompting: Prompting | None = None) -> str:
    """Why the detector's own figures cannot be compared: it is asked otherwise than it was recorded."""
    if prompting is not None and prompting.tiling:
        return "large images are cut into tiles"
    if prompting is not None and prompting.name == "map":
        return "each image is asked with its own phrases"
    if prompts_sha256(detector.bank) != record.prompts_sha256:
        return "other prompts are served than were recorded"
    return ""


def watch_run(detector: Detector, paths: Iterable[Path], prompting: Prompting) -> Watched:
    """A run's prompting, watched.

    Raises:
        BundleError: See ``usable_record``.
    """
    record = usable_record(detector.bundle)
    return Watched(prompting, SiteWatch(record, paths, why_left_out(record, detector, prompting)))


def check_site(
    bundle: Bundle | Path | str,
    images: Iterable[Image],
    *,
    detector: Detector | None = None,
    record: SiteRecord | None = None,
) -> SiteCheck:
    """Compare images, uint8 RGB ``[H, W, 3]`` each, with those that a bundle was proven on.

    Images should be of many patients, one or few of each: the test takes them for independent.

    Args:
        bundle: The bundle, or its folder.
        images: At least ``medprompt.site.check.LEAST_IMAGES``, one at a time in memory.
        detector: A detector of the bundle; one is loaded, and closed, where None.
        record: What to compare with; the bundle's own where None.

    Raises:
        BundleError: The bundle has no record.
        EngineError: See ``Detector.load`` and ``Detector.outputs``.
    """
    loaded = load_bundle(bundle)
    against = usable_record(loaded, record)
    if detector is None:
        with Detector.load(loaded) as own:
            return check_site(loaded, images, detector=own, record=against)
    rows = [row_of_image(image, detector, against.threshold) for image in images]
    return check_rows(against, np.array(rows), why_left_out(against, detector))
