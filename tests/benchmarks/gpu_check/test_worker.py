"""The worker's section on doubles: all is well with the worker as it is, and mistakes planted in it are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medprompt.benchmarks.gpu_check import worker
from medprompt.benchmarks.gpu_check.notes import Notes
from medprompt.runtime.engines import cuda_buffers, tensorrt_slot
from medprompt.runtime.engines.cuda_buffers import Memory
from medprompt.runtime.engines.tensorrt_slot import Slot
from tests.benchmarks.gpu_check.rig import gpu

Plant = Callable[[pytest.MonkeyPatch], None]


def checked() -> Notes:
    notes = Notes()
    worker.check_stand_in(gpu(), notes)
    return notes


def test_the_worker_passes() -> None:
    notes = checked()
    assert notes.failures == []
    assert set(notes.facts) == {*worker.CHECKS, "resize step in the graph", "leaks"}
    assert {fact["status"] for fact in notes.facts.values()} == {"ok"}
    assert notes.facts["capture and replay"]["replays"] == 5


def _keep_graphs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slot, "_forget_graph", lambda *_: None)


def _send_without_waiting(patch: pytest.MonkeyPatch) -> None:
    def send(self: Slot, plan: Any, feeds: Any) -> None:
        self._upload(plan, feeds, self._lane.uploads)

    patch.setattr(Slot, "_send", send)


def _return_views(patch: pytest.MonkeyPatch) -> None:
    def end(self: Slot) -> Any:
        plan, self._computing = self._computing, None
        assert plan is not None
        self._cuda("cudaEventSynchronize", self._done)
        return {name: plan.pinned[name] for name in self._loaded.outputs}

    patch.setattr(Slot, "end", end)


FAULTS: dict[str, tuple[str, Plant]] = {
    "graphs outlive the memory they point to": ("growth", _keep_graphs),
    "compute begins before the upload ends": ("capture and replay", _send_without_waiting),
    "answers are views of the next one's memory": ("capture and replay", _return_views),
    "graphs are not freed": ("eviction", _keep_graphs),
    "memory is not freed": ("leaks", lambda patch: patch.setattr(Memory, "free", lambda _: None)),
    "a changed array is not sent again": (
        "an array changed in place",
        lambda patch: patch.setattr(tensorrt_slot, "cannot_change", lambda _: True),
    ),
    "every shape is kept": ("eviction", lambda patch: patch.setattr(tensorrt_slot, "MAX_PLANS", 100)),
    "out of memory is any error": ("out of memory", lambda patch: patch.setattr(cuda_buffers, "OUT_OF_MEMORY", "")),
    "nothing is captured": ("capture and replay", lambda patch: patch.setattr(tensorrt_slot, "WARM_UPS", 100)),
}
"""What is planted, and the check that has to find it."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, plant = FAULTS[fault]
    plant(monkeypatch)
    notes = Notes()
    bindings = gpu()
    if check == "leaks":
        notes.check(check, lambda: worker._leaks(bindings))
    else:
        notes.check(check, lambda: worker._checked(worker.Bench(bindings), worker.CHECKS[check]))
    assert notes.facts[check]["status"].startswith("failed: ")
