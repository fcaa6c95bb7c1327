"""Results of a release's tests, each read from a report about the new bundle: a section of the change record.

A reader for each kind of ``medprompt.bundles.attached.REPORT_KINDS``. A report of another kind is shown by what it says
of itself: ``kind``, ``outcome`` (``passed``, ``failed``, ``no verdict`` or ``measured``) and ``tables`` (``title``,
``columns``, ``rows``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.regression.limits import Limits
from medprompt.benchmarks.regression.report import COLUMNS, row
from medprompt.benchmarks.regression.verdict import Check, Outcome
from medprompt.bundles.attached import attached_reports, check_about, read_report
from medprompt.bundles.load import Bundle
from medprompt.core.errors import InputError
from medprompt.core.files import sha256_of_file
from medprompt.core.terminal import Table
from medprompt.site.record import KIND as SITE_RECORD_KIND
from medprompt.site.record import SiteRecord

MEASURED = "measured"
"""The outcome of what has no limit."""

LIMIT_OF = {
    "AP50 loss": "ap50_drop",
    "FROC loss": "sensitivity_drop",
    "decisions lost": "decisions_lost",
    "latency": "latency_ratio",
    "memory": "memory_ratio",
    "bundle size": "bundle_size_ratio",
}
"""How a check's name begins: the limit that it is held against."""


@dataclass(frozen=True)
class Result:
    """A section of the record.

    Attributes:
        source: The report's file and hash; empty where it was measured for this record.
        method: How it was measured.
        about: The report itself.
    """

    kind: str
    outcome: str
    method: str
    tables: tuple[Table, ...]
    about: Mapping[str, Any]
    source: str = ""

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        keys = ("kind", "outcome", "method", "source")
        return {**{key: getattr(self, key) for key in keys}, "report": dict(self.about)}


def results_of(new: Bundle, old: Bundle, limits: Limits, files: Iterable[Path]) -> tuple[Result, ...]:
    """The reports that are given, and those that are attached to the new bundle, each once.

    Raises:
        InputError: A report about another bundle, against another baseline, or held against other limits.
        BundleError: An attached report has changed.
    """
    found: dict[str, Result] = {}
    for path in files:
        kind, about = read_report(path)
        check_about(new.sha256, about, path)
        digest = sha256_of_file(path)
        found[digest] = result_of(kind, about, old, limits, f"{path.name}, sha256 {digest}")
    for name, entry, about in attached_reports(new):
        if entry.sha256 not in found:
            source = f"attached/{name}, sha256 {entry.sha256}"
            found[entry.sha256] = result_of(entry.kind, about, old, limits, source)
    return tuple(found.values())


def result_of(kind: str, about: Mapping[str, Any], old: Bundle, limits: Limits, source: str = "") -> Result:
    """Read one report.

    Raises:
        InputError: It lacks what its kind has; or see ``results_of``.
    """
    try:
        return READERS.get(kind, _own_words)(kind, about, old, limits, source)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "The report lacks what its kind has.",
            where=source,
            expected=f"a whole report of kind {kind}",
            got=f"{type(error).__name__}: {error}",
            fix="measure again",
        ) from error


def _regression(kind: str, about: Mapping[str, Any], old: Bundle, limits: Limits, source: str) -> Result:
    if about["baseline"]["bundle_sha256"] != old.sha256:
        raise InputError(
            "The regression was measured against another bundle.",
            where=source,
            expected=f"baseline {old.sha256[:16]}",
            got=f"baseline {str(about['baseline']['bundle_sha256'])[:16]}",
            fix="medprompt bench regress with a baseline of this old bundle; or pass data=",
        )
    checks = [_check(entry) for entry in about["checks"]]
    for check in checks:
        decided = getattr(limits, LIMIT_OF[check.name.partition(",")[0]])
        if check.limit != decided:
            raise InputError(
                "The regression was held against another limit than the plan's.",
                where=f"{source}: {check.name}",
                expected=f"{decided:g}",
                got=f"{check.limit:g}",
                fix="medprompt bench regress with this limits file",
            )
    outcomes = {check.outcome for check in checks} or {Outcome.unclear}
    outcome = next(one for one in (Outcome.failed, Outcome.unclear, Outcome.passed) if one in outcomes)
    table = Table("Against the baseline", COLUMNS, [row(check) for check in checks])
    before = about["baseline"]
    method = (
        f"Both bundles on the same labelled images, engine {about['place']['device']}, {about['place']['threads']} "
        f"threads; 95 % intervals. The baseline was measured on {before['created']}: {before['reason']}."
    )
    notes = tuple(about.get("notes", ()))
    tables = (table, Table("Notes", ("note",), [(note,) for note in notes])) if notes else (table,)
    return Result(kind, str(outcome), method, tables, about, source)


