"""One thread's way through a TensorRT engine: a stream, its buffers, and a plan for each set of input shapes.

A plan has an execution context of its own, for a CUDA graph holds the state of the context that it was captured from:
a context that moves on to other shapes must not be replayed. The contexts of a worker share one workspace, which is as
large as the largest shapes so far need, not as the profile's upper end would; one stream runs them in turn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.cuda_buffers import Cuda, Memory, TensorMemory

MAX_PLANS = 8
"""Sets of shapes that are kept ready; the one not used for longest goes."""

WARM_UPS = 1
"""Runs before a capture: the first run with new shapes does work that must not be captured."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Block = Memory | TensorMemory


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialised engine, as its workers need it.

    Attributes:
        cuda: The CUDA runtime.
        inputs, outputs: numpy type of each tensor, by name.
        new_context: Makes an execution context whose workspace is given to it.
        captures: Whether CUDA graphs are captured here; TensorRT-RTX captures its own.
        check: Refuses shapes that the engine was not compiled for.
        messages: Takes what the library logged as errors since the last call.
    """

    cuda: Cuda
    inputs: Mapping[str, np.dtype[Any]]
    outputs: Mapping[str, np.dtype[Any]]
    new_context: Callable[[], Any]
    captures: bool
    check: Callable[[Shapes], None]
    messages: Callable[[], str]

    def refuse(self, problem: str, where: str = "") -> EngineError:
        """An error with what the library logged."""
        return EngineError(
            f"TensorRT refuses: {problem}.",
            where=where,
            got=self.messages(),
            fix="medprompt doctor BUNDLE says what does not fit; try another device",
        )


@dataclass
class Plan:
    """How one set of input shapes is computed.

    ``sizes`` (bytes) and ``outputs`` (shapes) are by tensor name.

    Attributes:
        workspace: Bytes that the context needs besides.
        generation: Of the worker's buffers, when addresses were last set; graphs hold addresses.
        runs: Since then.
        uncapturable: Why no graph is captured; empty where one can be.
    """

    context: Any
    sizes: Mapping[str, int]
    outputs: Mapping[str, tuple[int, ...]]
    workspace: int
    generation: int = -1
    runs: int = 0
    graph: Any = None
    uncapturable: str = ""


class Worker:
    """See the module. Not to be shared by threads at one time.

    Raises:
        EngineError: CUDA gives no stream.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._cuda = loaded.cuda
        # Non-blocking: it does not wait for the default stream, which other libraries of the process may use.
        self._stream = self._cuda("cudaStreamCreateWithFlags", self._cuda.module.cudaStreamNonBlocking)
        self._workspace = Memory(self._cuda, "device")
        self._tensors = {name: TensorMemory(self._cuda) for name in (*loaded.inputs, *loaded.outputs)}
        self._plans: OrderedDict[Shapes, Plan] = OrderedDict()
        self._generation = 0
        self.notes: tuple[str, ...] = ()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute; the arrays returned are copies.

        Raises:
            EngineError: Shapes out of the profile, or an error of CUDA or TensorRT.
        """
        plan = self._prepared(feeds)
        self._launch(plan)
        self._cuda("cudaStreamSynchronize", self._stream)
        kinds = self._loaded.outputs
        return {name: self._tensors[name].view(shape, kinds[name]).copy() for name, shape in plan.outputs.items()}

    def stages_ms(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Compute call by call with CUDA events between, and return the milliseconds from each to the next.

        Raises:
            EngineError: See ``run``.
        """
        plan = self._prepared(feeds)
        parts = {"host to device": self._upload, "compute": self._execute, "device to host": self._download}
        with ExitStack() as freed:
            marks = [self._event(freed) for _ in range(len(parts) + 1)]
            self._cuda("cudaEventRecord", marks[0], self._stream)
            for part, mark in zip(parts.values(), marks[1:], strict=True):
                part(plan)
                self._cuda("cudaEventRecord", mark, self._stream)
            self._cuda("cudaStreamSynchronize", self._stream)
            plan.runs += 1
            return {
                name: float(self._cuda("cudaEventElapsedTime", begun, ended))
                for name, (begun, ended) in zip(parts, pairwise(marks), strict=True)
            }

    def _event(self, freed: ExitStack) -> Any:
        event = self._cuda("cudaEventCreate")
        freed.callback(self._cuda, "cudaEventDestroy", event)
        return event

    def close(self) -> None:
        """Free graphs, contexts, buffers and stream; closing twice is allowed.

        Raises:
            EngineError: CUDA refused one of them; the others are freed all the same.
        """
        plans, self._plans = self._plans, OrderedDict()
        stream, self._stream = self._stream, None
        with ExitStack() as last_first:
            if stream is not None:
                last_first.callback(self._cuda, "cudaStreamDestroy", stream)
            blocks: list[Block] = [*self._tensors.values(), self._workspace]
            for memory in blocks:
                last_first.callback(memory.free)
            for plan in plans.values():
                last_first.callback(self._forget_graph, plan)

    def _prepared(self, feeds: Mapping[str, NDArray[Any]]) -> Plan:
        """The plan for the feeds' shapes; the feeds lie in pinned memory."""
        plan = self._plan(tuple((name, tuple(feeds[name].shape)) for name in self._loaded.inputs))
        self._make_room(plan)
        for name, array in feeds.items():
            np.copyto(self._tensors[name].view(array.shape, array.dtype), array)
        return plan

    def _plan(self, shapes: Shapes) -> Plan:
        if shapes not in self._plans:
            self._plans[shapes] = self._new_plan(shapes)
            if len(self._plans) > MAX_PLANS:
                self._forget_graph(self._plans.popitem(last=False)[1])
        self._plans.move_to_end(shapes)
        return self._plans[shapes]

    def _new_plan(self, shapes: Shapes) -> Plan:
        self._loaded.check(shapes)
        # A context for each set of shapes: a graph replays the context that it was captured from.
        context = self._loaded.new_context()
        for name, shape in shapes:
            if not context.set_input_shape(name, shape):
                raise self._loaded.refuse(f"the shape {list(shape)} of its input", name)
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._loaded.outputs}
        open_ended = [name for name, shape in outputs.items() if min(shape, default=0) < 0]
        if open_ended:
            raise self._loaded.refuse("the shapes of its outputs stay open", ", ".join(open_ended))
        kinds = {**self._loaded.inputs, **self._loaded.outputs}
        everything = {**dict(shapes), **outputs}
        sizes = {name: int(np.prod(shape)) * kinds[name].itemsize for name, shape in everything.items()}
        return Plan(context, sizes, outputs, int(context.update_device_memory_size_for_shapes()))

    def _make_room(self, plan: Plan) -> None:
        """Grow what is too small; then every plan must take the new addresses, and its graph is void."""
        wanted: list[tuple[Block, int]] = [(self._tensors[name], size) for name, size in plan.sizes.items()]
        for memory, size in [*wanted, (self._workspace, plan.workspace)]:
            if memory.size < size:
                self._generation += 1  # before the attempt: where it fails the old block is gone all the same
                memory.reserve(size)
        if plan.generation != self._generation:
            self._set_addresses(plan)

    def _set_addresses(self, plan: Plan) -> None:
        self._forget_graph(plan)
        for name in plan.sizes:
            if not plan.context.set_tensor_address(name, self._tensors[name].device.address):
                raise self._loaded.refuse("the address of a tensor", name)
        if plan.workspace:
            plan.context.set_device_memory(self._workspace.address, self._workspace.size)
        plan.generation, plan.runs = self._generation, 0

    def _launch(self, plan: Plan) -> None:
        if plan.graph is None and self._loaded.captures and plan.runs >= WARM_UPS and not plan.uncapturable:
            self._capture(plan)
        if plan.graph is not None:
            self._cuda("cudaGraphLaunch", plan.graph, self._stream)
        else:
            self._enqueue(plan)
        plan.runs += 1

    def _enqueue(self, plan: Plan) -> None:
        self._upload(plan)
        self._execute(plan)
        self._download(plan)

    def _upload(self, plan: Plan) -> None:
        for name in self._loaded.inputs:
            self._tensors[name].upload(plan.sizes[name], self._stream)

    def _execute(self, plan: Plan) -> None:
        if not plan.context.execute_async_v3(int(self._stream)):
            raise self._loaded.refuse("the execution failed")

    def _download(self, plan: Plan) -> None:
        for name in self._loaded.outputs:
            self._tensors[name].download(plan.sizes[name], self._stream)

    def _capture(self, plan: Plan) -> None:
        """Record copies and execution as one graph; an engine that cannot be captured is run call by call."""
        # Thread-local: calls of other threads that may not be captured are no error meanwhile.
        mode = self._cuda.module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self._stream, mode)
        try:
            self._enqueue(plan)
        except EngineError as error:
            plan.uncapturable = error.got or error.problem
        # Ended in any case: a stream that is left capturing takes no further work.
        failure, graph = self._cuda.attempt("cudaStreamEndCapture", self._stream)
        plan.uncapturable = plan.uncapturable or failure
        if not plan.uncapturable:
            plan.graph = self._cuda("cudaGraphInstantiate", graph, 0)
        else:
            self.notes = (f"no CUDA graph could be captured: {plan.uncapturable}",)
        # The instance does not need the graph that it was made from.
        if graph is not None and not failure:
            self._cuda("cudaGraphDestroy", graph)

    def _forget_graph(self, plan: Plan) -> None:
        graph, plan.graph = plan.graph, None
        if graph is not None:
            self._cuda("cudaGraphExecDestroy", graph)


class Workers:
    """A worker for each thread that computes at the same time; idle ones are taken again, the latest first."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``Worker.run``."""
        with self._one() as worker:
            return worker.run(feeds)

    def stages_ms(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """See ``Worker.stages_ms``."""
        with self._one() as worker:
            return worker.stages_ms(feeds)

    @contextmanager
    def _one(self) -> Iterator[Worker]:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or Worker(self._loaded)
        try:
            yield worker
        finally:
            self._put_back(worker)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the workers want to be known."""
        with self._lock:
            return tuple(dict.fromkeys(note for worker in self._idle for note in worker.notes))

    def close(self) -> None:
        """Close the idle workers; one that computes is closed when it is done."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for worker in idle:
            worker.close()

    def _put_back(self, worker: Worker) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        worker.close()
