"""The one exception tree of medprompt, and the exit code each branch maps to.

::

    MedpromptError                 exit 1   a check failed, or an item of a batch
    ├── InputError                 exit 2   bad usage or input: nothing was made (infer writes its statuses)
    │   ├── CheckpointError                 a model folder that cannot be used
    │   ├── PromptError                     a prompts file that cannot be used
    │   ├── BankError                       a prompt bank that cannot be used
    │   ├── ImageError                      an image that was not read
    │   ├── DataError                       a data set that cannot be used
    │   ├── BundleError                     a bundle that must not be loaded
    │   ├── EngineError                     an engine that is missing or refuses
    │   │   └── OutOfMemoryError            an engine without memory for what it was given
    │   └── ServerError                     a server that cannot be reached, refuses or errs
    ├── ParityError                exit 3   the exported model decides otherwise than PyTorch
    └── NoVerdictError             exit 4   the measurement is too noisy to tell
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar, Literal

RejectCode = Literal[
    "not_an_image",
    "no_pixels",
    "not_a_picture",
    "damaged",
    "too_large",
    "unsupported_pixels",
    "unsupported_encoding",
]
"""Why an input may not be analysed (page ``item-status``). A closed list: results files carry it."""


class MedpromptError(Exception):
    """Base of every error a user can meet.

    Args:
        problem: One sentence: what is wrong.
        expected: What would have been right.
        got: What came instead.
        where: The file, field or argument concerned.
        fix: What the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, expected: str = "", got: str = "", where: str = "", fix: str = "") -> None:
        self.problem, self.expected, self.got, self.where, self.fix = problem, expected, got, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        fields = {"where": self.where, "expected": self.expected, "got": self.got, "do": self.fix}
        return "\n".join([self.problem, *(f"  {name + ':':<10}{text}" for name, text in fields.items() if text)])


class InputError(MedpromptError):
    """Bad usage or input; nothing was made."""

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint folder that cannot be used."""


class PromptError(InputError):
    """A prompts file that cannot be used."""


class BankError(InputError):
    """A prompt bank that cannot be used."""


class ImageError(InputError):
    """An image that was not read; ``code`` says why it may not be analysed: None where something else failed."""

    def __init__(self, problem: str, *, code: RejectCode | None = None, **fields: str) -> None:
        self.code = code
        super().__init__(problem, **fields)


class DataError(InputError):
    """A data set that cannot be used."""


class BundleError(InputError):
    """A bundle that must not be loaded."""


class EngineError(InputError):
    """An engine that is not installed, not known, or refuses the model."""


class OutOfMemoryError(EngineError):
    """An engine without memory for what it was given: a smaller batch may fit."""


class ServerError(InputError):
    """A server that cannot be reached, refuses, or errs; ``status`` is HTTP's, None where none came."""

    def __init__(self, problem: str, *, status: int | None = None, **fields: str) -> None:
        self.status = status
        super().__init__(problem, **fields)


class ParityError(MedpromptError):
    """The exported model decides otherwise than PyTorch; no bundle was made."""

    exit_code = 3


class NoVerdictError(MedpromptError):
    """The measurement is too noisy for a verdict, or nothing could be measured."""

    exit_code = 4


def in_one_line(error: str) -> str:
    """What an error said, in one line for another error or a table: its problem, and what came."""
    lines = error.splitlines()
    came = [line.strip().removeprefix("got:").strip() for line in lines[1:] if line.strip().startswith("got:")]
    return f"{lines[0]} ({came[0]})" if lines and came else (lines or [""])[0]


def missing_extra(feature: str, package: str, extra: str) -> EngineError:
    """Say what to install for a feature whose package is absent: the packages of the extra."""
    from medprompt.core.packages import install_command  # importlib.metadata costs every start 15 ms

    return EngineError(f"{feature} needs {package}, which is not installed.", fix=install_command(extra))


def need_module(module: str, feature: str, package: str, extra: str) -> None:
    """Raise the ``EngineError`` of ``missing_extra`` where a module cannot be imported."""
    if find_spec(module) is None:
        raise missing_extra(feature, package, extra)
