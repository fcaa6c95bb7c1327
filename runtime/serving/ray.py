"""A bundle for Ray Data: ``map_batches`` with a detector an actor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprompt.runtime.batch import batch_of
from medprompt.runtime.detector import Detector
from medprompt.runtime.pipeline import in_flight


class RayDetector:
    """A bundle for ``ray.data.Dataset.map_batches``, an actor each: ``image`` in, ``detections`` out.

    ``ds.map_batches(RayDetector, fn_constructor_args=("polyp.bundle",), batch_size=16, concurrency=2)``; with
    ``num_gpus=1`` each has an accelerator of its own. The bundle must lie under the same path on every machine.
    """

    def __init__(self, bundle: Path | str, **options: Any) -> None:
        """Load the bundle in this actor; ``options`` are those of ``Detector.load``."""
        self.detector = Detector.load(bundle, **options)

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Detect in a batch.

        Args:
            batch: ``image``: uint8 RGB arrays ``[H, W, 3]``, of any sizes; further columns are handed on.

        Returns:
            An Arrow table: the other columns, and ``detections``, a list of label, score, box (left, top, right, bottom
            in pixels of the image) and phrase, and of a model that makes masks segmentation (COCO's run lengths).

        Raises:
            ImageError: Not a uint8 RGB image.
            EngineError: The engine failed.
        """
        import pyarrow as pa

        steps = (self.detector.steps(image) for image in batch["image"])
        found = list(in_flight(self.detector, steps, batch=batch_of(self.detector)))
        others = {name: pa.array(list(values)) for name, values in batch.items() if name != "image"}
        rows = _rows(masks=self.detector.manifest.postprocess.mask_threshold is not None)
        return pa.table({**others, "detections": pa.array([list(one.rows()) for one in found], rows)})


def _rows(*, masks: bool) -> Any:
    import pyarrow as pa

    fields = [("label", pa.string()), ("score", pa.float64()), ("box_xyxy", pa.list_(pa.float64()))]
    rle = [("segmentation", pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())]))] if masks else []
    return pa.list_(pa.struct([*fields, ("phrase", pa.string()), *rle]))
