"""``medprompt bench site``: does a bundle fit the images of a site, and what does it find there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError, MedpromptError, NoVerdictError
from medprompt.core.terminal import Steps

if TYPE_CHECKING:
    from medprompt.benchmarks.site.check import SiteReport


def bench_site(
    bundle: common.BundlePath,
    images: Annotated[
        list[Path],
        typer.Option("--images", help="Images of the site, of many patients: a folder or files. Repeat for several."),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help=f"A few labelled images of the site: {common.DATA_FORMS}.", show_default=False),
    ] = None,
    within: Annotated[
        float, typer.Option(min=0.005, max=0.5, help="How exactly sensitivity should be known: ± so much.")
    ] = 0.05,
    thresholds: Annotated[
        Path | None, typer.Option(help="Write prompts with the thresholds that --data chose here (YAML).")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Compare nothing: write the images' figures here, as what the bundle was proven on (JSON)."),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with this record instead of the bundle's own.")] = None,
    allow: common.Allow = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the parts in which thresholds are judged.")] = 0,
    device: common.Device = "auto",
    threads: common.Threads = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Compare a site's images with those that a bundle was proven on. No labels are needed.

    It tells what differs, and how many labelled images would tell the sensitivity there. With `--data`, a few labelled
    images of the site, it estimates that, and chooses thresholds.

    The exit code is 1 where the images differ or some were not read, and 4 where there are too few to tell.

    Example: `medprompt bench site polyp.bundle --images site/`

    With a few labels: `medprompt bench site polyp.bundle --images site/ --data site.json --thresholds site.yaml`

    For a bundle without a record: `medprompt bench site polyp.bundle --images proven/ --record site.json`
    """
    from medprompt.benchmarks.site.check import check_bundle_at_site, site_prompts
    from medprompt.prompts.file import PROMPTS_FILE, save_prompts
    from medprompt.site.record import SITE_RECORD, read_record, write_record

    _check_options(record, against, thresholds, data)
    outputs = {"thresholds": (thresholds, PROMPTS_FILE), "record": (record, SITE_RECORD)}
    common.reserve(outputs, [bundle, against, *images], common.data_paths(data), force=force)
    labelled = common.labelled_sets([data] if data else [], None, allow)
    with Steps("site") as steps:
        report = check_bundle_at_site(
            bundle,
            images,
            against=read_record(against) if against else None,
            compare=record is None,
            labelled=labelled[0] if labelled else None,
            within=within,
            device=device,
            threads=threads,
            seed=seed,
            progress=steps,
        )
    if record:
        write_record(record, report.record(_source(report, images), report.bundle.manifest.default_threshold))
    if thresholds:
        save_prompts(site_prompts(report, common.today()), thresholds)
    common.print_measured(report, as_json)
    _judge(report, bundle)


def _check_options(record: Path | None, against: Path | None, thresholds: Path | None, data: str | None) -> None:
    if record and against:
        raise InputError("With record= nothing is compared.", where="record, against", fix="leave out one of them")
    if thresholds and not data:
        raise InputError("Thresholds are chosen on labels.", where="thresholds", fix="pass data= as well")


def _source(report: SiteReport, images: list[Path]) -> str:
    return f"{len(report.rows)} images of {', '.join(path.name or 'this folder' for path in images)}"


def _judge(report: SiteReport, bundle: Path) -> None:
    common.print_warnings(f"not read: {line}" for line in report.unread)
    check = report.check
    if check and check.left_out:
        common.print_warnings([f"the detector's own figures were not compared: {check.left_out}"])
    if check and check.outcome == "failed":
        raise MedpromptError(
            "The images are not like those that the bundle was proven on.",
            where=str(bundle),
            got=check.verdict,
            fix="measure on labelled images of the site: add data=; see `medprompt docs site`",
        )
    if check and check.outcome == "no verdict":
        raise NoVerdictError(
            "There are too few images to tell whether the bundle fits.",
            where=str(bundle),
            got=check.verdict,
            fix="pass more images, of more patients",
        )
    common.refuse_unread(report.unread, "figures", "folder")
