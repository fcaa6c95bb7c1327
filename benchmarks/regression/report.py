"""A comparison for a pull request (Markdown) and for a CI server (JUnit XML)."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from medprompt.benchmarks.regression.regress import Comparison
from medprompt.benchmarks.regression.verdict import Check, Outcome
from medprompt.core.files import atomic_write, write_text
from medprompt.core.markdown import markdown_cell, markdown_table
from medprompt.core.output_kinds import file_kind

COLUMNS = ("check", "change for the worse (95 %)", "limit", "measured on", "verdict")
MARKS = {Outcome.passed: "✅", Outcome.failed: "❌", Outcome.unclear: "❔"}


def row(check: Check) -> tuple[str, ...]:
    """For tables, see ``COLUMNS``."""
    verdict = f"{check.outcome}; {check.advice}" if check.advice else str(check.outcome)
    return (check.name, _change(check), f"{check.limit:g}", f"{check.count} {check.unit}", verdict)


def _change(check: Check) -> str:
    if not math.isfinite(check.change):
        return "-"
    if check.low == check.high == check.change:
        return f"{check.change:.4f}"
    return f"{check.change:.4f} ({check.low:.4f} … {check.high:.4f})"


SUMMARY = file_kind("a summary", r"## [^\n]* Bundle against baseline: ")
JUNIT = file_kind("a report", r'<\?xml[^>]*>\s*<testsuites [^>]*>\s*<testsuite name="medprompt bench regress"')


def markdown(found: Comparison) -> str:
    """A short summary: verdict, table, notes."""
    before = found.baseline
    lines = [
        f"## {MARKS[found.outcome]} Bundle against baseline: {found.outcome}",
        "",
        f"Bundle `{found.bundle_sha256[:16]}` on {found.environment.device}, baseline `{before.bundle_sha256[:16]}` of "
        f"{before.created} ({markdown_cell(before.reason)}).",
        "",
        *markdown_table(COLUMNS, map(_marked_row, found.checks)),
    ]
    lines += ["", *(f"- {markdown_cell(note)}" for note in found.notes)] if found.notes else []
    return "\n".join(lines) + "\n"


def _marked_row(check: Check) -> tuple[str, ...]:
    *cells, verdict = row(check)
    return (*cells, f"{MARKS[check.outcome]} {verdict}")


def junit(found: Comparison) -> ElementTree.Element:
    """One test case a check: failed ones have a ``failure``, those without a verdict an ``error``."""
    failed, unclear = found.of(Outcome.failed), found.of(Outcome.unclear)
    counts = {"tests": str(len(found.checks)), "failures": str(len(failed)), "errors": str(len(unclear))}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "medprompt bench regress", **counts})
    for check in found.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "medprompt.regress", "name": check.name})
        tag = {Outcome.failed: "failure", Outcome.unclear: "error"}.get(check.outcome)
        if tag:
            message = f"{_change(check)} against a limit of {check.limit:g}"
            ElementTree.SubElement(case, tag, {"message": message, "type": str(check.outcome)}).text = check.advice
    return suites


def write_markdown(found: Comparison, path: Path) -> None:
    """Write the summary, whole or not at all; an ``InputError`` where the path cannot be written to."""
    write_text(path, markdown(found))


def write_junit(found: Comparison, path: Path) -> None:
    """Write the XML, likewise."""
    with atomic_write(path) as aside:
        tree = ElementTree.ElementTree(junit(found))
        ElementTree.indent(tree)
        tree.write(aside, encoding="utf-8", xml_declaration=True)
