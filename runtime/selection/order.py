"""Which engine serves, and why. No silent fallback: every device passed over is named with its reason.

Engines whose parity was measured at export are ordered by what they took there. A build server has no GPU, so an engine
that needs one comes without a measurement: it is eligible, before those of the CPU, but only with a self-test here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medprompt.core.errors import EngineError, missing_extra
from medprompt.core.manifest import BundleManifest, EngineRecord, ParityRecord
from medprompt.core.packages import install_command
from medprompt.runtime.engines import engine_class
from medprompt.runtime.selection.records import display_name, is_proven, unavailable_reason, unverified_reason
from medprompt.runtime.selection.selftest import has_golden

GPU_ORDER = ("trt", "trt-rtx", "ort-cuda", "ort-nv-trt-rtx")
"""Devices that need a GPU, as they are tried where nothing was measured. ONNX Runtime's TensorRT-RTX plug-in compiles
for minutes when it loads, so the CUDA provider goes before it."""

PRECISION_ORDER = ("auto", "fp16", "auto-bf16", "bf16", "int8", "fp8", "fp32")
"""Engines of one device, likewise."""


@dataclass(frozen=True)
class EngineChoice:
    """The device that serves.

    Attributes:
        rejected: Devices passed over, each with its reason, the best first.
        record: What the manifest says about it; None where it does not.
        self_test: The golden images on it here, where they were run.
    """

    device: str
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()
    record: EngineRecord | None = None
    self_test: ParityRecord | None = None
    warnings: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether its parity passed at export."""
        return bool(self.record and is_proven(self.record))


def choose_engine(
    manifest: BundleManifest,
    device: str = "auto",
    strict: bool = False,
    images: int | None = None,
    bundle: Path | str = "BUNDLE",
) -> EngineChoice:
    """The first of ``engine_order``, which see."""
    return next(engine_order(manifest, device, strict, images, bundle))


def engine_order(
    manifest: BundleManifest,
    device: str = "auto",
    strict: bool = False,
    images: int | None = None,
    bundle: Path | str = "BUNDLE",
) -> Iterator[EngineChoice]:
    """The engines for a bundle on this machine, the best first; each is looked for only when it is asked for.

    Args:
        manifest: The bundle's manifest, with what each engine measured at export.
        device: A device's name, or ``auto`` for the fastest one whose parity passed at export, or that needs a GPU and
            was not measured there, and that can run here.
        strict: Refuse anything but the first, and a named device that neither was proven nor can be tested here.
        images: How many images there will be, where that is known: loading then counts too. For one image a library
            that loads quickly beats one that computes quickly.
        bundle: The bundle's folder, for the commands that errors offer.

    Raises:
        EngineError: No such device, not installed, its parity failed at export, none is left, or ``strict``
            forbids the step down.
    """
    if device == "auto":
        return _Auto(manifest, strict, images, bundle).choices()
    if engine_class(device).needs_compiled:
        return iter(_named_compiled(manifest, device, strict, bundle))
    return iter([_named(manifest, device, strict)])


def _named(manifest: BundleManifest, device: str, strict: bool) -> EngineChoice:
    engine = engine_class(device)
    record = next((entry for entry in manifest.engines if entry.device == device), None)
    if record and record.parity and not record.parity.passed:
        raise EngineError(
            f"The bundle must not run on {device}: its parity with PyTorch failed at export.",
            where="device",
            expected=_proven_names(manifest),
            got=f"{device}: {record.reason or unverified_reason(record)}",
            fix="pass device=auto, which chooses among the proven ones",
        )
    obstacle = engine.available()
    if obstacle.endswith("is not installed"):
        raise missing_extra(f"device={device}", obstacle.removesuffix(" is not installed"), engine.extra)
    if obstacle:
        raise _cannot_run(device, obstacle)
    return _asked_for(manifest, device, record, strict)


def _named_compiled(manifest: BundleManifest, device: str, strict: bool, bundle: Path | str) -> list[EngineChoice]:
    """All engine files of a device that may be loaded here."""
    records = [entry for entry in manifest.engines if entry.device == device and entry.compiled]
    if not records:
        raise EngineError(
            f"The bundle has no engine file for {device}.",
            where="device",
            expected=", ".join(dict.fromkeys(entry.device for entry in manifest.engines)) or "no engine",
            got=device,
            fix=f"medprompt compile {bundle} --engine {device}",
        )
    ordered = sorted(records, key=lambda record: _presumed(record))
    verdicts = [(record, _failed(record) or unavailable_reason(record, bundle)) for record in ordered]
    refused = tuple((display_name(record), why) for record, why in verdicts if why)
    choices = [_asked_for(manifest, device, record, strict, refused) for record, why in verdicts if not why]
    if not choices:
        raise _cannot_run(device, "; ".join(f"{name}: {why}" for name, why in refused))
    return choices


def _asked_for(
    manifest: BundleManifest,
    device: str,
    record: EngineRecord | None,
    strict: bool,
    rejected: tuple[tuple[str, str], ...] = (),
) -> EngineChoice:
    if record and record.parity:
        reason = f"asked for; parity with PyTorch passed at export{_latency(record)}"
        return EngineChoice(device, reason, rejected, record)
    if strict and not has_golden(manifest):
        raise EngineError(
            f"{device} was not proven at export, and strict=True is set.",
            where="device",
            expected=_proven_names(manifest),
            got=f"{device}: {unverified_reason(record)}",
            fix=f"export on a machine where {device} runs, or leave strict=True out",
        )
    return EngineChoice(device, f"asked for; {unverified_reason(record)}", rejected, record)


