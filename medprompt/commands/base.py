"""What every command inherits: old spellings work with a warning, and a library's error names flags, not parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from medprompt.commands.common import HELD, print_warnings
from medprompt.core.errors import MedpromptError

OLD_COMMANDS = {"nano": "init-small", "keys": "keygen", "prompts measure": "prompts eval"}
"""Old name of a command: its name."""

OLD_OPTIONS = {
    ("prompts generate", "--map"): "--prompt-map",
    ("prompts collapse", "--map"): "--prompt-map",
    ("prompts augment", "--most"): "--max-new",
    ("prompts tune", "--report"): "--test-data",
    ("prompts search", "--report"): "--test-data",
    ("bench latency", "--most-images"): "--max-images",
    ("bench latency", "--most-seconds"): "--max-seconds",
    ("bench sweep", "--most-images"): "--max-images",
    ("sign", "--key"): "--private-key",
    ("keygen", "--private"): "--private-key",
    ("keygen", "--public"): "--public-key",
}
"""Command and old spelling of one of its options: the option."""

ARGUMENT = re.compile(r"""(?<![\w/.\-])([a-z]\w*)=("[^"]*"|'[^']*'|\[[^]]*\]|[^\s,;)]*)""")
"""``name=value``, as errors of the library write an argument."""

MAX_METAVAR = 15
"""Characters of an option's choices that its help spells out; more are called NAME."""


class _ShortWords:
    """Shorter words for an option's value: the help has 80 columns, and typer's own words take half of them."""

    callback: Any
    params: list[Any]

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        hints = get_type_hints(inspect.unwrap(self.callback)) if self.callback else {}
        for option in self.params:
            if option.param_type_name == "option" and option.metavar is None:
                option.metavar = _metavar(hints[option.name])

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, which takes no value."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.metavar = ""
        return option


class Command(_ShortWords, TyperCommand):
    """A command that knows its old options, and says its parameters' names as flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, old spellings replaced."""
        return super().parse_args(ctx, list(_renamed(_path(ctx), args)))

    def invoke(self, ctx: Any) -> Any:
        """Run, hold outputs until it ends, and let an error speak of flags."""
        try:
            with ExitStack() as held:
                HELD.set(held)
                return super().invoke(ctx)
        except MedpromptError as error:
            name_flags(error, dict(_flags(self.params)))
            raise


class Group(_ShortWords, TyperGroup):
    """A group that knows the old names of its commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by its name, or its old one."""
        old = f"{_path(ctx)} {args[0]}".strip()
        if new := OLD_COMMANDS.get(old):
            print_warnings([f"'medprompt {old}' is now 'medprompt {new}'; the old name still works"])
            args = [new.split()[-1], *args[1:]]
        return super().resolve_command(ctx, args)


def name_flags(error: MedpromptError, flags: Mapping[str, str]) -> None:
    """Write flags where an error names parameters: as its ``where``, and as ``name=value`` in its sentences.

    What came (``got``) is left alone: it may be the user's own text.
    """
    names = error.where.split(", ")
    if all(name.partition("=")[0] in flags for name in names):
        error.where = ", ".join(flags[name] if name in flags else _as_flags(name, flags) for name in names)
    error.problem = _as_flags(error.problem, flags)
    error.expected = _as_flags(error.expected, flags)
    error.fix = _as_flags(error.fix, flags)


def _as_flags(text: str, flags: Mapping[str, str]) -> str:
    def flag(found: re.Match[str]) -> str:
        name, value = found.group(1), found.group(2).strip("[]\"'")
        if name not in flags:
            return found.group(0)
        if value in ("", "True"):
            return flags[name]
        return flags.get(f"{name}={value}", f"{flags[name]} {value}")

    return ARGUMENT.sub(flag, text)


def _metavar(hint: Any) -> str:
    kinds = [kind for one in (hint, *get_args(hint)) for kind in (one, *get_args(one))]
    if bool in kinds:
        return ""
    for kind, word in ((Path, "PATH"), (float, "X"), (int, "N"), (str, "TEXT")):
        if kind in kinds:
            return word
    names = "|".join(dict.fromkeys(kind for kind in kinds if isinstance(kind, str)))
    return names if 0 < len(names) <= MAX_METAVAR else "NAME"


def _flags(parameters: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """What the command line calls each parameter; and an option that switches it off, as ``name=False``."""
    for one in parameters:
        option = one.param_type_name == "option"
        yield str(one.name), str(one.opts[0]) if option else str(one.name).upper()
        if one.secondary_opts:
            yield f"{one.name}=False", str(one.secondary_opts[0])


def _path(ctx: typer.Context | Any) -> str:
    """The command's words after ``medprompt``."""
    words: list[str] = []
    while ctx.parent is not None:
        words.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return " ".join(words)


def _renamed(command: str, args: Sequence[str]) -> Iterator[str]:
    old = {option: new for (of, option), new in OLD_OPTIONS.items() if of == command}
    for index, word in enumerate(args):
        if word == "--":
            yield from args[index:]
            return
        name, equals, value = word.partition("=")
        if new := old.get(name):
            print_warnings([f"'{name}' of 'medprompt {command}' is now '{new}'; the old spelling still works"])
            word = new + equals + value
        yield word
