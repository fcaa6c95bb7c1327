"""Image features: computed once, kept on disk, so that other prompts cost no more than the prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medprompt.core.errors import DataError
from medprompt.core.files import atomic_write, sha256_of_file
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet
from medprompt.export.families.base import Core, Family
from medprompt.export.graph.detection_graph import Normalise
from medprompt.images.read import load_image
from medprompt.images.resize import resize_on_host

IN_MEMORY = 2 << 30
"""Bytes of features that a set keeps in memory; the rest is read from disk, or computed, again each time."""


class FeatureSet:
    """What a family's image side makes of each image of a labelled set, computed at first use.

    A file of the cache belongs to one image (by its bytes) and one image side (by ``image_fingerprint``): tuning the
    text side keeps it valid, training the image side does not. Without a ``folder`` every run computes them.
    """

    def __init__(self, family: Family, labelled: DetectionSet, folder: Path | None = None) -> None:
        self.family = family
        self.labelled = labelled
        self.core: Core = family.core().eval()
        self._preprocess = family.preprocess()
        self._normalise = Normalise(self._preprocess)
        self._folder = None if folder is None else folder / image_fingerprint(family)
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._room = IN_MEMORY

    def __len__(self) -> int:
        return len(self.labelled.images)

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """Features of image ``index``: ``Core.image_features``, ``B`` = 1.

        Raises:
            ImageError: The image cannot be read.
            DataError: Its size is not what the labels say.
        """
        if index not in self._kept:
            features = self._stored(index)
            size = sum(tensor.nbytes for tensor in features.values())
            if size > self._room:
                return features
            self._room -= size
            self._kept[index] = features
        return self._kept[index]

    def prepare(self, progress: Progress | None = None) -> None:
        """Compute, or read, the features of every image now."""
        progress = progress or Silent()
        progress.step(f"image features of {self.labelled.name}", len(self))
        for index in range(len(self)):
            self[index]
            progress.advance()

    def _stored(self, index: int) -> dict[str, Tensor]:
        if self._folder is None:
            return self._computed(index)
        path = self._folder / f"{sha256_of_file(self.labelled.images[index].path)}.safetensors"
        if path.is_file():
            with suppress(OSError, SafetensorError):  # cut short by a full disk or a kill: computed again below
                stored: dict[str, Tensor] = load_file(path)
                return stored
        features = self._computed(index)
        with atomic_write(path) as aside:
            save_file(features, aside)
        return features

    def _computed(self, index: int) -> dict[str, Tensor]:
        entry = self.labelled.images[index]
        source = load_image(entry.path)
        if source.shape[:2] != entry.size_hw:
            raise DataError(
                "An image has another size than its labels say, so its boxes cannot be trusted.",
                where=str(entry.path),
                expected=f"{entry.size_hw[0]}x{entry.size_hw[1]} (height x width)",
                got=f"{source.shape[0]}x{source.shape[1]}",
                fix="label the image again, or take it out of the set",
            )
        image = torch.from_numpy(np.array(resize_on_host(source, self._preprocess))[None])
        with torch.no_grad():
            features = self.core.image_features(self._normalise(image))
        return {name: tensor.contiguous() for name, tensor in features.items()}


def image_fingerprint(family: Family) -> str:
    """SHA-256 (16 hex digits) over the weights beside the text side, and the preprocessing."""
    digest = hashlib.sha256(f"{family.architecture} {family.preprocess().model_dump_json()}".encode())
    for name, tensor in sorted(family.model.state_dict().items()):
        if not name.startswith(family.text_prefixes):
            digest.update(name.encode())
            digest.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
