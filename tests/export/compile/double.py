"""A recording double of ``tensorrt`` 10: the builder's side, as ``export/compile/builder.py`` calls it."""

from __future__ import annotations

import importlib.machinery
from types import ModuleType, SimpleNamespace
from typing import Any


class TensorRtDouble(ModuleType):
    """``calls`` holds what was asked, in order; ``refuses`` names a parser error; ``answers`` is the engine.

    ``null`` is a TensorRT that cannot start CUDA: its factories answer NULL.
    """

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.__version__ = "10.9.0"
        self.calls: list[tuple[Any, ...]] = []
        self.answers: bytes | None = b"engine of tensorrt"
        self.refuses: tuple[str, str, str] | None = None
        self.cache_fits = True
        self.null = False
        calls, double = self.calls, self

        class ILogger:
            Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, INFO=3)

        class IProgressMonitor:
            pass

        class IBuilderConfig:  # no set_compute_capability: this package builds for the GPU that is there
            progress_monitor: Any = None
            profiles = 0

            def set_flag(self, flag: str) -> None:
                calls.append(("set", flag))

            def clear_flag(self, flag: str) -> None:
                calls.append(("clear", flag))

            def set_preview_feature(self, feature: str, on: bool) -> None:
                calls.append(("preview", feature, on))

            def set_memory_pool_limit(self, pool: str, size: int) -> None:
                calls.append(("limit", pool, size))

            def create_timing_cache(self, content: bytes) -> Any:
                calls.append(("cache", content))
                return SimpleNamespace(serialize=lambda: b"kernels timed")

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                fits, double.cache_fits = double.cache_fits, True
                return fits

            def add_optimization_profile(self, profile: Any) -> int:
                self.profiles += 1
                return self.profiles - 1

        class Builder:
            def __init__(self, logger: Any) -> None:
                if double.null:
                    logger.log(1, "CUDA initialization failure with error: 35")
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                self.logger = logger

            def create_network(self, flags: int) -> str:
                calls.append(("network", flags))
                return "network"

            def create_builder_config(self) -> IBuilderConfig:
                return IBuilderConfig()

            def create_optimization_profile(self) -> Any:
                return SimpleNamespace(set_shape=lambda *shape: calls.append(("shape", *shape)))

            def build_serialized_network(self, network: str, config: IBuilderConfig) -> bytes | None:
                monitor = config.progress_monitor
                monitor.phase_start("Building engine", None, 1)
                monitor.phase_start("Timing kernels", "Building engine", 2)
                going = all(monitor.step_complete("Timing kernels", step) for step in range(2))
                monitor.phase_finish("Timing kernels")
                for profile in range(config.profiles):
                    self.logger.log(3, f"Total Activation Memory: {4096 << profile} bytes")
                if double.answers is None:
                    self.logger.log(1, "no kernel for that")
                return double.answers if going else None

        class OnnxParser:
            num_errors = 1

            def __init__(self, network: str, logger: Any) -> None:
                pass

            def parse_from_file(self, path: str) -> bool:
                calls.append(("parse", path))
                return double.refuses is None

            def get_error(self, index: int) -> Any:
                name, operator, why = double.refuses or ("", "", "")
                return SimpleNamespace(node_name=lambda: name, node_operator=lambda: operator, desc=lambda: why)

        self.ILogger, self.IProgressMonitor, self.IBuilderConfig = ILogger, IProgressMonitor, IBuilderConfig
        self.Builder, self.OnnxParser = Builder, OnnxParser
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = SimpleNamespace(TF32="tf32")
        self.PreviewFeature = SimpleNamespace()  # RUNTIME_ACTIVATION_RESIZE_10_10 is of 10.10
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
