"""``medprompt data …``: check labelled images, and prepare known medical data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.commands.base import Command, Group
from medprompt.core.errors import MedpromptError
from medprompt.core.terminal import Steps, print_table

if TYPE_CHECKING:
    from medprompt.data.native.prepare import Prepared
    from medprompt.data.registry import KnownSet

data_app = typer.Typer(
    no_args_is_help=True, cls=Group, help="Check labelled images, and prepare known medical data sets."
)

Source = Annotated[str, typer.Argument(help=f"The labelled images: {common.DATA_FORMS}.", show_default=False)]


@data_app.command("check", cls=Command)
def data_check(
    data: Source,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="Other labelled images, which may share no image with DATA. Repeat for several sets.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="A prompts file or bank. Report the classes of DATA that no phrase covers."),
    ] = None,
    images: common.ImageFolder = None,
    strict: common.Strict = False,
    as_json: common.AsJson = False,
) -> None:
    """Check every image and box of labelled data.

    The check finds images that are missing, damaged, duplicated or of another size; boxes that are empty, duplicated,
    outside their image or of no class; and classes that no phrase covers. The exit code is 1 where it finds something.

    Example: `medprompt data check train.json --against test.json --prompts P.yaml`
    """
    from medprompt.data.check import check_data
    from medprompt.prompts.diff import prompts_from_either

    covering = prompts_from_either(prompts) if prompts else None
    with Steps("check") as steps:
        found = check_data(data, against or [], covering, images=images, strict=strict, progress=steps)
    if as_json:
        common.print_json(found.as_json())
    else:
        print_table("Sets", ["set", "images", "without boxes", "boxes", "ignored"], found.set_rows())
        if found.findings:
            print_table("Found", ["what", "where", "detail"], found.finding_rows(), align="left")
    if not found.passed:
        counts = ", ".join(f"{kind} {count}" for kind, count in found.counts().items())
        raise MedpromptError("The data has faults.", where=data, got=counts, fix="see `medprompt docs datasets`")


@data_app.command("list", cls=Command)
def data_list(
    name: Annotated[str | None, typer.Argument(help="A data set, to show everything that is known about it.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """List the data sets that `medprompt data prepare` knows: terms of use, counts, where to get them.

    Example: `medprompt data list isic2016`
    """
    from medprompt.data.registry import known_set, known_sets

    chosen = [known_set(name)] if name else list(known_sets())
    if as_json:
        common.print_json([known.model_dump(mode="json", exclude_none=True) for known in chosen])
    elif name:
        print_table(chosen[0].title, ["field", "value"], _fields(chosen[0]), align="left")
    else:
        rows = [(known.name, known.modality, known.counts, known.terms) for known in chosen]
        print_table("Data sets", ["name", "images of", "published", "terms"], rows, align="left")


def _fields(known: KnownSet) -> list[tuple[str, str]]:
    """All that the registry says of a data set; of its layout the folders and files."""
    plain = ("modality", "terms", "home", "obtain", "split", "counts", "source", "native")
    rows = [(field, str(getattr(known, field))) for field in plain]
    for layout in known.layouts:
        for split, part in layout.items():
            files = [*part.folders, part.labels, *([part.names] if part.names else [])]
            rows.append((f"layout, {split}", ", ".join(files)))
    return [("labels", ", ".join(known.labels)), *rows]


@data_app.command("prepare", cls=Command)
def data_prepare(
    name: Annotated[
        str, typer.Argument(help="The name of a data set, from `medprompt data list`.", show_default=False)
    ],
    source: Annotated[Path, typer.Option("--from", help="The folder with its unpacked files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to make, with train.json and images/.", show_default=False)],
    copy: Annotated[
        bool, typer.Option("--copy/--no-copy", help="Copy the images, or refer to them where they are.")
    ] = True,
    keep_categories: Annotated[
        bool, typer.Option("--keep-categories", help="Keep classes apart that are merged by default (TBX11K).")
    ] = False,
    strict: common.Strict = False,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Turn a known data set into COCO files. Masks and volumes become boxes.

    An image that cannot be read is left out and listed, and the exit code is 1.

    Example: `medprompt data prepare isic2016 --from downloads/isic --out isic`
    """
    from medprompt.data.native.prepare import prepare_set
    from medprompt.data.registry import known_set

    known = known_set(name)
    if keep_categories:
        known = known.with_own_categories()
    with Steps("prepare") as steps:
        made = prepare_set(known, source, out, copy=copy, strict=strict, force=force, progress=steps)
    common.print_warnings(made.notes)
    if as_json:
        common.print_json(
            {"images": made.images, "boxes": made.boxes, "left_out": list(made.left_out), "notes": list(made.notes)}
        )
    else:
        _print_prepared(made)
    if made.left_out:
        raise MedpromptError(
            "Images or volumes could not be read, and were left out.",
            where=str(out),
            got=f"{len(made.left_out)}, such as {made.left_out[0]}",
            fix="about.json lists them; pass strict=True to stop at the first",
        )


def _print_prepared(made: Prepared) -> None:
    rows = [(f"{made.folder}/{split}.json", count, made.boxes[split]) for split, count in made.images.items()]
    print_table("Prepared", ["file", "images", "boxes"], rows, "look at it: medprompt data check FILE")
