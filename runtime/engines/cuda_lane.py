"""The order in which one thread's requests use a GPU: a stream that uploads, one that computes, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.cuda_buffers import Cuda, Memory, TensorMemory


class Lane:
    """Streams of a worker, and the memory that one request at a time computes in.

    Attributes:
        uploads: The stream that brings inputs.
        stream: The stream that computes and brings outputs back.
        workspace, scratch: For execution contexts, and for the step before the engine.
        generation: Rises when any memory of the worker moves: addresses of an older one are void.
        notes: What its user should know.

    Raises:
        EngineError: CUDA gives no stream.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.stream: Any = None
        self.uploads: Any = None
        self.workspace, self.scratch = Memory(cuda, "device"), Memory(cuda, "device")
        self.generation = 0
        self.notes: tuple[str, ...] = ()
        # Non-blocking: they do not wait for the default stream, which other libraries of the process may use.
        kind = cuda.module.cudaStreamNonBlocking
        self.stream = cuda("cudaStreamCreateWithFlags", kind)
        try:
            self.uploads = cuda("cudaStreamCreateWithFlags", kind)
        except EngineError:
            cuda.attempt("cudaStreamDestroy", self.stream)
            raise

    def note(self, text: str) -> None:
        """Remember, once, what its user should know."""
        self.notes = tuple(dict.fromkeys((*self.notes, text)))

    def reserve(self, memory: Memory | TensorMemory, size: int, shared: bool = False) -> None:
        """Grow a block that is too small. One that is shared may be in use just now.

        Raises:
            OutOfMemoryError: There is no such block left, and none any more.
        """
        if memory.size >= size:
            return
        if shared:
            self.cuda("cudaStreamSynchronize", self.stream)
        self.generation += 1  # before the attempt: where it fails the old block is gone all the same
        memory.reserve(size)

    def captured(self, enqueue: Callable[[], None]) -> tuple[Any, str]:
        """A CUDA graph, ready to launch, of what is queued in the computing stream; or None and why there is none."""
        # Thread-local: calls of other threads that may not be captured are no error meanwhile.
        mode = self.cuda.module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.cuda("cudaStreamBeginCapture", self.stream, mode)
        refused = ""
        try:
            enqueue()
        except EngineError as error:
            refused = error.got or error.problem
        # Ended in any case: a stream that is left capturing takes no further work.
        failure, graph = self.cuda.attempt("cudaStreamEndCapture", self.stream)
        ready = None
        if not (refused or failure):
            failure, ready = self.cuda.attempt("cudaGraphInstantiate", graph, 0)
        if graph is not None:  # the instance does not need the graph that it was made from
            self.cuda.attempt("cudaGraphDestroy", graph)
        return (None if refused or failure else ready), refused or failure

    def wait(self) -> None:
        """Wait, whatever CUDA says, until nothing that was queued reads or writes any more."""
        for stream in (self.uploads, self.stream):
            if stream is not None:
                self.cuda.attempt("cudaStreamSynchronize", stream)

    def close(self, last_first: ExitStack) -> None:
        """Leave what frees all on a stack that goes on where one of them fails."""
        for stream in (self.stream, self.uploads):
            if stream is not None:
                last_first.callback(self.cuda, "cudaStreamDestroy", stream)
        self.uploads = self.stream = None
        for memory in (self.workspace, self.scratch):
            last_first.callback(memory.free)
