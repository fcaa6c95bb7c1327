"""``medprompt data …``: check labelled images, and prepare known medical data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import DATA_FORMS, AsJson, Force, print_json, print_warnings, refuse_existing
from medprompt.core.errors import MedpromptError

if TYPE_CHECKING:
    from medprompt.data.findings import DataCheck
    from medprompt.data.native.prepare import Prepared
    from medprompt.data.registry import KnownSet

data_app = typer.Typer(no_args_is_help=True, help="Check labelled images, and prepare known medical data sets.")

Source = Annotated[str, typer.Argument(help=f"{DATA_FORMS}.", show_default=False)]


@data_app.command("check")
def data_check(
    data: Source,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="Another set that may share no image with DATA; repeats.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Prompts file (YAML) that shall cover the classes of DATA.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an image that is missing or cannot be read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every image and box of labelled data: exit 1 where something is wrong.

    Images that are missing, damaged, of another size, twice in the set or in another set too; boxes without area,
    outside their image, twice, or of no class; classes that no phrase covers.

    Example: `medprompt data check polyps/train.json --against polyps/test.json --prompts P.yaml`
    """
    from medprompt.core.terminal import Steps
    from medprompt.data.check import check_data
    from medprompt.prompts.file import prompts_from_yaml

    covering = prompts_from_yaml(prompts) if prompts else None
    with Steps("check") as steps:
        found = check_data(data, against or [], covering, strict=strict, progress=steps)
    if as_json:
        print_json(found.as_json())
    else:
        _print_check(found)
    if not found.passed:
        counts = ", ".join(f"{kind} {count}" for kind, count in found.counts().items())
        raise MedpromptError("The data has faults.", where=data, got=counts, fix="docs/data.md says what each means")


def _print_check(found: DataCheck) -> None:
    from medprompt.core.terminal import print_table

    print_table("Sets", ["set", "images", "without boxes", "boxes"], found.set_rows())
    if found.findings:
        print_table("Found", ["what", "where", "detail"], found.finding_rows(), align="left")


@data_app.command("list")
def data_list(
    name: Annotated[str | None, typer.Argument(help="Show all that is known of one data set.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the data sets that `medprompt data prepare` knows: terms, counts, where to ask for them.

    Example: `medprompt data list isic2016`
    """
    from medprompt.core.terminal import print_table
    from medprompt.data.registry import known_set, known_sets

    chosen = [known_set(name)] if name else list(known_sets())
    if as_json:
        print_json([known.model_dump(mode="json", exclude_none=True) for known in chosen])
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


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="A data set of `medprompt data list`.", show_default=False)],
    source: Annotated[Path, typer.Option("--from", help="Folder with its files, unpacked.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to make: train.json …, images/.", show_default=False)],
    copy: Annotated[
        bool, typer.Option("--copy/--no-copy", help="Copy the images, or name them where they are.")
    ] = True,
    keep_categories: Annotated[
        bool, typer.Option("--keep-categories", help="Keep the published classes that are merged otherwise (TBX11K).")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an image or volume that cannot be read, instead of listing it.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn a known data set into COCO files; masks and volumes become boxes. Needs `medprompt[data]` for those.

    An image that cannot be read is left out and listed (exit 1).

    Example: `medprompt data prepare isic2016 --from downloads/isic --out isic`
    """
    from medprompt.core.terminal import Steps
    from medprompt.data.native.prepare import prepare_set
    from medprompt.data.registry import known_set

    refuse_existing(force, out)
    known = known_set(name)
    if keep_categories:
        known = known.with_own_categories()
    with Steps("prepare") as steps:
        made = prepare_set(known, source, out, copy=copy, strict=strict, force=force, progress=steps)
    print_warnings(made.notes)
    if as_json:
        print_json(
            {"images": made.images, "boxes": made.boxes, "left_out": list(made.left_out), "notes": list(made.notes)}
        )
    else:
        _print_prepared(made)
    if made.left_out:
        raise MedpromptError(
            "Images or volumes could not be read, and were left out.",
            where=str(out),
            got=f"{len(made.left_out)}, such as {made.left_out[0]}",
            fix="about.json lists them; --strict stops at the first",
        )


def _print_prepared(made: Prepared) -> None:
    from medprompt.core.terminal import print_table

    rows = [(f"{made.folder}/{split}.json", count, made.boxes[split]) for split, count in made.images.items()]
    print_table("Prepared", ["file", "images", "boxes"], rows, "look at it: medprompt data check FILE")
