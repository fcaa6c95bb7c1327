"""The run of label sets: it tells a fault from what is right, and runs commands as a shell does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medprompt.benchmarks.research.label_sets import TRACEBACK, Outcome, disagreements, ran

SAME = Outcome("a", "same", "bench accuracy", 0, ap=0.5, boxes=9, digest="x")
REFUSED = Outcome("a", "refused", "finetune", 2, said="error: …", mends=True, fatal=("no_box",))


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (SAME, ""),
        (replace(SAME, ap=0.4), "another figure"),
        (replace(SAME, code=TRACEBACK), "traceback"),
        (replace(SAME, code=2), "refused"),
        (replace(SAME, expected="warned"), "not warned of"),
        (replace(SAME, expected="warned", said="warning: …"), ""),
        (replace(SAME, expected="anything", ap=0.4), "another figure"),
        (replace(SAME, expected="anything", ap=0.4, said="warning: …"), ""),
        (REFUSED, ""),
        (replace(REFUSED, mends=False), "no way out"),
        (replace(REFUSED, code=0, fatal=()), "not refused"),
    ],
)
def test_what_is_a_fault(outcome: Outcome, fault: str) -> None:
    assert outcome.fault(0.5) == fault


def test_commands_that_read_other_boxes_disagree() -> None:
    checked = replace(SAME, command="data check", digest="")
    assert list(disagreements([SAME, checked, replace(SAME, command="finetune")])) == []
    told = dict(disagreements([SAME, checked, replace(SAME, command="finetune", digest="y")]))
    assert told == {"a": "content: ['x', 'y']"}
    assert [what.partition(":")[0] for _, what in disagreements([SAME, REFUSED])] == ["refused", "fatal"]


def test_a_command_runs_here_as_in_a_shell() -> None:
    code, out, err, found = ran(["data", "check", "nothing.json"])
    assert (code, out, found.boxes) == (2, "", -1)
    assert "do:" in err
