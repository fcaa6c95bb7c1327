"""A change record as a folder: JSON for machines, one HTML page and its PDF for people, hashes to sign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medprompt.benchmarks.release.record import SAME, ChangeRecord
from medprompt.benchmarks.report.page import page_maker, write_pdf
from medprompt.bundles.records import RECORD_FILE, write_hashes
from medprompt.core.files import write_json, write_text
from medprompt.core.terminal import Table

TEMPLATE = Path(__file__).with_name("record.html.j2")
PAGE_FILE, PDF_FILE = "record.html", "record.pdf"


def write_record(record: ChangeRecord, folder: Path, *, pdf: bool) -> None:
    """Write a record's files into a folder.

    Raises:
        EngineError: jinja2 is not installed, or there is no Chromium for the PDF.
    """
    write_json(folder / RECORD_FILE, record.as_json())
    write_text(folder / PAGE_FILE, record_html(record))
    if pdf:
        write_pdf(folder / PAGE_FILE, folder / PDF_FILE)
    write_hashes(folder)


def record_html(record: ChangeRecord) -> str:
    """The page; it needs no network and no other file.

    Raises:
        EngineError: jinja2 is not installed.
    """
    return page_maker(TEMPLATE, "The change record")(
        record=record,
        plan=record.plan.plan,
        outcome=str(record.outcome).upper(),
        passed=record.outcome == "passed",
        changes=Table(
            "What changed", ("part", "what", "before", "after"), [tuple(vars(one).values()) for one in record.changes]
        ),
        limits=Table("Limits", ("figure", "at most", "decided"), list(_limit_rows(record))),
        anomalies=Table(
            "Known anomalies of the parts it builds on",
            ("anomaly", "what is done about it", "where"),
            [(one.what, one.handled, one.link) for one in record.anomalies],
        ),
        same=SAME,
    )


def _limit_rows(record: ChangeRecord) -> Iterator[tuple[str, str, str]]:
    for name, value in record.plan.limits.model_dump().items():
        yield name.replace("_", " "), f"{value:g}", "in the plan" if name in record.plan.stated else "NO: the default"
