"""``medprompt bench regress``: is this bundle as good as the last release, by its limits?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError, MedpromptError, NoVerdictError
from medprompt.core.terminal import Steps, print_table

if TYPE_CHECKING:
    from medprompt.benchmarks.regression.regress import Comparison


def bench_regress(
    bundle: common.BundlePath,
    baseline: Annotated[Path, typer.Option(help="The baseline file (JSON) of this hardware and engine.")],
    data: common.Data,
    images: common.ImageFolder = None,
    allow: common.Allow = None,
    limits: Annotated[
        Path | None, typer.Option(help="Limits of the figures (TOML). Built-in limits by default.")
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Measure and write the baseline instead. Needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why the baseline changes. Later reports show it.")] = "",
    against: Annotated[
        Path | None,
        typer.Option(help="The old bundle. It is timed in turn with the new one, which gives the surest comparison."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The bundle's checkpoint. Times are then compared as multiples of PyTorch's times."),
    ] = None,
    prompts: common.Bank = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request here (Markdown).")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a report for a CI server here (JUnit XML).")] = None,
    rounds: Annotated[
        int, typer.Option(min=5, help="Timed rounds. Each round times the bundle and what it is compared with once.")
    ] = 30,
    resamples: common.Resamples = 1000,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    threads: common.TimedThreads = 1,
    allow_mismatch: Annotated[
        bool,
        typer.Option("--allow-mismatch", help="Compare although the baseline is of other hardware or another engine."),
    ] = False,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Compare a bundle with the baseline of the last release.

    The exit code is 1 where a figure is beyond its limit, and 4 where the noise is too large for a verdict.

    Example: `medprompt bench regress new.bundle --baseline baseline.json --data val.json
    --against old.bundle`
    """
    from medprompt.benchmarks.regression.baseline import BASELINE, read_baseline, write_baseline
    from medprompt.benchmarks.regression.limits import read_limits
    from medprompt.benchmarks.regression.regress import MeasurementOptions, compare_with_baseline, measure_baseline
    from medprompt.benchmarks.regression.report import JUNIT, SUMMARY, write_junit, write_markdown
    from medprompt.bundles.load import load_bundle
    from medprompt.prompts.bank import load_bank

    _check_words(update_baseline, reason, against, reference)
    read, sets_read = [bundle, limits, against, reference, prompts], common.data_paths(*data)
    if update_baseline:  # which says that the old one goes
        common.reserve({"baseline": (baseline, BASELINE)}, read, sets_read, force=True)
    else:
        made = {"markdown": (markdown, SUMMARY), "junit": (junit, JUNIT)}
        common.reserve(made, [*read, baseline], sets_read, force=force)
    allowed = read_limits(limits)
    before = None if update_baseline else read_baseline(baseline)
    sets = common.labelled_sets(data, images, allow)
    bank = load_bank(prompts) if prompts else None
    options = MeasurementOptions(
        device, threads, rounds, bank=bank, checkpoint=reference, against=against, resamples=resamples, seed=seed
    )
    loaded = load_bundle(bundle)
    with Steps("regress") as steps:
        if before is None:
            write_baseline(measure_baseline(loaded, sets, reason.strip(), options, progress=steps), baseline)
            print(f"baseline written: {baseline}")
            return
        found = compare_with_baseline(loaded, before, sets, allowed, options, allow_mismatch, steps)
    if markdown:
        write_markdown(found, markdown)
    if junit:
        write_junit(found, junit)
    if as_json:
        common.print_json(found.as_json())
    else:
        _print(found)
    _judge(found, bundle)


def _check_words(update: bool, reason: str, against: Path | None, reference: Path | None) -> None:
    if update and not reason.strip():
        raise InputError(
            "A baseline is not changed without a reason.",
            where="reason",
            fix="pass reason='what changed, and who agreed'",
        )
    if reason and not update:
        raise InputError(
            "A reason is for a new baseline.", where="reason", fix="add update_baseline=True, or leave it out"
        )
    if against and (reference or update):
        raise InputError(
            "The old bundle can only be timed beside the new one.",
            where="against",
            fix="leave out --against, or both --reference and --update-baseline",
        )


def _print(found: Comparison) -> None:
    from medprompt.benchmarks.regression.report import COLUMNS, row

    common.print_warnings(found.notes)
    caption = f"baseline of {found.baseline.created}: {found.baseline.reason}; engine {found.environment.device}"
    print_table(f"Against the baseline: {found.outcome}", COLUMNS, [row(check) for check in found.checks], caption)


def _judge(found: Comparison, bundle: Path) -> None:
    from medprompt.benchmarks.regression.report import row
    from medprompt.benchmarks.regression.verdict import Outcome

    if failed := found.of(Outcome.failed):
        raise MedpromptError(
            "The bundle is worse than its baseline.",
            where=str(bundle),
            expected="; ".join(f"{check.name} at most {check.limit:g}" for check in failed),
            got="; ".join(f"{check.name} {row(check)[1]}" for check in failed),
            fix="repair it; or, where the change is wanted, pass --update-baseline --reason TEXT",
        )
    if unclear := found.of(Outcome.unclear):
        raise NoVerdictError(
            "The noise is too large for a verdict.",
            where=str(bundle),
            got="; ".join(f"{check.name} {row(check)[1]} against {check.limit:g}" for check in unclear),
            fix="; ".join(f"{check.name}: {check.advice}" for check in unclear),
        )
