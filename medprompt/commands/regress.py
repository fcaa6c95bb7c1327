"""``medprompt bench regress``: is this bundle as good as the last release, by its limits?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import (
    AsJson,
    BundlePath,
    Data,
    Device,
    Resamples,
    Seed,
    TimedThreads,
    print_json,
    print_warnings,
)
from medprompt.core.errors import InputError, MedpromptError, NoVerdictError

if TYPE_CHECKING:
    from medprompt.benchmarks.regression.regress import Comparison


def bench_regress(
    bundle: BundlePath,
    baseline: Annotated[Path, typer.Option(help="Baseline file (JSON) of this hardware and engine.")],
    data: Data,
    limits: Annotated[Path | None, typer.Option(help="Limits (TOML); defaults where left out.")] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Measure and write the baseline instead; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why the baseline changes; later reports show it.")] = "",
    against: Annotated[
        Path | None, typer.Option(help="The old bundle: times are then taken in turn with it, the surest way.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="The bundle's checkpoint: times are then over PyTorch's, then and now.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompt bank to ask instead of the bundle's own.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request here.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML for a CI server here.")] = None,
    rounds: Annotated[int, typer.Option(min=5, help="Timed rounds.")] = 30,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    threads: TimedThreads = 1,
    force: Annotated[bool, typer.Option("--force", help="Look even where the baseline is of other hardware.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a bundle with a baseline: exit 1 where a figure passes its limit, 4 where the noise is too large to tell.

    Example: `medprompt bench regress new.bundle --baseline baseline.json --data val.json --against old.bundle`
    """
    from medprompt.benchmarks.regression.baseline import read_baseline, write_baseline
    from medprompt.benchmarks.regression.limits import read_limits
    from medprompt.benchmarks.regression.regress import MeasurementOptions, compare_with_baseline, measure_baseline
    from medprompt.benchmarks.regression.report import write_junit, write_markdown
    from medprompt.bundles.load import load_bundle
    from medprompt.core.terminal import Steps
    from medprompt.data import read_detection_set
    from medprompt.prompts.bank import load_bank

    _check_words(update_baseline, reason, against, reference)
    allowed = read_limits(limits)
    before = None if update_baseline else read_baseline(baseline)
    sets = [read_detection_set(source) for source in data]
    bank = load_bank(prompts) if prompts else None
    asked = MeasurementOptions(
        device, threads, rounds, bank=bank, checkpoint=reference, against=against, resamples=resamples, seed=seed
    )
    loaded = load_bundle(bundle)
    with Steps("regress") as steps:
        if before is None:
            write_baseline(measure_baseline(loaded, sets, reason.strip(), asked, progress=steps), baseline)
            print(f"baseline written: {baseline}")
            return
        found = compare_with_baseline(loaded, before, sets, allowed, asked, force, steps)
    if markdown:
        write_markdown(found, markdown)
    if junit:
        write_junit(found, junit)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    _judge(found, bundle)


def _check_words(update: bool, reason: str, against: Path | None, reference: Path | None) -> None:
    if update and not reason.strip():
        raise InputError(
            "A baseline is not changed without a reason.",
            where="--reason",
            fix="--reason 'what changed, and who agreed'",
        )
    if reason and not update:
        raise InputError(
            "A reason is for a new baseline.", where="--reason", fix="add --update-baseline, or leave it out"
        )
    if against and (reference or update):
        raise InputError(
            "The old bundle is timed beside the new one alone, and not for a baseline.",
            where="--against",
            fix="leave out --against, or --reference and --update-baseline",
        )


def _print(found: Comparison) -> None:
    from medprompt.benchmarks.regression.report import COLUMNS, row
    from medprompt.core.terminal import print_table

    print_warnings(found.notes)
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
            fix="mend it; or, where the change is wanted, --update-baseline --reason TEXT",
        )
    if unclear := found.of(Outcome.unclear):
        raise NoVerdictError(
            "The noise is too large for a verdict.",
            where=str(bundle),
            got="; ".join(f"{check.name} {row(check)[1]} against {check.limit:g}" for check in unclear),
            fix="; ".join(f"{check.name}: {check.advice}" for check in unclear),
        )
