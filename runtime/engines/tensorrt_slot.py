"""One request's way through a TensorRT engine: its buffers, and a plan for each set of shapes that is fed.

Uploads have a stream of their own, so that those of one slot pass while another slot computes. An array that cannot
change is sent once. What follows on the device (a step before the engine, the engine, the outputs' way back) may be
captured as a CUDA graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.cuda_buffers import SETTING_UP, Memory, TensorMemory
from medprompt.runtime.engines.cuda_lane import Lane
from medprompt.runtime.engines.device_step import StepAddresses
from medprompt.runtime.engines.feeds import Feed, Shapes, cannot_change, fill, shapes_of
from medprompt.runtime.engines.loaded_engine import LoadedEngine
from medprompt.runtime.engines.tensorrt_plan import Context, Plan, bytes_of, context_for

MAX_PLANS = 8
"""Sets of shapes that a slot keeps ready; the one not used for longest goes."""

WARM_UPS = 1
"""Runs before a capture: the first run with new shapes does work that must not be captured."""


class Slot:
    """See the module. Not to be shared by threads at one time.

    Raises:
        EngineError: CUDA gives no event.
    """

    def __init__(self, loaded: LoadedEngine, lane: Lane) -> None:
        self._loaded = loaded
        self._lane = lane
        self._cuda = lane.cuda
        self._fed = loaded.fed
        self._tensors: dict[str, TensorMemory] = {}
        self._made: dict[str, Memory] = {}
        self._held: dict[str, Any] = {}
        self._plans: OrderedDict[Shapes, Plan] = OrderedDict()
        self._contexts: dict[Shapes, Context] = {}
        self._computing: Plan | None = None
        self._events: list[Any] = []
        self._uploaded, self._done = self._event(), self._event()

    @property
    def busy(self) -> bool:
        """Whether a request was begun that has not ended."""
        return self._computing is not None

    def begin(self, feeds: Mapping[str, Feed]) -> None:
        """Queue a request; the feeds may be changed once it returns.

        Raises:
            OutOfMemoryError: Of the GPU or of pinned memory. A smaller request may follow.
            EngineError: Shapes out of the profile, or an error of CUDA or TensorRT.
        """
        shapes = shapes_of(feeds, self._fed)
        with self._cleared(), nullcontext() if self._is_settled(shapes) else SETTING_UP:
            plan = self._prepared(shapes)
            self._send(plan, feeds)
            self._launch(plan)
            self._cuda("cudaEventRecord", self._done, self._lane.stream)
        self._computing = plan

    def end(self) -> dict[str, NDArray[Any]]:
        """Wait for the request that was begun; the arrays returned are copies.

        Raises:
            EngineError: The request failed on the device.
        """
        plan, self._computing = self._computing, None
        if plan is None:
            raise EngineError("There is no request to wait for.", fix="collect each request once")
        with self._cleared():
            self._cuda("cudaEventSynchronize", self._done)
        if plan.runs == 1 and not plan.context.lazy:
            self._loaded.kernels.keep()
        return {name: plan.pinned[name].copy() for name in self._loaded.outputs}

    def stages_ms(self, feeds: Mapping[str, Feed]) -> dict[str, float]:
        """Compute call by call in one stream with CUDA events between; the milliseconds from each to the next.

        Raises:
            EngineError: See ``begin``.
        """
        stream, event = self._lane.stream, ExitStack()
        with self._cleared(), SETTING_UP, event:
            plan = self._prepared(shapes_of(feeds, self._fed))
            self._held.clear()
            parts: dict[str, Callable[[], object]] = {
                "host to device": lambda: self._upload(plan, feeds, stream),
                "compute": lambda: self._compute(plan),
                "device to host": lambda: self._download(plan),
            }
            marks = [self._timer(event) for _ in range(len(parts) + 1)]
            self._cuda("cudaEventRecord", marks[0], stream)
            for part, mark in zip(parts.values(), marks[1:], strict=True):
                part()
                self._cuda("cudaEventRecord", mark, stream)
            self._cuda("cudaStreamSynchronize", stream)
            plan.runs += 1
            times = [self._cuda("cudaEventElapsedTime", begun, ended) for begun, ended in pairwise(marks)]
            return dict(zip(parts, map(float, times), strict=True))

    def close(self, last_first: ExitStack) -> None:
        """Leave what frees contexts, graphs, buffers and events, on a stack that goes on where one of them fails."""
        plans, self._plans, self._contexts = self._plans, OrderedDict(), {}
        events, self._events = self._events, []
        for event in events:
            last_first.callback(self._cuda, "cudaEventDestroy", event)
        memory: list[Memory | TensorMemory] = [*self._tensors.values(), *self._made.values()]
        for block in memory:
            last_first.callback(block.free)
        for plan in plans.values():
            last_first.callback(self._forget_graph, plan)

    def _event(self) -> Any:
        event = self._cuda("cudaEventCreateWithFlags", self._cuda.module.cudaEventDisableTiming)
        self._events.append(event)
        return event

    def _timer(self, freed: ExitStack) -> Any:
        event = self._cuda("cudaEventCreate")
        freed.callback(self._cuda, "cudaEventDestroy", event)
        return event

    @contextmanager
    def _cleared(self) -> Iterator[None]:
        """After a failure nothing that was queued may still read or write when the next request comes."""
        try:
            yield
        except BaseException:
            self._held.clear()
            self._lane.wait()
            raise

    def _is_settled(self, shapes: Shapes) -> bool:
        """Whether a request makes nothing new: no memory, no context, no kernels, no graph."""
        plan = self._plans.get(shapes)
        if plan is None or plan.generation != self._lane.generation or plan.context.lazy:
            return False
        return plan.graph is not None or plan.runs > WARM_UPS

    def _prepared(self, shapes: Shapes) -> Plan:
        """The plan for fed shapes, with all memory it needs."""
        if shapes not in self._plans:
            self._plans[shapes] = self._new_plan(shapes)
            if len(self._plans) > MAX_PLANS:
                self._forget_oldest()
        self._plans.move_to_end(shapes)
        plan = self._plans[shapes]
        self._make_room(plan, shapes)
        return plan

    def _new_plan(self, shapes: Shapes) -> Plan:
        step = self._loaded.step.plan(dict(shapes)) if self._loaded.step else None
        known = {**dict(shapes), **(step.made if step else {})}
        wanted = tuple((name, known[name]) for name in self._loaded.inputs)
        if wanted not in self._contexts:
            self._contexts[wanted] = context_for(self._loaded, wanted, int(self._lane.stream))
        return Plan(self._contexts[wanted], step)

    def _forget_oldest(self) -> None:
        self._forget_graph(self._plans.popitem(last=False)[1])
        used = {id(plan.context) for plan in self._plans.values()}
        self._contexts = {shapes: context for shapes, context in self._contexts.items() if id(context) in used}

    def _make_room(self, plan: Plan, shapes: Shapes) -> None:
        """Grow what is too small; then every plan must take the new addresses, and its graph is void."""
        if plan.generation == self._lane.generation:
            return
        context, tables = plan.context, plan.step.tables if plan.step else {}
        made = plan.step.made if plan.step else {}
        staged = {name: bytes_of(shape, self._fed[name]) for name, shape in shapes}
        staged |= {name: array.nbytes for name, array in tables.items()}
        staged |= {name: context.sizes[name] for name in self._loaded.outputs}
        for name, size in staged.items():
            self._lane.reserve(self._tensors.setdefault(name, TensorMemory(self._cuda)), size)
        for name in made:
            self._lane.reserve(self._made.setdefault(name, Memory(self._cuda, "device")), context.sizes[name])
        self._lane.reserve(self._lane.workspace, context.workspace, shared=True)
        self._lane.reserve(self._lane.scratch, plan.step.scratch if plan.step else 0, shared=True)
        self._forget_graph(plan)
        self._set_addresses(plan.context, made)
        plan.pinned = self._views(plan, shapes)
        plan.addresses = self._addresses(plan)
        plan.generation, plan.runs = self._lane.generation, 0

    def _set_addresses(self, context: Context, made: Iterable[str]) -> None:
        if context.generation == self._lane.generation:
            return
        for name in context.sizes:
            memory = self._made[name] if name in made else self._tensors[name].device
            if not context.handle.set_tensor_address(name, memory.address):
                raise self._loaded.refuse("the address of a tensor", name)
        if context.workspace:
            context.handle.set_device_memory(self._lane.workspace.address, self._lane.workspace.size)
        context.generation = self._lane.generation

    def _views(self, plan: Plan, shapes: Shapes) -> dict[str, NDArray[Any]]:
        tables = plan.step.tables if plan.step else {}
        wanted = {name: (shape, self._fed[name]) for name, shape in shapes}
        wanted |= {name: (array.shape, array.dtype) for name, array in tables.items()}
        wanted |= {name: (shape, self._loaded.outputs[name]) for name, shape in plan.context.outputs.items()}
        return {name: self._tensors[name].view(*kind) for name, kind in wanted.items()}

    def _addresses(self, plan: Plan) -> StepAddresses | None:
        if plan.step is None or self._loaded.step is None:
            return None
        at = {name: memory.device.address for name, memory in self._tensors.items()}
        return StepAddresses(
            fed={name: at[name] for name in self._loaded.step.fed},
            tables={name: at[name] for name in plan.step.tables},
            made={name: self._made[name].address for name in plan.step.made},
            scratch=self._lane.scratch.address if plan.step.scratch else 0,
        )

    def _send(self, plan: Plan, feeds: Mapping[str, Feed]) -> None:
        if self._upload(plan, feeds, self._lane.uploads):
            self._cuda("cudaEventRecord", self._uploaded, self._lane.uploads)
            self._cuda("cudaStreamWaitEvent", self._lane.stream, self._uploaded, 0)

    def _upload(self, plan: Plan, feeds: Mapping[str, Feed], stream: Any) -> bool:
        """Queue the copies of what is not on the device yet, and say whether there was any."""
        tables = plan.step.tables if plan.step else {}
        stale = {name: feed for name, feed in {**feeds, **tables}.items() if self._held.get(name) is not feed}
        for name, feed in stale.items():
            self._held.pop(name, None)
            fill(plan.pinned[name], feed)
            self._tensors[name].upload(plan.pinned[name].nbytes, stream)
            if name in tables or cannot_change(feed):
                self._held[name] = feed
        return bool(stale)

    def _launch(self, plan: Plan) -> None:
        if plan.graph is None and self._loaded.captures and plan.runs >= WARM_UPS and not plan.uncapturable:
            self._capture(plan)
        if plan.graph is not None:
            self._cuda("cudaGraphLaunch", plan.graph, self._lane.stream)
        else:
            self._enqueue(plan)
        plan.runs += 1

    def _enqueue(self, plan: Plan) -> None:
        self._compute(plan)
        self._download(plan)

    def _compute(self, plan: Plan) -> None:
        stream, handle = int(self._lane.stream), plan.context.handle
        if plan.step is not None and plan.addresses is not None:
            plan.step.launch(plan.addresses, stream)
        if not handle.execute_async_v3(stream):
            raise self._loaded.refuse("the execution failed")
        if plan.runs == 0 and not self._loaded.captures and not self._loaded.kernels.is_capturable(handle, stream):
            self._lane.note("TensorRT cannot make a CUDA graph of it, and starts each kernel by itself")

    def _download(self, plan: Plan) -> None:
        for name in self._loaded.outputs:
            self._tensors[name].download(plan.pinned[name].nbytes, self._lane.stream)

    def _capture(self, plan: Plan) -> None:
        """Record what follows the uploads as one graph; an engine that cannot be captured is run call by call."""
        plan.graph, plan.uncapturable = self._lane.captured(lambda: self._enqueue(plan))
        if plan.uncapturable:
            self._lane.note(f"no CUDA graph could be captured: {plan.uncapturable}")

    def _forget_graph(self, plan: Plan) -> None:
        graph, plan.graph = plan.graph, None
        if graph is not None:
            self._cuda("cudaGraphExecDestroy", graph)
