"""What the experiment on an untrained class measured: prompt variant by seed, and word by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.research.novel_experiment import PromptVariant
from medprompt.benchmarks.research.novel_words import WordSeparation

Figures = dict[str, tuple[float, float]]
"""AP and AP50 by prompt variant."""


@dataclass(frozen=True)
class NovelRun:
    """What one seed's model answers.

    Attributes:
        seed: Of the run.
        step, steps: How far it was trained when it was measured, and how far it goes.
        found: The held-out class on the set that has it.
        trained: AP50 of the set's trained classes by their first names.
        words: Which attribute words it tells apart, on all validation sets.
        among_distractors: The held-out class among the images of all validation sets.
    """

    seed: int
    step: int
    steps: int
    found: Figures
    trained: dict[str, float]
    words: tuple[WordSeparation, ...] = ()
    among_distractors: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class NovelReport:
    """The table: prompt variant by seed.

    Attributes:
        held_out: The class.
        variants: In order.
        runs: One a seed.
        data: The validation set that has the class.
    """

    held_out: str
    variants: tuple[PromptVariant, ...]
    runs: tuple[NovelRun, ...]
    data: str

    def rows(self) -> list[tuple[str, ...]]:
        """Prompts, kind, AP and AP50, without and with distractors (mean ± standard deviation over seeds)."""
        return [
            (
                variant.name,
                variant.kind,
                *(
                    _mean_and_spread([figures[variant.name][n] for figures in by_run])
                    for by_run in ([run.found for run in self.runs], [run.among_distractors for run in self.runs])
                    for n in (0, 1)
                ),
            )
            for variant in self.variants
        ]

    def word_rows(self) -> list[tuple[str, ...]]:
        """Word, and how well it ranks trained and held-out objects (mean ± standard deviation over seeds)."""
        by_word = list(zip(*(run.words for run in self.runs), strict=True))
        return [
            (
                words[0].word,
                _mean_and_spread([word.learned for word in words]),
                _mean_and_spread([word.carried for word in words]),
                str(words[0].trained_true),
                str(words[0].held_out_true),
            )
            for words in by_word
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {
            "held_out": self.held_out,
            "data": self.data,
            "seeds": [run.seed for run in self.runs],
            "steps": [{"measured_at": run.step, "of": run.steps} for run in self.runs],
            "wordings": [
                {
                    **variant.model_dump(exclude_defaults=True),
                    "phrases": list(variant.prompts(self.held_out).texts),
                    "ap": [run.found[variant.name][0] for run in self.runs],
                    "ap50": [run.found[variant.name][1] for run in self.runs],
                    "ap_in_company": [run.among_distractors[variant.name][0] for run in self.runs],
                    "ap50_in_company": [run.among_distractors[variant.name][1] for run in self.runs],
                }
                for variant in self.variants
            ],
            "trained_classes": [run.trained for run in self.runs],
            "words": [[_without_nan(asdict(word)) for word in run.words] for run in self.runs],
            "machine": describe_machine(),
        }


def _without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def _mean_and_spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several; a dash where one was not measured."""
    if any(math.isnan(value) for value in values):
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
