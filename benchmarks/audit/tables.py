"""An audit for people: verdicts, what changed, and what was not asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medprompt.benchmarks.audit.verdict import ClassVerdict, Reading
from medprompt.core.terminal import Table
from medprompt.metrics.bootstrap import Estimate
from medprompt.prompts.wording import KINDS, Question, Unasked


def tables(
    name: str, verdicts: Sequence[ClassVerdict], unasked: Sequence[tuple[str, Unasked]], reading: Reading, drawn: str
) -> Iterator[Table]:
    """The tables of one set; ``drawn`` says what its intervals come from."""
    yield _verdict_table(name, verdicts, reading, drawn)
    yield _left_table(name, verdicts)
    yield _change_table(name, verdicts)
    if unasked:
        yield _unasked_table(name, unasked)


def _verdict_table(name: str, verdicts: Sequence[ClassVerdict], reading: Reading, drawn: str) -> Table:
    columns = ("class", "verdict", "images", "boxes", "AP50")
    rows = [(one.label, str(one.reading), str(one.images), str(one.boxes), str(one.own["ap50"])) for one in verdicts]
    caption = "; ".join(f"{one.label}: {one.why}" for one in verdicts)
    title = f"{name}: does it read its prompts? {reading}"
    return Table(title, columns, rows, f"{caption}. 95 % intervals over {drawn}")


def _left_table(name: str, verdicts: Sequence[ClassVerdict]) -> Table:
    rows = [
        (one.label, kind, meaning, _share(one.left[kind]))
        for one in verdicts
        for kind, meaning in KINDS.items()
        if kind in one.left
    ]
    return Table(f"{name}: what is left of the answers", ("class", "asked", "that is", "left (95 %)"), rows)


def _change_table(name: str, verdicts: Sequence[ClassVerdict]) -> Table:
    columns = ("class", "asked", "phrases", "Δ AP50", "Δ score", "false reports an image without it")
    rows = [
        (
            *(one.label, _asked(question), ", ".join(question.texts) or "(none)"),
            *(_signed(figures["ap50"]), _signed(figures["score"])),
            f"{_number(one.own['false_reports'].value)}, {_signed(figures['false_reports'])}",
        )
        for one in verdicts
        for question, figures in one.changes.items()
    ]
    return Table(f"{name}: less what its own phrases give", columns, rows)


def _asked(question: Question) -> str:
    """Company does not show in the phrases: they are the class's own."""
    return f"{question.kind}: {question.name}" if question.kind == "beside" else question.kind


def _unasked_table(name: str, unasked: Sequence[tuple[str, Unasked]]) -> Table:
    rows = [(label, one.kind, KINDS[one.kind], one.why) for label, one in unasked]
    return Table(f"{name}: not asked", ("class", "kind", "what that is", "why"), rows)


def _share(left: Estimate) -> str:
    return f"{left.value:.0%} ({left.low:.0%} … {left.high:.0%})" if left.value == left.value else "-"


def _signed(change: Estimate) -> str:
    return f"{change.value:+.3f} ({change.low:+.3f} … {change.high:+.3f})" if change.value == change.value else "-"


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"
