"""The rows of a bank that tuning may turn: phrase vectors and words' token features, as directions of fixed length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medprompt.export.families.base import Family
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank


class TunedRows:
    """A bank whose tunable rows (``Family.tunable``) are parameters.

    A row may turn and keeps its length. So one learning rate and one anchor fit every family, and a unit vector stays
    one. Ends of a caption, separators, positions, masks and task sentences stay what they are.

    Attributes:
        directions: By tensor name, the parameters ``[R, D]``; unit vectors at the start.
    """

    def __init__(self, family: Family, bank: PromptBank) -> None:
        self.bank = bank
        self._specs = {spec.name: spec for spec in family.prompt_specs()}
        self._fixed = {n: torch.from_numpy(a) for n, a in prompt_inputs(bank, self._specs.values()).items()}
        self._whole = {n: torch.from_numpy(np.array(bank.tensors[n], dtype=np.float32)) for n in family.tunable}
        self._indices = {name: torch.from_numpy(_scoring_rows(bank, name)) for name in family.tunable}
        self._start = {name: whole[self._indices[name]] for name, whole in self._whole.items()}
        self._unit = {name: _unit(rows) for name, rows in self._start.items()}
        self.directions = {name: unit.clone().requires_grad_() for name, unit in self._unit.items()}

    def prompts(self) -> dict[str, Tensor]:
        """The graph's prompt inputs as they are now, without ``phrase_to_class``, with their gradients."""
        return {**self._fixed, **{name: self._input(name, whole) for name, whole in self._tensors().items()}}

    def drift(self) -> Tensor:
        """How far the rows have turned, 0 … 2: the mean over all of them of 1 - cosine with the start."""
        turned = [1 - (self._unit[name] * _unit(rows)).sum(-1) for name, rows in self.directions.items()]
        return torch.cat(turned).mean()

    def finite(self) -> bool:
        """Whether every row still is a number; a rate that is too high ends in NaN."""
        return all(bool(torch.isfinite(rows).all()) for rows in self.directions.values())

    def bank_now(self) -> PromptBank:
        """The bank with the rows as they are now, its texts unchanged."""
        now = {name: whole.detach().numpy().copy() for name, whole in self._tensors().items()}
        return replace(self.bank, tensors={**self.bank.tensors, **now})

    def _tensors(self) -> Mapping[str, Tensor]:
        rows = {n: _unit(turned) * self._start[n].norm(dim=-1, keepdim=True) for n, turned in self.directions.items()}
        return {name: self._whole[name].index_copy(0, self._indices[name], rows[name]) for name in rows}

    def _input(self, name: str, whole: Tensor) -> Tensor:
        """``[1, P, …]`` or, with the tokens around the phrases, ``[1, T, …]``."""
        if self._specs[name].source == "phrase":
            return whole[None]
        before = len(self.bank.tensors.get(f"{name}.before", ()))
        fixed = self._fixed[name]
        return torch.cat([fixed[:, :before], whole[None], fixed[:, before + len(whole) :]], dim=1)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _scoring_rows(bank: PromptBank, name: str) -> NDArray[np.int64]:
    """int64 ``[R]``: rows of a tensor that belong to words; a phrase's separator does not."""
    if bank.layouts[name] == "phrase":
        return np.arange(len(bank.tensors[name]), dtype=np.int64)
    pairs = zip(np.cumsum(bank.token_counts), bank.token_counts, strict=True)
    return np.concatenate([np.arange(end - count, end - bank.separator_tokens) for end, count in pairs], dtype=np.int64)