def _check(entry: Mapping[str, Any]) -> Check:
    """A check as it was measured; its outcome is judged anew, not believed."""
    unit = next((name for name in ("images", "rounds", "decisions", "runs", "bundles") if name in entry), "count")
    change, low, high = (
        float("nan") if entry[name] is None else float(entry[name]) for name in ("change", "low", "high")
    )
    return Check(str(entry["name"]), change, low, high, float(entry["limit"]), int(entry[unit]), unit)


def _accuracy(kind: str, about: Mapping[str, Any], old: Bundle, limits: Limits, source: str) -> Result:
    rows, unread = [], []
    for entry in about["sets"]:
        figures = entry["bundle"]["estimates"]
        counts = f"{entry['images']} images, {entry['boxes']} boxes"
        rows += [(entry["name"], name, _estimate(value), counts) for name, value in figures.items()]
        unread += [(entry["name"], name) for name in entry["unread"]]
    failed = [entry["name"] for entry in about["sets"] if entry["parity"] and not entry["parity"]["passed"]]
    tables = [Table("Accuracy", ("set", "figure", "value (95 %)", "measured on"), rows)]
    if unread:
        tables.append(Table("Images that were not read: nothing is known about them", ("set", "image"), unread))
    method = f"Labelled images, engine {about['device']}; {about['intervals']['method']}."
    outcome = str(Outcome.failed) if failed else str(Outcome.unclear) if unread else MEASURED
    return Result(kind, outcome, method, tuple(tables), about, source)


def _estimate(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "-"
    ends = " … ".join("-" if value[name] is None else f"{value[name]:.3f}" for name in ("low", "high"))
    return f"{value['value']:.3f} ({ends})"


def _own_words(kind: str, about: Mapping[str, Any], old: Bundle, limits: Limits, source: str) -> Result:
    outcomes = (*map(str, Outcome), MEASURED)
    if about["outcome"] not in outcomes:
        raise ValueError(f"outcome {about['outcome']!r}, expected one of {', '.join(outcomes)}")
    tables = [
        Table(one["title"], tuple(one["columns"]), [tuple(map(str, cells)) for cells in one["rows"]])
        for one in about["tables"]
    ]
    return Result(kind, about["outcome"], str(about.get("method", "")), tuple(tables), about, source)


def _site_record(kind: str, about: Mapping[str, Any], old: Bundle, limits: Limits, source: str) -> Result:
    """What the images looked like that the bundle was proven on, for bundles whose export did not record it."""
    record = SiteRecord.model_validate(about)
    cuts = np.percentile(record.matrix, [2.5, 50, 97.5], axis=0).T
    rows = [
        (name, unit, f"{middle:.4g}", f"{low:.4g} … {high:.4g}")
        for (name, unit), (low, middle, high) in zip(record.columns.items(), cuts, strict=True)
    ]
    table = Table(f"Figures of {record.source}", ("figure", "unit", "median", "95 % of images"), rows)
    return Result(
        kind, MEASURED, "Figures of each image and of the detector's answer about it.", (table,), about, source
    )


Reader = Callable[[str, Mapping[str, Any], Bundle, Limits, str], Result]
READERS: dict[str, Reader] = {"accuracy": _accuracy, "regression": _regression, SITE_RECORD_KIND: _site_record}
