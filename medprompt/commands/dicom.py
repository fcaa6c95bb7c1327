"""``medprompt dicom …``: a node in the hospital's network, and its tools by hand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medprompt.commands import common
from medprompt.commands.base import Command, Group
from medprompt.core.errors import InputError, need_module
from medprompt.core.memory import keep_freed_memory
from medprompt.core.terminal import print_table

if TYPE_CHECKING:
    from medprompt.runtime.dicom_node.config import Destination

dicom_app = typer.Typer(
    no_args_is_help=True, cls=Group, help="Receive, detect and report in the hospital's DICOM network."
)

To = Annotated[str, typer.Option("--to", help="The archive: AETITLE@host:port, or the URL of its DICOMweb service.")]
Calling = Annotated[str, typer.Option("--ae-title", help="The AE title to call with.")]


@dicom_app.command("listen", cls=Command)
def dicom_listen(
    bundle: common.BundlePath,
    config: Annotated[Path | None, typer.Option("--config", help="The node's configuration (TOML).")] = None,
    queue: Annotated[
        Path | None, typer.Option("--queue", help="Folder of all that is received and not yet delivered.")
    ] = None,
    calling: Annotated[
        list[str] | None, typer.Option("--calling", help="AE title that may send. Repeat it.", show_default=False)
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to", help="Where results go: AETITLE@host:port, or a DICOMweb URL. Repeat it.", show_default=False
        ),
    ] = None,
    ae_title: Annotated[str | None, typer.Option("--ae-title", help="The node's own AE title.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on. Default: 11112.")] = None,
    quiet: Annotated[
        float | None, typer.Option("--quiet", help="Seconds without a new object after which a study is analysed.")
    ] = None,
    prompts: common.Bank = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    key: common.PublicKey = None,
) -> None:
    """Receive studies, detect, and send reports and pictures back, until stopped.

    Everything else is set in the configuration file: TLS, limits, retries, retention, storage commitment.

    Example: `medprompt dicom listen polyp.bundle --queue queue --calling CT1 --to ARCHIVE@127.0.0.1:4242`
    """
    _need_network()
    from medprompt.runtime.dicom_node.config import node_config
    from medprompt.runtime.dicom_node.listen import listen
    from medprompt.runtime.serving.token import is_loopback

    archives = [_destination(text).model_dump(exclude_none=True) for text in to or []]
    given = {
        "queue": queue,
        "calling": calling or None,
        "destination": archives or None,
        "ae_title": ae_title,
        "host": host,
        "port": port,
        "quiet_s": quiet,
    }
    node = node_config(config, given)
    if node.tls is None and not is_loopback(node.host):
        print(f"warning: {node.host} is reached from other machines, and without TLS", file=sys.stderr)

    def ready(listens: int) -> None:
        print(f"{node.ae_title} listens on {node.host}:{listens}", file=sys.stderr, flush=True)

    keep_freed_memory()
    listen(bundle, node, ready=ready, key=key, prompts=prompts, device=device, threads=threads)


@dicom_app.command("send", cls=Command)
def dicom_send(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", show_default=False)],
    to: To,
    ae_title: Calling = "MEDPROMPT",
) -> None:
    """Send DICOM files to an archive or a node, as a test by hand.

    Example: `medprompt dicom send study/ --to MEDPROMPT@127.0.0.1:11112`
    """
    _need_network()
    from medprompt.images.sources import find_images
    from medprompt.runtime.dicom_node.deliver import send_objects

    paths = find_images(files)
    send_objects(_destination(to), ae_title, paths)
    print(f"{len(paths)} objects were taken", file=sys.stderr)


@dicom_app.command("query", cls=Command)
def dicom_query(
    to: To,
    study: Annotated[str, typer.Option("--study", help="List the series of this study (its UID).")] = "",
    echo: Annotated[bool, typer.Option("--echo", help="Only ask whether it answers (C-ECHO).")] = False,
    ae_title: Calling = "MEDPROMPT",
    as_json: common.AsJson = False,
) -> None:
    """Ask an archive what it has: studies, or a study's series; no patient is asked for or shown.

    Example: `medprompt dicom query --to ARCHIVE@127.0.0.1:4242 --echo`
    """
    _need_network()
    from medprompt.runtime.dicom_node.deliver import echo as ask
    from medprompt.runtime.dicom_node.deliver import find_series

    archive = _destination(to)
    if echo:
        if archive.url:
            raise InputError("C-ECHO is for an AE title.", where="--to", expected="AETITLE@host:port", got=to)
        ask(archive, ae_title)
        print("it answers", file=sys.stderr)
        return
    rows = find_series(archive, ae_title, study)
    if as_json:
        common.print_json(rows)
    else:
        print_table("Series" if study else "Studies", list(rows[0]) if rows else ["none"], map(_values, rows))


@dicom_app.command("queue", cls=Command)
def dicom_queue(
    folder: Annotated[Path, typer.Argument(help="The queue of a node that is stopped.", show_default=False)],
    retry: Annotated[bool, typer.Option("--retry", help="Take up the dead letters again.")] = False,
    as_json: common.AsJson = False,
) -> None:
    """Count what a stopped node's queue holds, and take up its dead letters.

    Example: `medprompt dicom queue queue --retry`
    """
    _need_network()
    import time

    from medprompt.runtime.dicom_node.queue import Queue

    if not (folder / "queue.sqlite3").is_file():
        raise InputError("This is no queue of a node.", where=str(folder), expected="a folder with queue.sqlite3")
    with Queue(folder) as queue:
        if retry:
            print(f"{queue.revive(time.time())} dead letters are taken up again", file=sys.stderr)
        counts = queue.counts()
    if as_json:
        common.print_json(counts)
    else:
        print_table("Queue", ["state", "number"], [(name, str(number)) for name, number in counts.items()])


def _values(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, row.values()))


def _need_network() -> None:
    for module, package in (
        ("pynetdicom", "pynetdicom"),
        ("highdicom", "highdicom"),
        ("dicomweb_client", "dicomweb-client"),
    ):
        need_module(module, "the DICOM node", package, "dicom-node")


def _destination(text: str) -> Destination:
    from medprompt.core.models import validate
    from medprompt.runtime.dicom_node.config import Destination

    name = re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:64]
    raw: dict[str, Any] = {"name": name, "url": text}
    if not text.startswith(("http://", "https://")):
        title, _, address = text.partition("@")
        host, _, port = address.rpartition(":")
        raw = {"name": name, "ae_title": title, "host": host, "port": port}
    failure = InputError(
        "The archive's address cannot be used.", where="--to", expected="AETITLE@host:port, or a DICOMweb URL"
    )
    return validate(Destination, raw, failure)
