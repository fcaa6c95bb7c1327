"""What this machine has, and which engines of a bundle would run on it. Looks and never raises; imports no torch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from medprompt.bundles.anomalies import known_anomalies
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import MedpromptError
from medprompt.core.manifest import EngineRecord
from medprompt.core.packages import install_command, package_version, package_versions
from medprompt.runtime.engines import ENGINES, engine_class
from medprompt.runtime.engines.kernel_cache import describe_cache
from medprompt.runtime.engines.machine import NO_DRIVER, Machine, cuda_python_problem, read_machine, system_name
from medprompt.runtime.engines.openvino import shared_core
from medprompt.runtime.engines.ort_gpu import PLUGIN_PACKAGE, OrtCuda, cuda_provider_problem
from medprompt.runtime.selection.order import choose_engine
from medprompt.runtime.selection.records import is_proven, unavailable_reason, unverified_reason
from medprompt.runtime.selection.selftest import has_golden

Status = Literal["ok", "absent", "problem"]
Runs = Literal["yes", "after a self-test", "no"]

NOT_INSTALLED = " is not installed"

DRIVER_OF_CUDA_13 = 580
"""The first driver for CUDA 13, by NVIDIA's release notes."""

PLUGIN = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
"""The distribution of ``PLUGIN_PACKAGE``."""


@dataclass(frozen=True)
class Finding:
    """One line about the machine.

    Attributes:
        status: ``absent`` is a fact, ``problem`` needs mending.
    """

    name: str
    found: str
    status: Status = "ok"
    fix: str = ""


