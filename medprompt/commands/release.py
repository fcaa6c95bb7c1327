"""``medprompt release``: the change record of a new bundle against the one before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import MedpromptError, NoVerdictError
from medprompt.core.terminal import Steps

if TYPE_CHECKING:
    from medprompt.benchmarks.release.record import ChangeRecord


def release(
    bundle: common.BundlePath,
    baseline: Annotated[Path, typer.Option(help="The bundle before it.")],
    limits: Annotated[Path, typer.Option(help="Limits of the figures and the plan (TOML).")],
    out: Annotated[Path, typer.Option(help="The folder to write the record into: JSON, HTML, PDF and their hashes.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Measure both bundles on these labelled images now. Repeat for several.", show_default=False),
    ] = None,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="A report about the new bundle (JSON), of bench regress or bench accuracy. Repeat for several. Those "
            "that are attached to it are taken as well.",
            show_default=False,
        ),
    ] = None,
    private_key: Annotated[Path | None, typer.Option(help="Sign the record with this key (PEM, Ed25519).")] = None,
    password_file: common.PasswordFile = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse blanks: intended use, limits, reason, impact, who signs, the key.")
    ] = False,
    pdf: Annotated[bool, typer.Option(help="Print the page as PDF. Needs an installed Chromium.")] = True,
    rounds: Annotated[int, typer.Option(min=5, help="Timed rounds of --data.")] = 30,
    resamples: common.Resamples = 1000,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    threads: common.TimedThreads = 1,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Write down what changed in a bundle, how it was tested, what came of it, and who answers for it.

    The record is written whatever came of it: the exit code is 1 where a figure is beyond its limit, and 4 where there
    is no verdict.

    Example: `medprompt release new.bundle --baseline old.bundle --limits limits.toml --data val.json --out record/
    --private-key release.pem --strict`
    """
    common.need("jinja2", "The change record", "bench")
    from medprompt.benchmarks.regression.regress import MeasurementOptions
    from medprompt.benchmarks.release.page import write_record
    from medprompt.benchmarks.release.plan import read_plan
    from medprompt.benchmarks.release.record import change_record, check_plan
    from medprompt.benchmarks.report.page import need_browser
    from medprompt.bundles.load import load_bundle
    from medprompt.bundles.records import sign_record
    from medprompt.core.outputs import folder_written_aside

    read = [bundle, baseline, limits, private_key, *(report or ()), *common.data_paths(*(data or ()))]
    with folder_written_aside(out, "a change record", inputs=read, force=force) as folder, Steps("release") as steps:
        if pdf:
            need_browser()
        password = common.password(password_file)
        plan, new, old = read_plan(limits), load_bundle(bundle), load_bundle(baseline)
        blanks = check_plan(plan, new, strict=strict, signed=private_key is not None)
        options = MeasurementOptions(device, threads, rounds, resamples=resamples, seed=seed)
        sets = common.labelled_sets(data or (), images, allow)
        record = change_record(new, old, plan, blanks, report or (), sets, options, steps)
        steps.step("write the record")
        write_record(record, folder, pdf=pdf)
        if private_key:
            sign_record(folder, private_key, password)
    if as_json:
        common.print_json(record.as_json())
    else:
        _print(record, out)
    _judge(record, out)


def _print(record: ChangeRecord, out: Path) -> None:
    print(f"{out}: {str(record.outcome).upper()}. {record.why}")
    if record.blanks:
        common.print_warnings([f"left blank: {'; '.join(record.blanks)}"])


def _judge(record: ChangeRecord, out: Path) -> None:
    from medprompt.benchmarks.regression.verdict import Outcome

    if record.outcome is Outcome.failed:
        fix = f"open {out / 'record.html'}; the record stays as evidence"
        raise MedpromptError("The bundle is beyond a limit of its plan.", where=str(out), got=record.why, fix=fix)
    if record.outcome is Outcome.unclear:
        raise NoVerdictError(
            "The record has no verdict.",
            where=str(out),
            got=record.why,
            fix="pass data= or report= with bench regress's JSON; or measure on more images",
        )
