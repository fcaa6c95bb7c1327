"""What a training run does beside its steps: average the weights, and measure them now and then."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from medprompt.errors import DataError
from medprompt.export.finetune.model import TrainableDetector
from medprompt.files import written_aside

EMA_FILE = "averaged.safetensors"
LOG_FILE = "log.csv"
"""In a run's folder: a line a figure (``step,figure,value``), through kills and resumes."""

Report = Callable[[dict[str, Any]], None]


def logged(report: Report, path: Path) -> Report:
    """A report that is written down as well.

    A resumed run repeats the steps since its last save, and may end sooner than the first one got: with its first row
    all that was written of later steps goes.

    Args:
        report: Told about each row.
        path: CSV file; what it holds of earlier steps stays.

    Raises:
        DataError: The file is damaged.
    """
    rows = _read_log(path) if path.is_file() else {}

    began: list[int] = []

    def written(row: dict[str, Any]) -> None:
        if not began:
            began.append(row["step"])
            for key in [key for key in rows if key[0] > row["step"]]:
                del rows[key]
        figures = {name: value for name, value in row.items() if name not in ("step", "steps") and value is not None}
        rows.update({(row["step"], name): float(value) for name, value in figures.items()})
        with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(("step", "figure", "value"))
            writer.writerows((step, name, f"{value:.8g}") for (step, name), value in sorted(rows.items()))
        report(row)

    return written


def _read_log(path: Path) -> dict[tuple[int, str], float]:
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return {(int(row["step"]), row["figure"]): float(row["value"]) for row in csv.DictReader(handle)}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            "The run's log is damaged.",
            where=str(path),
            expected="lines of step,figure,value",
            got=str(error),
            fix="delete the log; the run goes on from its last save without it",
        ) from error


class AveragedWeights(TrainerCallback):
    """Exponential moving average of the weights, saved with every checkpoint and loaded on resume."""

    def __init__(self, model: TrainableDetector, decay: float) -> None:
        self.source = model
        self.averaged = AveragedModel(model.detector, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the average that belongs to a resumed step."""
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / EMA_FILE
        if path.is_file():
            load_model(self.averaged, path)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the loss how far the run is."""
        self.source.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average; an early average forgets its start sooner (decay (1 + n) / (10 + n) at step n, as TensorFlow's)."""
        self.averaged.update_parameters(self.source.detector)
        if state.global_step <= 10:
            self.averaged.module.load_state_dict(self.source.detector.state_dict())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the average beside the trainer's own state."""
        save_model(self.averaged, str(Path(args.output_dir) / f"checkpoint-{state.global_step}" / EMA_FILE))


class Measure(TrainerCallback):
    """Report the loss, and AP on the validation sets with the averaged weights."""

    def __init__(self, measure: Callable[[], dict[str, Any]], every: int, report: Report) -> None:
        self.measure = measure
        self.every = every
        self.report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Pass the trainer's log on."""
        if logs and "loss" in logs:
            row = {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
            self.report({"step": state.global_step, "steps": state.max_steps, **row})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every so many steps and at the end."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.report({"step": state.global_step, "steps": state.max_steps, **self.measure()})