@dataclass(frozen=True)
class EngineVerdict:
    """Whether one engine would run here.

    Attributes:
        precision: Its arithmetic; empty where no bundle was given.
        gpus: Compute capabilities that its file was compiled for; empty where it needs no such file.
        runs: Whether, or on which condition.
        why: Why not, or what the manifest knows of it.
    """

    device: str
    precision: str
    runs: Runs
    why: str = ""
    fix: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnomalyHere:
    """A known anomaly of a part that is installed here, see ``medprompt.bundles.anomalies``."""

    parts: str
    what: str
    handled: str
    link: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes:
        findings: The machine.
        engines: Each engine of the bundle, or each device where no bundle was given.
        bundle: Its folder; empty where none was given.
        serves: The device that ``device="auto"`` tries first; empty where there is none.
        reason: Why that one, or why none.
        anomalies: Known ones of what is installed.
    """

    findings: tuple[Finding, ...]
    engines: tuple[EngineVerdict, ...]
    bundle: str = ""
    serves: str = ""
    reason: str = ""
    anomalies: tuple[AnomalyHere, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return asdict(self)


def diagnose(path: Path | str | None = None) -> Diagnosis:
    """Look at this machine, and at a bundle with it.

    Raises:
        BundleError: Not a bundle, or a changed one.
    """
    bundle = None if path is None else load_bundle(path)
    machine = read_machine()
    findings = tuple(_findings(machine))
    if bundle is None:
        verdicts_of_devices = tuple(map(_device_verdict, (name for name in ENGINES if name != "fake")))
        return Diagnosis(findings, verdicts_of_devices, anomalies=tuple(_anomalies()))
    verdicts = [(_engine_verdict(record, bundle), record.compiled) for record in bundle.manifest.engines]
    engines = tuple(replace(verdict, gpus=file.gpus if file else ()) for verdict, file in verdicts)
    serves, reason = _first_choice(bundle)
    return Diagnosis(findings, engines, str(bundle.path), serves, reason, tuple(_anomalies()))


def _anomalies() -> Iterator[AnomalyHere]:
    for one in known_anomalies():
        found = one.affected(package_versions(one.parts))
        if found:
            parts = ", ".join(f"{name} {version}" for name, version in found.items())
            yield AnomalyHere(parts, one.what, one.handled, one.link)


def _findings(machine: Machine) -> list[Finding]:
    checks: Mapping[str, Callable[[], Finding]] = {
        "System": _system,
        "GPU": lambda: _gpu(machine),
        "NVIDIA driver": lambda: _driver(machine),
        "CUDA": _cuda,
        "TensorRT": lambda: _tensorrt("TensorRT", "tensorrt", _trt_extra(machine), machine),
        "TensorRT-RTX": lambda: _tensorrt("TensorRT-RTX", "tensorrt_rtx", "trt-rtx", machine),
        "Compiled kernels": lambda: _kernels(machine),
        "ONNX Runtime": _onnxruntime,
        "ONNX Runtime plug-in": lambda: _plugin(machine),
        "OpenVINO": _openvino,
    }
    return [_looked(name, look) for name, look in checks.items()]


def _looked(name: str, look: Callable[[], Finding]) -> Finding:
    """A look that fails is a finding too: a broken library may raise anything."""
    try:
        return look()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Finding(name, f"cannot be read: {type(error).__name__}: {first}", "problem", "reinstall it")


def _system() -> Finding:
    parts = [f"{system_name()}, Python {platform.python_version()}", f"medprompt {package_version('medprompt')}"]
    return Finding("System", ", ".join([*parts, f"numpy {package_version('numpy')}"]))


def _gpu(machine: Machine) -> Finding:
    if machine.gpus:
        return Finding("GPU", "; ".join(map(str, machine.gpus)))
    fix = "" if NO_DRIVER in machine.no_gpu else "medprompt runs on the CPU meanwhile"
    return Finding("GPU", f"none: {machine.no_gpu}", "absent", fix)


def _driver(machine: Machine) -> Finding:
    if machine.driver:
        return Finding("NVIDIA driver", machine.driver)
    if machine.gpus:
        return Finding("NVIDIA driver", "version unknown", "absent", "pip install nvidia-ml-py reads it")
    return Finding("NVIDIA driver", "none", "absent", "for a GPU: the driver from NVIDIA or the distribution")


def _cuda() -> Finding:
    problem = cuda_python_problem()
    if problem.endswith(NOT_INSTALLED):
        return Finding("CUDA", problem, "absent", "for a GPU: pip install cuda-python")
    if problem:
        return Finding("CUDA", problem, "problem", "pip install --force-reinstall cuda-python")
    runtime = import_module("cuda.bindings.runtime")
    (_, driver), (_, library) = runtime.cudaDriverGetVersion(), runtime.cudaRuntimeGetVersion()
    known = f"driver {_cuda_version(driver)}" if driver else "no driver"
    found = f"cuda-python {package_version('cuda-python')}, runtime {_cuda_version(library)}, {known}"
    if driver and driver // 1000 < library // 1000:
        fix = f"install a newer NVIDIA driver, or packages for the one that is here: {install_command('trt-cu12')}"
        return Finding("CUDA", f"{found}, which is too old for the runtime", "problem", fix)
    return Finding("CUDA", found)


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _trt_extra(machine: Machine) -> str:
    """The extra whose packages the driver can serve."""
    major = machine.driver.partition(".")[0]
    return "trt-cu12" if major.isdecimal() and int(major) < DRIVER_OF_CUDA_13 else "trt-cu13"


def _tensorrt(name: str, package: str, extra: str, machine: Machine) -> Finding:
    problem, version = machine.problems.get(package, ""), machine.packages.get(package, "")
    if problem:
        return Finding(name, problem, "problem", install_command(extra, "--force-reinstall"))
    if version:
        return Finding(name, version)
    fix = install_command(extra) if machine.gpus else ""
    return Finding(name, f"{package}{NOT_INSTALLED}", "absent", fix)


def _kernels(machine: Machine) -> Finding:
    used = "tensorrt_rtx" in machine.packages
    return Finding("Compiled kernels", describe_cache(), "ok" if used else "absent")


def _onnxruntime() -> Finding:
    if find_spec("onnxruntime") is None:
        fix = f"{install_command('cpu')}, or onnxruntime-gpu on a machine with a GPU"
        return Finding("ONNX Runtime", f"onnxruntime{NOT_INSTALLED}", "absent", fix)
    library = import_module("onnxruntime")
    found = f"{library.__version__}: {', '.join(library.get_available_providers())}"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if package_version(name)]
    if len(both) == 2:
        return Finding("ONNX Runtime", found, "problem", "onnxruntime and onnxruntime-gpu exclude each other: keep one")
    unloadable = cuda_provider_problem() if OrtCuda.provider in library.get_available_providers() else ""
    if unloadable:
        return Finding("ONNX Runtime", f"{found}; {unloadable}", "problem", install_command("cuda"))
    return Finding("ONNX Runtime", found)


def _plugin(machine: Machine) -> Finding:
    name = "ONNX Runtime plug-in"
    if find_spec(PLUGIN_PACKAGE) is not None:
        return Finding(name, f"{PLUGIN_PACKAGE} {package_version(PLUGIN) or 'unknown version'}")
    fix = f"pip install {PLUGIN}" if machine.gpus else ""
    return Finding(name, f"{PLUGIN_PACKAGE}{NOT_INSTALLED}", "absent", fix)


def _openvino() -> Finding:
    if find_spec("openvino") is None:
        return Finding("OpenVINO", f"openvino{NOT_INSTALLED}", "absent", install_command("cpu"))
    core = shared_core()
    devices = [f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME')})" for device in core.available_devices]
    bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    arithmetic = "computes bfloat16" if bf16 else "no bfloat16"
    return Finding("OpenVINO", f"{package_version('openvino')}: {'; '.join(devices)}; the CPU: {arithmetic}")


def _device_verdict(device: str) -> EngineVerdict:
    obstacle = _asked(engine_class(device).available)
    if obstacle:
        return EngineVerdict(device, "", "no", obstacle, _fix(device, obstacle))
    needs = "with an engine file that was compiled for this GPU" if engine_class(device).needs_compiled else ""
    return EngineVerdict(device, "", "yes", needs)


def _engine_verdict(record: EngineRecord, bundle: Bundle) -> EngineVerdict:
    verdict = partial(EngineVerdict, record.device, record.precision)
    if record.parity and not record.parity.passed:
        return verdict("no", unverified_reason(record), "export again, or with another precision")
    obstacle = _asked(lambda: unavailable_reason(record, bundle.path))
    if obstacle:
        return verdict("no", obstacle, _fix(record.device, obstacle))
    if is_proven(record):
        return verdict("yes", f"parity proven at export{_measured(record)}")
    if has_golden(bundle.manifest):
        return verdict("after a self-test", unverified_reason(record))
    why = f"{unverified_reason(record)}; the bundle has no golden images to test it on"
    return verdict("no", why, "export the bundle again")


def _measured(record: EngineRecord) -> str:
    return "" if record.latency_ms is None else f", {record.latency_ms:.1f} ms an image there"


def _asked(question: Callable[[], str]) -> str:
    """The obstacle; a library that raises when asked is one."""
    try:
        return question()
    except Exception as error:
        return f"it cannot be asked: {type(error).__name__}: {error}"


def _fix(device: str, obstacle: str) -> str:
    """The fix of an obstacle that does not name one itself."""
    if obstacle.endswith(NOT_INSTALLED):
        return install_command(engine_class(device).extra)
    return "a machine with an NVIDIA GPU and its driver" if obstacle.startswith("no GPU") else ""


def _first_choice(bundle: Bundle) -> tuple[str, str]:
    """What ``device="auto"`` tries first for a detector that stays loaded; its self-test is not run here."""
    try:
        choice = choose_engine(bundle.manifest, bundle=bundle.path)
    except MedpromptError as error:
        return "", ": ".join(filter(None, [error.problem.rstrip("."), error.got]))
    return choice.device, choice.reason
