"""What a training run does beside its steps: average the weights, and measure them now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from medprompt.core.files import atomic_write
from medprompt.core.progress import Progress
from medprompt.export.finetune.best import BestWeights
from medprompt.export.finetune.log import Report
from medprompt.export.finetune.model import TrainableDetector

EMA_FILE = "averaged.safetensors"
"""In a save's folder, and the last thing written there: a save without it was cut short."""


class AveragedWeights(TrainerCallback):
    """Exponential moving average of the weights, saved with every checkpoint and loaded on resume."""

    def __init__(self, model: TrainableDetector, decay: float) -> None:
        self.source = model
        self.averaged = AveragedModel(model.detector, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the average that belongs to a resumed step."""
        self.load(Path(args.output_dir), state.global_step)

    def load(self, work: Path, step: int) -> None:
        """Load the average that was saved at a step, if there is one."""
        path = work / f"checkpoint-{step}" / EMA_FILE
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
        with atomic_write(Path(args.output_dir) / f"checkpoint-{state.global_step}" / EMA_FILE) as aside:
            save_model(self.averaged, str(aside))


@dataclass(eq=False)
class Measure(TrainerCallback):
    """Report the loss, and AP on the validation sets with the averaged weights: of the start, and every so many steps.

    The run ends early where ``best``, which keeps the best weights, says so, and at step ``stop_after``.
    """

    measure: Callable[[], dict[str, Any]]
    every: int
    report: Report
    averaged: AveragedWeights
    progress: Progress
    best: BestWeights | None = None
    stop_after: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start; it is reported, and never chosen as the best."""
        if state.global_step == 0:
            self.progress.step("measure the start")
            if measured := self.measure():
                self.report({"step": 0, "steps": state.max_steps, **measured})
        self.progress.step(f"train, from step {state.global_step + 1}", state.max_steps - state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Pass the trainer's log on."""
        if logs and "loss" in logs:
            row = {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
            self.report({"step": state.global_step, "steps": state.max_steps, **row})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every so many steps and at the end; at an early stop, save."""
        self.progress.advance()
        stops = state.global_step == self.stop_after
        if state.global_step % self.every and state.global_step != state.max_steps and not stops:
            return
        measured = self.measure()
        exhausted = self.best and self.best.update(state.global_step, measured, self.averaged.averaged)
        if stops or exhausted:
            control.should_training_stop = control.should_save = control.should_log = True
        self.report({"step": state.global_step, "steps": state.max_steps, **measured})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of weights that were the best before; comes after the average's own ``on_save``."""
        if self.best:
            self.best.saved()
