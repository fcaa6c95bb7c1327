"""What a release may lose against its baseline: limits with defaults, from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from medprompt.core.errors import InputError
from medprompt.core.models import FrozenModel, validate

Share = Annotated[float, Field(ge=0, le=1)]


class Limits(FrozenModel):
    """The maximum change of each figure for the worse.

    Attributes:
        ap50_drop: Loss of AP50, absolute.
        sensitivity_drop: Loss of the mean FROC sensitivity, absolute.
        decisions_lost: Share of the baseline's decisions that are not found again, or of new ones, whichever is more.
        latency_ratio: Time now over time then, both over the same reference's.
        memory_ratio: Peak memory of a whole ``medprompt infer`` now over then.
        bundle_size_ratio: Bytes of the bundle now over then.
    """

    ap50_drop: Share = 0.01
    sensitivity_drop: Share = 0.01
    decisions_lost: Share = 0.005
    latency_ratio: float = Field(default=1.10, gt=1, allow_inf_nan=False)
    memory_ratio: float = Field(default=1.10, ge=1, allow_inf_nan=False)
    bundle_size_ratio: float = Field(default=1.10, ge=1, allow_inf_nan=False)


def read_limits(path: Path | None) -> Limits:
    """Read a limits file; what it leaves out, or all where there is none, has its default.

    Raises:
        InputError: It cannot be read, is no TOML, or has an unknown name or a value out of range.
    """
    if path is None:
        return Limits()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            "The limits file cannot be read.", where=str(path), got=str(error), fix="see `medprompt docs release-gate`"
        ) from error
    failure = InputError(
        "The limits file has a value that cannot be used.",
        where=str(path),
        expected=", ".join(Limits.model_fields),
        fix="correct that line; what is left out has its default",
    )
    return validate(Limits, limits_table(raw), failure)


def limits_table(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The limits among a file's values; its table ``plan`` is for ``medprompt release``."""
    return {name: value for name, value in raw.items() if name != "plan"}
