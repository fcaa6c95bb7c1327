"""Names and tensors of one project turned into those of another, by a table in which every name has one rule.

A table maps a name with fields to where its tensor goes: ``"norm{i}.{w}": "norms.{i}.{w}"``. ``{w}`` stands for weight
or bias, ``{stat}`` for a normalisation's five tensors, ``{rest}`` for anything, every other field for a number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medprompt.core.errors import CheckpointError

FIELD = re.compile(r"\{(\w+)\}")
FIELDS = {
    **{"w": "weight|bias", "stat": "weight|bias|running_mean|running_var|num_batches_tracked"},
    **{"rest": ".+", "before": ".*"},
}
MOST_LISTED = 20
"""Names that an error lists."""


@dataclass(frozen=True)
class Target:
    """Where a tensor goes, and what is done to it on the way.

    Attributes:
        names: The target names; no name drops the tensor.
        op: One of ``OPS``.
    """

    names: tuple[str, ...]
    op: str = "copy"


Rules = Mapping[str, str | Target]
"""Source name with fields: target name, or a ``Target``."""

DROP = Target(())
"""What no computation of the target reads."""


def both(*names: str) -> Target:
    """The tensor under each of several names."""
    return Target(names)


def thirds(*names: str) -> Target:
    """Rows of a joint projection in the order query, key, value."""
    return Target(names, "thirds")


def swapped(name: str) -> Target:
    """Patch merging by ``nn.Unfold`` (channel, y, x), turned to the order x00, x10, x01, x11 of blocks."""
    return Target((name,), "swapped")


def scalar(*names: str) -> Target:
    """One number, stored as a list of one; under each of several names."""
    return Target(names, "scalar")


def single(name: str) -> Target:
    """One number, stored as such or as a list of one, as a list of one."""
    return Target((name,), "single")


def rgb_from_bgr(name: str) -> Target:
    """A first convolution that was trained on blue, green, red: the same sums over red, green, blue."""
    return Target((name,), "rgb_from_bgr")


def transposed(name: str) -> Target:
    """A matrix that the project multiplies from the other side."""
    return Target((name,), "transposed")


def without_first(name: str) -> Target:
    """Positions ``[1, 1 + N, d]`` without the first, a class token's."""
    return Target((name,), "without_first")


def _swap(tensor: Tensor) -> Tensor:
    channels_last = tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return channels_last.transpose(-1, -2).flatten(-2)


OPS: dict[str, Callable[[Tensor, int], Iterable[Tensor]]] = {
    "copy": lambda tensor, count: [tensor] * count,
    "thirds": lambda tensor, count: tensor.chunk(count),
    "swapped": lambda tensor, count: [_swap(tensor)],
    "scalar": lambda tensor, count: [tensor.reshape([])] * count,
    "single": lambda tensor, count: [tensor.reshape([1])],
    "transposed": lambda tensor, count: [tensor.T],
    "without_first": lambda tensor, count: [tensor[:, 1:]],
    "rgb_from_bgr": lambda tensor, count: [tensor.flip(1)],
}


def convert(tensors: Mapping[str, Tensor], rules: Rules, where: str) -> dict[str, Tensor]:
    """Apply a table to every tensor; floating-point tensors become float32.

    Raises:
        CheckpointError: A name meets no rule or several, or two different tensors would get one name.
    """
    compiled = [(_pattern(source), target) for source, target in rules.items()]
    converted: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        met = [(found.groupdict(), target) for pattern, target in compiled if (found := pattern.fullmatch(name))]
        if len(met) == 1:
            _put(converted, name, *met[0], tensor, where)
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            "The file holds weights of which the format's table does not say one thing: what they do would be lost.",
            where=where,
            expected="names of this format only",
            got=listed(unknown),
            fix="if they come from changed model code, the file cannot be imported; if not, report the names",
        )
    return converted


def _put(
    converted: dict[str, Tensor], name: str, fields: Mapping[str, str], to: str | Target, tensor: Tensor, where: str
) -> None:
    target = Target((to,)) if isinstance(to, str) else to
    value = tensor.float() if tensor.is_floating_point() else tensor
    targets = [one.format_map(fields) for one in target.names]
    for one, part in zip(targets, OPS[target.op](value, len(targets)), strict=True):
        if one in converted and not equal(converted[one], part):
            raise CheckpointError(
                "Two names stand for one weight, and their tensors differ.",
                where=f"{where}: {name}",
                expected="the tensor that another name gave",
                got="another tensor",
                fix="take another checkpoint of the training",
            )
        converted[one] = part.clone(memory_format=torch.contiguous_format)


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same; of those without values, whether their shapes are."""
    return one.shape == other.shape and bool(one.is_meta or torch.equal(one, other))


def _pattern(source: str) -> re.Pattern[str]:
    literals = FIELD.split(source)
    parts = [
        re.escape(part) if index % 2 == 0 else f"(?P<{part}>{FIELDS.get(part, r'[0-9]+')})"
        for index, part in enumerate(literals)
    ]
    return re.compile("".join(parts))


def matching(names: Iterable[str], source: str) -> list[dict[str, str]]:
    """The fields of each name that has the form of ``source``."""
    pattern = _pattern(source)
    return [found.groupdict() for name in names if (found := pattern.fullmatch(name))]


def mapping_sha256(rules: Rules) -> str:
    """SHA-256 over the table: sources, targets and what is done on the way."""
    rows = [
        [source, *([target, "copy"] if isinstance(target, str) else [list(target.names), target.op])]
        for source, target in rules.items()
    ]
    return hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()


def listed(names: Iterable[Any]) -> str:
    """Names for an error: the first of them, and how many more there are."""
    found = [str(name) for name in names]
    more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
    return f"{len(found)}: " + ", ".join(found[:MOST_LISTED]) + more
