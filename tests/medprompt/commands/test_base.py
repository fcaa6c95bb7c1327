"""Old spellings work with a warning; an error names parameters to a library's caller and flags on the command line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from medprompt.cli import app
from medprompt.commands import base
from medprompt.commands.common import counts, size_hw, split_list
from medprompt.core.errors import InputError
from medprompt.export.bundle import ExportOptions
from medprompt.export.compile.options import CompileOptions
from tests.shared import Cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(cli: Cli) -> Cli:
    """``run("verify", …)``: any command."""
    return cli


def all_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(all_commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("old", "new"), base.OLD_COMMANDS.items())
def test_an_old_command_works_with_a_warning_and_is_in_no_help(old: str, new: str, run: Run) -> None:
    code, out, err = run(*old.split(), "--help")
    assert (code, run(*new.split(), "--help")[1]) == (0, out)
    assert f"'medprompt {old}' is now 'medprompt {new}'" in err
    assert old not in COMMANDS
    assert new in COMMANDS


@pytest.mark.parametrize(("command", "old", "new"), [(*key, new) for key, new in base.OLD_OPTIONS.items()])
@pytest.mark.parametrize("written", ["{} value", "{}=value"])
def test_an_old_option_is_its_new_one_with_a_warning(
    command: str, old: str, new: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(base._renamed(command, written.format(old).split())) == written.format(new).split()
    assert f"'{old}' of 'medprompt {command}' is now '{new}'" in capsys.readouterr().err
    known = {word for parameter in COMMANDS[command].params for word in parameter.opts}
    assert new in known
    assert old not in known


def test_an_old_option_reaches_its_command(run: Run, tmp_path: Path) -> None:
    keys = [tmp_path / "a.pem", tmp_path / "b.pem"]
    assert run("keys", "--private", keys[0], "--public", keys[1])[0] == 0
    assert all(key.is_file() for key in keys)


def test_what_follows_two_dashes_is_left_alone() -> None:
    assert list(base._renamed("sign", ["--", "--key"])) == ["--", "--key"]
    assert list(base._renamed("verify", ["--key", "k"])) == ["--key", "k"]


FLAGS = {"prompt_map": "--prompt-map", "strict": "--strict", "weights": "--weights", "weights=False": "--no-weights"}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("pass prompt_map=FILE or strict=True", "pass --prompt-map FILE or --strict"),
        ("pass prompt_map='a b'; weights=False", "pass --prompt-map a b; --no-weights"),
        ("leave prompt_map= out.", "leave --prompt-map out."),
        ("other=1, --strict=x and a/strict=1", "other=1, --strict=x and a/strict=1"),
        ("", ""),
    ],
)
def test_arguments_become_flags(said: str, shown: str) -> None:
    error = InputError(said, expected=said, got=said, where="x", fix=said)
    base.name_flags(error, FLAGS)
    assert (error.problem, error.expected, error.fix) == (shown, shown, shown)
    assert error.got == said


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("strict", "--strict"),
        ("prompt_map, strict", "--prompt-map, --strict"),
        ("strict=True", "--strict"),
        ("strict.json", "strict.json"),
        ("frames/strict=1", "frames/strict=1"),
        ("strict, or a file", "strict, or a file"),
        ("", ""),
    ],
)
def test_where_becomes_flags_where_it_names_nothing_else(where: str, shown: str) -> None:
    error = InputError("Wrong.", where=where)
    base.name_flags(error, FLAGS)
    assert error.where == shown


FACES: list[tuple[Callable[[], Any], list[str], str, str]] = [
    (lambda: ExportOptions(top_k=0).checked(), ["--top-k", "0"], "top_k", "--top-k"),
    (lambda: ExportOptions(image_size=(8, 8)).checked(), ["--image-size", "8"], "image_size", "--image-size"),
    (lambda: ExportOptions(opset=17).checked(), ["--opset", "17"], "opset", "--opset"),
    (lambda: ExportOptions(precision="int8").checked(), ["--precision", "int8"], "calibration", "--calibration"),
    (
        lambda: CompileOptions("trt", max_batch=0),
        ["--engine", "trt", "--max-batch", "0"],
        "max_batch",
        "--max-batch",
    ),
]


@pytest.mark.parametrize(("call", "words", "parameter", "flag"), FACES)
def test_one_error_has_two_faces(
    call: Callable[[], Any], words: list[str], parameter: str, flag: str, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.where == parameter
    assert "--" not in str(caught.value)
    code, _, err = run("export", tmp_path, "--prompts", "p.yaml", "--out", tmp_path / "out", *words)
    assert code == 2
    assert f"where:    {flag}\n" in err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, []),
        ([], []),
        (["sm86"], ["sm86"]),
        (["sm86", "sm89"], ["sm86", "sm89"]),
        (["sm86, sm89", "sm120"], ["sm86", "sm89", "sm120"]),
        (["a,,b", ","], ["a", "b"]),
    ],
)
def test_lists_repeat_and_commas_are_taken(values: list[str] | None, words: list[str]) -> None:
    assert split_list(values) == words


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("800x1066", (800, 1066)), ("800X600", (800, 600)), ("640", (640, 640))]
)
def test_sizes(text: str | None, size: tuple[int, int] | None) -> None:
    assert size_hw(text) == size


@pytest.mark.parametrize("text", ["", "x", "8x", "x8", "8x8x8", "a", "-8", "8.5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a size"):
        size_hw(text)


@pytest.mark.parametrize(
    ("values", "found"), [(["4,1,1"], [1, 4]), (["2", "1"], [1, 2]), (["none"], []), (["None"], [])]
)
def test_counts(values: list[str], found: list[int]) -> None:
    assert counts(values, "batch") == found


@pytest.mark.parametrize("values", [[""], [], ["0"], ["1,x"], ["1", "none"], ["1.5"]])
def test_what_are_no_counts_is_refused(values: list[str]) -> None:
    with pytest.raises(InputError, match="not counts"):
        counts(values, "batch")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_sentences_and_shows_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert f"`medprompt {name}" in command.help
    for parameter in command.params:
        if getattr(parameter, "hidden", False):  # an old spelling
            continue
        text = parameter.help or ""
        assert text[:1].isupper() or text[:1] in "'", (name, parameter.name, text)
        assert text.endswith("."), (name, parameter.name, text)


def test_the_version(run: Run) -> None:
    from medprompt import __version__

    assert run("--version") == (0, f"medprompt {__version__}\n", "")
