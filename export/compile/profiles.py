"""Optimisation profiles: which sizes a request may have, so that the runtime reserves memory for those it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medprompt.core.errors import EngineError
from medprompt.core.manifest import AxisRange, TensorSpec

BATCH = "B"


def profiles_of_axes(axes: Mapping[str, AxisRange]) -> tuple[dict[str, AxisRange], ...]:
    """The ranges of each profile: one image, and more than one where so many are allowed.

    A context takes the memory of its profile's upper end, so that one image must not pay for eight.
    """
    batch = axes.get(BATCH)
    if batch is None or batch.most == 1:
        return (dict(axes),)
    several = AxisRange(least=2, typical=batch.most, most=batch.most)
    return tuple({**axes, BATCH: images} for images in (AxisRange(least=1, typical=1, most=1), several))


def add_profiles(builder: Any, config: Any, inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange]) -> None:
    """Tell a builder the profiles of some axes, in order.

    Raises:
        EngineError: It refuses them, or a dynamic axis has no range.
    """
    for ranges in profiles_of_axes(axes):
        _add(builder, config, inputs, ranges)


def _add(builder: Any, config: Any, inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange]) -> None:
    profile = builder.create_optimization_profile()
    for spec in inputs:
        profile.set_shape(spec.name, *profile_shapes(spec, axes))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            "The builder refuses the sizes.",
            got=str({name: str(axis) for name, axis in axes.items()}),
            fix="choose a smaller max_batch, max_phrases, max_tokens or max_source",
        )


def profile_shapes(
    spec: TensorSpec, axes: Mapping[str, AxisRange]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Minimum, typical and maximum shape of an input.

    Raises:
        EngineError: A dynamic axis that has no range.
    """
    ranges = []
    for size in spec.shape:
        if isinstance(size, str) and size not in axes:
            raise EngineError(
                "An axis has no range.",
                where=spec.name,
                expected=", ".join(axes),
                got=size,
                fix="export the bundle again: its manifest does not fit its model",
            )
        ranges.append(axes[size] if isinstance(size, str) else AxisRange(least=size, typical=size, most=size))
    return tuple(r.least for r in ranges), tuple(r.typical for r in ranges), tuple(r.most for r in ranges)