def _cannot_run(device: str, obstacle: str) -> EngineError:
    return EngineError(f"{device} cannot run here.", where="device", got=obstacle, fix="pass device=auto")


@dataclass
class _Auto:
    """The search for ``auto``."""

    manifest: BundleManifest
    strict: bool
    images: int | None
    bundle: Path | str
    obstacles: dict[int, str] = field(default_factory=dict)

    def choices(self) -> Iterator[EngineChoice]:
        proven = [record for record in self.manifest.engines if is_proven(record)]
        if any(record.load_ms is None for record in proven):
            self.images = None  # an older bundle: what loading takes is not known
        presumed = [record for record in self.manifest.engines if self._testable(record)]
        ineligible = [record for record in self.manifest.engines if record not in [*proven, *presumed]]
        others = [(display_name(other), unverified_reason(other)) for other in ineligible]
        passed_over: list[tuple[str, str]] = []
        absent: list[tuple[str, str]] = []
        found = 0
        for record in self._order(proven, presumed):
            obstacle = self._obstacle(record)
            if obstacle:
                down = is_proven(record) or record.compiled is not None
                self._check_strict(record, obstacle, down)
                (passed_over if down else absent).append((display_name(record), obstacle))
                continue
            found += 1
            yield self._choice(record, passed_over, [*absent, *others])
        if not found:
            raise self._none([*passed_over, *absent, *others])

    def _testable(self, record: EngineRecord) -> bool:
        """Not measured at export, for want of a GPU there, and there is something to test it on here."""
        return record.parity is None and record.device in GPU_ORDER and has_golden(self.manifest)

    def _order(self, proven: Sequence[EngineRecord], presumed: Sequence[EngineRecord]) -> list[EngineRecord]:
        """What was measured on a GPU that is here goes first; or else what a GPU here is presumed to do."""
        measured = sorted(proven, key=lambda record: _cost(record, self.images))
        untried = sorted(presumed, key=_presumed)
        on_gpu_here = any(record.device in GPU_ORDER and not self._obstacle(record) for record in proven)
        return [*measured, *untried] if on_gpu_here else [*untried, *measured]

    def _obstacle(self, record: EngineRecord) -> str:
        if id(record) not in self.obstacles:
            self.obstacles[id(record)] = unavailable_reason(record, self.bundle)
        return self.obstacles[id(record)]

    def _check_strict(self, record: EngineRecord, obstacle: str, down: bool) -> None:
        """Another engine file of the same device is no step down."""
        siblings = [other for other in self.manifest.engines if other.device == record.device and other.compiled]
        if not (self.strict and down) or any(not self._obstacle(other) for other in siblings):
            return
        which = "fastest proven device" if is_proven(record) else "first device of the order"
        raise EngineError(
            f"The {which} cannot run here: {record.device}, and strict=True is set.",
            where="device=auto",
            expected=record.device,
            got=obstacle,
            fix="make it available, or leave strict=True out",
        )

    def _choice(
        self, record: EngineRecord, passed_over: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]
    ) -> EngineChoice:
        names = ", ".join(dict.fromkeys(name for name, _ in passed_over))
        down = f", after {len(passed_over)} faster that cannot run here: {names}" if passed_over else ""
        if is_proven(record):
            plural = "s" if self.images != 1 else ""
            work = "" if self.images is None else f" for {self.images} image{plural}, loading included,"
            reason = f"fastest device{work} with parity proven at export{_latency(record)}{down}"
        else:
            reason = f"first device of the order that can run here, not measured at export{down}"
        return EngineChoice(record.device, reason, (*passed_over, *others), record)

    def _none(self, tried: Sequence[tuple[str, str]]) -> EngineError:
        return EngineError(
            "No engine that was proven at export can run here.",
            where="device=auto",
            expected=_proven_names(self.manifest),
            got="; ".join(f"{name}: {why}" for name, why in tried) or "the manifest records no engine",
            fix=f"{install_command('cpu')}, or export the bundle on a machine like this one",
        )


def _failed(record: EngineRecord) -> str:
    return unverified_reason(record) if record.parity and not record.parity.passed else ""


def _presumed(record: EngineRecord) -> tuple[int, float, int]:
    """Where nothing was measured: by device, then time if there is one, then precision."""
    device = GPU_ORDER.index(record.device) if record.device in GPU_ORDER else len(GPU_ORDER)
    known = record.precision in PRECISION_ORDER
    return device, _cost(record, None), PRECISION_ORDER.index(record.precision) if known else len(PRECISION_ORDER)


def _cost(record: EngineRecord, images: int | None) -> float:
    """Milliseconds for the work ahead, or for one image of a detector that stays loaded."""
    if record.latency_ms is None:
        return float("inf")
    return record.latency_ms if images is None else (record.load_ms or 0.0) + images * record.latency_ms


def _latency(record: EngineRecord) -> str:
    return "" if record.latency_ms is None else f" ({record.latency_ms:.1f} ms an image there)"


def _proven_names(manifest: BundleManifest) -> str:
    names = [entry.device for entry in manifest.engines if is_proven(entry)]
    return ", ".join(names) or "a device whose parity passed at export (this bundle has none)"
