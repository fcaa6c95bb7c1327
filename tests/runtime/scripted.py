"""A detector on an engine whose answers a test writes down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.load import Bundle
from medprompt.prompts.bank import PromptBank
from medprompt.runtime import Detector, EngineChoice
from medprompt.runtime.engines.base import DeviceEngine, Engine
from tests.runtime.bundles import make_bank, make_manifest

CHOICE = EngineChoice("scripted", "for the test")


class Scripted(DeviceEngine):
    """Answers what the test wrote down, and keeps what it was fed."""

    def __init__(self, **outputs: Any) -> None:
        self.outputs = {name: np.asarray(value) for name, value in outputs.items()}
        self.fed: list[dict[str, NDArray[Any]]] = []
        self.closed = 0

    @classmethod
    def available(cls) -> str:
        return ""

    @classmethod
    def open(cls, model: Path, threads: int | None = None) -> Scripted:
        return cls()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.fed.append(dict(feeds))
        count = len(feeds["image"])
        return {name: np.repeat(value[None], count, axis=0) for name, value in self.outputs.items()}

    def close(self) -> None:
        self.closed += 1


def script(rows: list[tuple[float, int, int]], boxes: list[list[float]] | None = None, **changes: Any) -> Scripted:
    """Rows of score, class id and phrase id."""
    scores, class_ids, phrase_ids = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Scripted(
        **{
            "boxes_xyxy": np.array(boxes or [[0.1, 0.2, 0.3, 0.4]] * len(rows), np.float32).reshape(-1, 4),
            "scores": scores.astype(np.float32),
            "class_ids": class_ids.astype(np.int64),
            "phrase_ids": phrase_ids.astype(np.int64),
            **changes,
        }
    )


def detector(
    engine: Engine, threshold: float | None = None, bank: PromptBank | None = None, **changes: Any
) -> Detector:
    served = bank or make_bank()
    bundle = Bundle(Path("bundle"), make_manifest(**changes), served, "0" * 64)
    return Detector(bundle, engine, served, CHOICE, threshold)


def image(height: int = 20, width: int = 40, level: int = 255) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)
