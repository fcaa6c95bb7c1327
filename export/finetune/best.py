"""Early stop: the averaged weights of the best measurement so far, kept through kills and resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from medprompt.core.errors import DataError
from medprompt.core.files import atomic_write, write_text

HISTORY_FILE = "measured.json"
"""In a run's folder: what was measured at which step."""

START_ANEW = "delete the run's folder to start anew"

History = dict[int, dict[str, float]]


def mean_ap(measured: Mapping[str, float]) -> float:
    """Mean over the validation sets of their AP; a set without a box says nothing. -1 where none says anything."""
    values = [value for name, value in measured.items() if name.startswith("ap/") and not math.isnan(value)]
    return sum(values) / len(values) if values else -1.0


def best_step(history: Mapping[int, Mapping[str, float]]) -> int:
    """The first step of the highest mean AP."""
    return max(sorted(history), key=lambda step: mean_ap(history[step]))


def stop_step(history: Mapping[int, Mapping[str, float]], patience: int) -> int | None:
    """The step at which ``patience`` measurements in a row were no better than the best before them; None: not yet."""
    best, since = -math.inf, 0
    for step in sorted(history):
        value = mean_ap(history[step])
        best, since = (value, 0) if value > best else (best, since + 1)
        if since >= patience:
            return step
    return None


class BestWeights:
    """The best averaged weights of a run.

    A weights file goes only when a save has come that no resume will go behind, so that a resumed run, which measures
    again what came after its save, still has what was best before it. What was measured after ``save``, the step that
    the run goes on from, is forgotten.

    Raises:
        DataError: What the folder says of earlier measurements is damaged or gone.
    """

    def __init__(self, work: Path, patience: int, save: int) -> None:
        self.work, self.patience = work, patience
        self.history: History = {step: row for step, row in read_history(work).items() if step <= save}
        for path in self._files():
            if _step_of(path) > save:
                path.unlink()
        if self.history and not self._file(self.step).is_file():
            raise DataError(
                "The best weights of the run are gone.",
                where=str(self._file(self.step)),
                fix=START_ANEW,
            )

    @property
    def step(self) -> int:
        """Of the best measurement."""
        return best_step(self.history)

    @property
    def measured(self) -> dict[str, float]:
        """The figures of the best measurement."""
        return self.history[self.step]

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return stop_step(self.history, self.patience) is not None

    def update(self, step: int, measured: Mapping[str, float], averaged: nn.Module) -> bool:
        """Take a measurement down, with its weights if it is the best; return whether it is time to stop."""
        self.history[step] = dict(measured)
        if self.step == step:
            with atomic_write(self._file(step)) as aside:
                save_model(averaged, str(aside))
        write_text(self.work / HISTORY_FILE, json.dumps(self.history))
        return self.exhausted

    def saved(self) -> None:
        """A save has come: weights that are not the best any more go."""
        for path in self._files():
            if self.history and _step_of(path) != self.step:
                path.unlink()

    def load_into(self, averaged: nn.Module) -> None:
        """Load the best weights."""
        load_model(averaged, self._file(self.step))

    def _file(self, step: int) -> Path:
        return self.work / f"best-{step}.safetensors"

    def _files(self) -> Iterable[Path]:
        return list(self.work.glob("best-*.safetensors"))


def read_history(work: Path) -> History:
    """What a run's folder says was measured, by step; nothing where it says nothing.

    Raises:
        DataError: The file is damaged.
    """
    path = work / HISTORY_FILE
    if not path.is_file():
        return {}
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {int(step): {str(name): float(value) for name, value in row.items()} for step, row in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged_note("measurements", path, error) from error


def damaged_note(what: str, path: Path, error: Exception) -> DataError:
    """What a run's folder says cannot be read."""
    return DataError(f"The run's note of its {what} is damaged.", where=str(path), got=str(error), fix=START_ANEW)


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
