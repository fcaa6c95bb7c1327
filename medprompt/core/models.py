"""What the models of files share: a frozen base that refuses unknown keys, and errors that say which rule broke."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from medprompt.core.errors import InputError

M = TypeVar("M", bound=BaseModel)


class FrozenModel(BaseModel):
    """A frozen record; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def validate(model: type[M], raw: Any, failure: InputError) -> M:
    """Make a model of raw values; where they break a rule, raise ``failure`` with every broken rule as its ``got``."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        rules = "; ".join(map(_describe_rule, error.errors()))
        fields = {name: getattr(failure, name) for name in ("expected", "where", "fix")}
        raise type(failure)(failure.problem, got=rules, **fields) from error


def _describe_rule(detail: Any) -> str:
    index = ".".join(map(str, detail["loc"])) or "file"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{index}: {message} (got {repr(detail.get('input'))[:60]})"
