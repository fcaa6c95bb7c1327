"""What people decide before a release, in the limits file: limits, intended use, known limits, impact, who signs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medprompt.benchmarks.regression.limits import Limits, limits_table, read_limits
from medprompt.core.errors import InputError
from medprompt.core.models import FrozenModel, validate


class Signer(FrozenModel):
    """Who answers for a release, and as what."""

    name: str = ""
    role: str = ""


class Plan(FrozenModel):
    """The table ``[plan]`` of a limits file.

    Attributes:
        reason: Why the bundle changes.
        intended_use: What it is for, and what not.
        known_limits: What is known to go wrong, a sentence each.
        benefits, risks, mitigations: Of the change, a sentence each: the impact assessment.
        signers: Who signs the record.
    """

    reason: str = ""
    intended_use: str = ""
    known_limits: tuple[str, ...] = ()
    benefits: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    mitigations: tuple[str, ...] = ()
    signers: tuple[Signer, ...] = ()


@dataclass(frozen=True)
class ReleasePlan:
    """A limits file as a release reads it.

    Attributes:
        stated: Limits that the file states itself; the others have their defaults, which nobody decided.
    """

    plan: Plan
    limits: Limits
    stated: frozenset[str]

    def blanks(self) -> Iterator[str]:
        """What a strict release refuses to leave open."""
        for name in Plan.model_fields:
            value = getattr(self.plan, name)
            if not value or (isinstance(value, str) and not value.strip()):
                yield name.replace("_", " ")
        for signer in self.plan.signers:
            if not (signer.name.strip() and signer.role.strip()):
                yield "name and role of a signer"
        left = [name for name in Limits.model_fields if name not in self.stated]
        if left:
            yield f"limits ({', '.join(left)}: not decided, only the defaults)"


def read_plan(path: Path) -> ReleasePlan:
    """Read a limits file with its table ``[plan]``.

    Raises:
        InputError: It cannot be read, is no TOML, or has an unknown name or a value out of range.
    """
    limits = read_limits(path)
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    failure = InputError(
        "The plan in the limits file has a value that cannot be used.",
        where=f"{path}: [plan]",
        expected=", ".join(Plan.model_fields),
        fix="see `medprompt docs release-gate`",
    )
    return ReleasePlan(validate(Plan, raw.get("plan", {}), failure), limits, frozenset(limits_table(raw)))
