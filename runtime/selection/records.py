"""What an engine's record in the manifest means on this machine."""

from __future__ import annotations

from pathlib import Path

from medprompt.core.manifest import EngineRecord
from medprompt.runtime.engines import ENGINES, RETIRED, engine_class
from medprompt.runtime.engines.engine_files import BUILDERS, check_compiled
from medprompt.runtime.engines.machine import read_gpus, read_machine


def is_proven(record: EngineRecord) -> bool:
    """Whether an engine's parity passed at export."""
    return bool(record.parity and record.parity.passed)


def unavailable_reason(record: EngineRecord, bundle: Path | str = "BUNDLE") -> str:
    """Why an engine of the manifest cannot run here; empty if it can."""
    if record.device not in ENGINES:
        return RETIRED.get(record.device, "this medprompt does not know it")
    engine = engine_class(record.device)
    if not engine.needs_compiled:
        return engine.available()
    gpus, no_gpu = read_gpus()
    if not gpus:  # said before a TensorRT package is imported, which takes a second
        return f"no GPU: {no_gpu}"
    # The package's version first: one that is not installed is the more useful answer than a GPU that does not fit.
    return check_compiled(record, read_machine((BUILDERS[record.device],)), bundle) or engine.available()


def display_name(record: EngineRecord) -> str:
    """The device, and what tells its engine files apart where a bundle may hold several."""
    if record.compiled is None:
        return record.device
    # An engine that does not say computes as its builder does by default: with TF32.
    rounded = "" if record.compiled.tf32 is False else " with TF32"
    return f"{record.device} ({record.precision}{rounded}, {'+'.join(record.compiled.gpus)})"


def unverified_reason(record: EngineRecord | None) -> str:
    """Why an engine counts as not proven."""
    if record is None:
        return "its parity was not measured at export"
    if record.parity is None:
        return f"its parity was not measured at export: {record.reason or 'no reason recorded'}"
    return f"its parity failed at export: {record.reason or f'kept {record.parity.kept:.2%} of the decisions'}"
