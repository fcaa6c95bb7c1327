"""Reports attached to a bundle that say what they are: a section of the page each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medprompt.bundles.attached import attached_reports
from medprompt.bundles.load import Bundle
from medprompt.core.terminal import Table


def attached_sections(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Kind, outcome, method, date, notes and tables of each attached report that has ``tables``.

    Raises:
        BundleError: An attached report has changed, or is about another bundle.
    """
    for name, entry, about in attached_reports(bundle):
        if isinstance(about.get("tables"), list):
            yield {
                "kind": entry.kind,
                "outcome": about.get("verdict", about.get("outcome", "")),
                "method": about.get("method", ""),
                "source": f"attached/{name}, {entry.date}",
                "notes": about.get("notes", []),
                "tables": [Table(one["title"], one["columns"], one["rows"]) for one in about["tables"]],
            }
