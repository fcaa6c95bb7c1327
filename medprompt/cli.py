"""The command line: parse, call one library function, print. Logs and progress go to stderr, results to stdout.

Exit codes: 0 ok, 1 failed check or a bad item of a batch, 2 bad usage or input, 3 parity failed, 4 no verdict.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from medprompt.commands.bench import bench_app
from medprompt.commands.bundle import inspect, keys, sign, verify
from medprompt.commands.compile import compile_bundle
from medprompt.commands.data import data_app
from medprompt.commands.doctor import doctor
from medprompt.commands.export import export
from medprompt.commands.infer import infer
from medprompt.commands.measure import calibrate, measure
from medprompt.commands.prompts import prompts_app
from medprompt.commands.search import prompts_search
from medprompt.commands.train import demo, finetune, nano
from medprompt.commands.tune import tune
from medprompt.core.errors import MedpromptError

app = typer.Typer(
    name="medprompt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a fine-tuned open-vocabulary detector to fast, proven, torch-free detection.",
)
for command in (export, infer, inspect, verify, keys, sign, doctor, finetune, nano, demo):
    app.command()(command)
app.command("compile")(compile_bundle)
prompts_app.command("measure")(measure)
prompts_app.command("calibrate")(calibrate)
prompts_app.command("tune")(tune)
prompts_app.command("search")(prompts_search)
app.add_typer(prompts_app, name="prompts")
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> NoReturn:
    """Run the command line and exit with the error's own code."""
    try:
        app(standalone_mode=True)
    except MedpromptError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer turns Ctrl-C into this
            print("interrupted; nothing half-written is left", file=sys.stderr)
        raise
    sys.exit(0)
