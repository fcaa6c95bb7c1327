"""The command line: parse, call one library function, print. Logs and progress go to stderr, results to stdout.

Exit codes: 0 ok, 1 failed check or a bad item of a batch, 2 bad usage or input, 3 parity failed, 4 no verdict.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from math import inf
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer

from medprompt.commands.base import Command, Group
from medprompt.core.errors import InputError, MedpromptError

PANELS = {
    "Deploy": {
        "import": "export.import_checkpoint",
        "export": "export.export",
        "export-segmenter": "export.export_segmenter",
        "compile": "compile.compile_bundle",
        "infer": "infer.infer",
        "serve": "serve.serve",
        "triton": "serve.triton",
        "dicom": "dicom.dicom_app",
        "verify": "bundle.verify",
        "doctor": "doctor.doctor",
    },
    "Prompts": {"prompts": "prompts.prompts_app"},
    "Measure": {"bench": "bench.bench_app", "release": "release.release", "gpu-check": "doctor.gpu_check"},
    "Train": {"finetune": "train.finetune", "init-small": "train.init_small", "data": "data.data_app"},
    "Bundle": {
        "inspect": "bundle.inspect",
        "set-thresholds": "bundle.set_thresholds",
        "bundle": "bundle.bundle_app",
        "sign": "bundle.sign",
        "keygen": "bundle.keygen",
    },
    "Help": {"docs": "docs.docs", "demo": "train.demo"},
}
"""Each panel's commands, and where each is below ``medprompt.commands``: text, so that a start imports one of them."""

LOOK: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": "markdown"}


def build_command(name: str) -> Any:
    """The command of a name, imported.

    Raises:
        KeyError: There is none.
    """
    panel = next((panel for panel, homes in PANELS.items() if name in homes), None)
    if panel is None:
        raise KeyError(name)
    module, _, attribute = PANELS[panel][name].partition(".")
    found = getattr(import_module(f"medprompt.commands.{module}"), attribute)
    alone = typer.Typer(cls=Group, callback=lambda: None, **LOOK)  # its callback keeps a single command below a group
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name, rich_help_panel=panel)
    else:
        alone.command(name, cls=Command, rich_help_panel=panel)(found)
    return typer.main.get_group(alone).commands[name]


class Commands(Mapping[str, Any]):
    """The commands by name, in the order of their panels; each is built when it is first asked for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = build_command(name)
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return (name for homes in PANELS.values() for name in homes)

    def __len__(self) -> int:
        return sum(map(len, PANELS.values()))


class Root(Group):
    """The group of all commands."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        added = self.commands  # to ``app``, as tests and those who extend it do
        self.commands = ChainMap(added, Commands())  # type: ignore[arg-type]

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, for the help."""
        return list(self.commands)


app = typer.Typer(name="medprompt", cls=Root, no_args_is_help=True, **LOOK)


def _print_version(wanted: bool) -> None:
    if wanted:
        from medprompt import __version__

        print(f"medprompt {__version__}")
        raise typer.Exit


@app.callback()
def medprompt(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Turn a fine-tuned open-vocabulary detector into fast, torch-free detection that is proven to decide alike.

    Start with `medprompt demo`, or read `medprompt docs first-bundle`.
    """


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class ReaderMayLeave:
    """A stream whose reader may leave, as ``head`` does: what is written then is lost, the work goes on to its end.

    Where it cannot be written for another reason, results are missed (``InputError``), and messages are not.
    """

    def __init__(self, stream: TextIO, missed: bool) -> None:
        self._stream, self._missed = stream, missed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """See ``TextIO.write``."""
        with self._unread():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """See ``TextIO.flush``."""
        with self._unread():
            self._stream.flush()

    @contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._lead_nowhere()
        except OSError as error:  # a full disk under the file that the shell redirects to
            self._lead_nowhere()
            if not self._missed:
                return
            raise InputError(
                "What the command prints cannot be written; files that it writes are not concerned.",
                where="standard output",
                got=error.strerror or str(error),
                fix="make room, or print elsewhere",
            ) from error

    def _lead_nowhere(self) -> None:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


AGAIN_S = 5.0
"""Seconds after which a process that was asked to end may be asked again."""


class Stopping:
    """Ends the process as Ctrl-C does where it is asked to end, by a queue or a closed terminal: nothing is left half.

    Attributes:
        code: Exit code, 128 and the signal's number; None where none came.
    """

    code: int | None = None

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._asked = -inf
        if threading.current_thread() is not threading.main_thread():
            return  # no signal arrives there
        for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # else ignored, as under nohup
                signal.signal(number, self._stop)
                self._taken.append(number)

    def restore(self) -> None:
        """Leave signals as they were to a program that called ``main``."""
        for number in self._taken:
            signal.signal(number, signal.SIG_DFL)

    def _stop(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if now - self._asked < AGAIN_S:
            return  # the end takes a moment, and some senders send twice
        self._asked = now  # later again: a library that was just being imported may have swallowed the first
        self.code = 128 + number
        on_ctrl_c = signal.getsignal(signal.SIGINT)  # whoever ends in order on Ctrl-C does so here too
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(number, None)


def open_missing_streams() -> None:
    """Give a process whose shell closed its standard streams (``>&-``) ones that lead nowhere.

    The next file that is opened would take the number of a closed one, and what a library prints would land in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w" if number else "r", encoding="utf-8")  # noqa: SIM115 - for all its life
            setattr(sys, name, nowhere)


def main() -> NoReturn:
    """Run the command line and exit with the error's own code."""
    open_missing_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    streams, stopping = (sys.stdout, sys.stderr), Stopping()
    sys.stdout = cast("TextIO", ReaderMayLeave(sys.stdout, missed=True))
    sys.stderr = cast("TextIO", ReaderMayLeave(sys.stderr, missed=False))
    try:
        code = _ran()
    finally:
        sys.stdout, sys.stderr = streams
        stopping.restore()
    sys.exit(stopping.code or code)


def _ran() -> int | str | None:
    """The exit code."""
    code: int | str | None = 0
    try:
        try:
            app(prog_name="medprompt")
        finally:
            sys.stdout.flush()
    except MedpromptError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        if error.filename is None:  # it is about no path: a fault of ours
            raise
        refused = InputError(
            "The operating system refuses a path.",
            where=str(error.filename),
            got=error.strerror or "",
            fix="see whether it is there, whether you may read or write it, and whether its name is too long",
        )
        print(f"error: {refused}", file=sys.stderr)
        code = refused.exit_code
    except SystemExit as leaving:
        code = leaving.code
        if code == INTERRUPTED:  # typer turns Ctrl-C into this
            print("interrupted; no half-written file is left", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
