"""One image through the model before the long work: what cannot run is refused in words, before the graph is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medprompt.core.errors import CheckpointError, MedpromptError
from medprompt.export.families.base import Family
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank


def try_out(family: Family, bank: PromptBank, image_rgb: NDArray[np.uint8]) -> int:
    """Run the family's graph, then transformers' own way, once each; return how many queries the model answers with.

    Raises:
        CheckpointError: Either fails.
        InputError: The image size is too small for the model, or the phrases are too long for it.
    """
    shape, graph_fault = _attempt(lambda: _core_shape(family, bank))
    _, own_fault = _attempt(lambda: family.reference(image_rgb, bank.prompts.texts, bank.prompts.task))
    if own_fault is not None:
        raise _unable(
            f"transformers itself cannot run this {family.architecture}.",
            own_fault,
            "run the checkpoint in transformers on one image; config.json or the processor may state a form that its "
            "code does not have",
        )
    if graph_fault is not None:
        raise _unable(
            f"This form of {family.architecture} is not served: transformers runs it, the exported graph would not.",
            graph_fault,
            "report it with config.json",
        )
    return int(shape[1])


def _core_shape(family: Family, bank: PromptBank) -> torch.Size:
    height, width = family.preprocess().size_hw
    with torch.no_grad():
        feeds = {n: torch.from_numpy(a) for n, a in prompt_inputs(bank, family.prompt_specs()).items()}
        return family.core().eval()(torch.zeros(1, 3, height, width), feeds).logits.shape


def _attempt(run: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What it returns, or what it raised; our own errors already say all that there is to say."""
    try:
        return run(), None
    except MedpromptError:
        raise
    except Exception as error:  # torch and transformers raise many types
        return None, error


def _unable(problem: str, error: Exception, fix: str) -> CheckpointError:
    first = next(iter(str(error).splitlines()), "")
    return CheckpointError(
        problem, where="config.json, processor files", got=f"{type(error).__name__}: {first}", fix=fix
    )
