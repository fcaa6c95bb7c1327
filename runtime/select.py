"""Which engine serves, and why. No silent fallback: every device passed over is named with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from medprompt.errors import EngineError, missing_extra
from medprompt.manifest import EngineRecord, Manifest
from medprompt.runtime.engines import ENGINES, engine_class


@dataclass(frozen=True)
class EngineChoice:
    """The device that serves.

    Attributes:
        device: Its name.
        reason: Why this one.
        rejected: Devices passed over, each with its reason, the best first.
    """

    device: str
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()


def choose_engine(
    manifest: Manifest, device: str = "auto", strict: bool = False, images: int | None = None
) -> EngineChoice:
    """Choose the engine for a bundle on this machine.

    Args:
        manifest: The bundle's manifest, with what each engine measured at export.
        device: A device's name, or ``auto`` for the fastest one whose parity passed at export and that can
            run here.
        strict: Refuse anything but the fastest proven device, and a named device that was not proven.
        images: How many images there will be, where that is known: loading then counts too. For one image a library
            that loads quickly beats one that computes quickly.

    Raises:
        EngineError: No such device, not installed, its parity failed at export, none is left, or ``strict``
            forbids the step down.
    """
    if device == "auto":
        return _fastest_proven(manifest, strict, images)
    return _named(manifest, device, strict)


def _named(manifest: Manifest, device: str, strict: bool) -> EngineChoice:
    engine = engine_class(device)
    record = next((entry for entry in manifest.engines if entry.device == device), None)
    if record and record.parity and not record.parity.passed:
        raise EngineError(
            f"The bundle must not run on {device}: its parity with PyTorch failed at export.",
            where="--device",
            expected=_proven_names(manifest),
            got=f"{device}: {record.reason or _unproven(record)}",
            fix="use --device auto, which chooses among the proven ones",
        )
    obstacle = engine.available()
    if obstacle.endswith("is not installed"):
        raise missing_extra(f"--device {device}", engine.package, engine.extra)
    if obstacle:
        raise EngineError(f"{device} cannot run here.", where="--device", got=obstacle, fix="use --device auto")
    if record and record.parity:
        return EngineChoice(device, f"asked for; parity with PyTorch passed at export{_latency(record)}")
    if strict:
        raise EngineError(
            f"{device} was not proven at export, and --strict is set.",
            where="--device",
            expected=_proven_names(manifest),
            got=f"{device}: {_unproven(record)}",
            fix=f"export on a machine where {device} runs, or leave --strict out",
        )
    return EngineChoice(device, f"asked for; {_unproven(record)}")


def _fastest_proven(manifest: Manifest, strict: bool, images: int | None) -> EngineChoice:
    proven = [record for record in manifest.engines if record.parity and record.parity.passed]
    unproven = [record for record in manifest.engines if record not in proven]
    passed_over: list[tuple[str, str]] = []
    if any(record.load_ms is None for record in proven):
        images = None  # an older bundle: what loading takes is not known
    for record in sorted(proven, key=lambda record: _cost(record, images)):
        obstacle = _obstacle(record.device)
        if obstacle and strict:
            raise EngineError(
                f"The fastest proven device cannot run here: {record.device}, and --strict is set.",
                where="--device auto",
                expected=record.device,
                got=obstacle,
                fix="make it available, or leave --strict out",
            )
        if not obstacle:
            down = f", after {len(passed_over)} faster that cannot run here" if passed_over else ""
            work = "" if images is None else f" for {images} image{'s' if images != 1 else ''}, loading included,"
            reason = f"fastest device{work} with parity proven at export{_latency(record)}{down}"
            rejected = [*passed_over, *((other.device, _unproven(other)) for other in unproven)]
            return EngineChoice(record.device, reason, tuple(rejected))
        passed_over.append((record.device, obstacle))
    tried = [*passed_over, *((record.device, _unproven(record)) for record in unproven)]
    raise EngineError(
        "No engine that was proven at export can run here.",
        where="--device auto",
        expected=_proven_names(manifest),
        got="; ".join(f"{name}: {why}" for name, why in tried) or "the manifest records no engine",
        fix="pip install 'medprompt[cpu]', or export the bundle on a machine like this one",
    )


def _obstacle(device: str) -> str:
    """Why a device of the manifest cannot run here; empty if it can."""
    return engine_class(device).available() if device in ENGINES else "this medprompt does not know it"


def _cost(record: EngineRecord, images: int | None) -> float:
    """Milliseconds for the work ahead, or for one image of a detector that stays loaded."""
    if record.latency_ms is None:
        return float("inf")
    return record.latency_ms if images is None else (record.load_ms or 0.0) + images * record.latency_ms


def _latency(record: EngineRecord) -> str:
    return "" if record.latency_ms is None else f" ({record.latency_ms:.1f} ms an image there)"


def _proven_names(manifest: Manifest) -> str:
    names = [entry.device for entry in manifest.engines if entry.parity and entry.parity.passed]
    return ", ".join(names) or "a device whose parity passed at export (this bundle has none)"


def _unproven(record: EngineRecord | None) -> str:
    if record is None:
        return "its parity was not measured at export"
    if record.parity is None:
        return f"its parity was not measured at export: {record.reason or 'no reason recorded'}"
    return f"its parity failed at export: {record.reason or f'kept {record.parity.kept:.2%} of the decisions'}"
