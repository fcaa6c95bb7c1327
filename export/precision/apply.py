"""The precision step of an export: choose types by parity, write the typed model and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import onnx

from medprompt.bundles.load import MODEL_FILE
from medprompt.core.errors import InputError, ParityError
from medprompt.core.manifest import ParityRecord
from medprompt.export.graph.parts_export import write_typed
from medprompt.export.parity.check import ParityCheck, describe_parity
from medprompt.export.parity.images import parity_images
from medprompt.export.precision.choose import KINDS, QUANTISED, Precision, PrecisionReport, PrecisionSelector
from medprompt.export.precision.fp8 import MIN_OPSET
from medprompt.export.precision.measure import DecisionMeasure, check_measurable, measured_aside
from medprompt.export.precision.simulated_tf32 import tf32_model

__all__ = ["Precision", "PrecisionReport", "check_precision", "tf32_record", "typed_bundle_model"]

REPORT_FILE = "reports/precision.json"


def check_precision(precision: Precision, calibration: Path | None, opset: int = 20, *, tf32: bool = False) -> None:
    """Refuse a choice that cannot be carried out, before any work is done.

    Raises:
        InputError: No such precision, or calibration images missing or useless.
        ImageError: No calibration image there.
        EngineError: ONNX Runtime, which measures, is not installed.
    """
    if precision not in get_args(Precision):
        raise InputError("There is no such precision.", where="precision", got=str(precision))
    if precision != "fp32" or tf32:
        check_measurable()
    if (precision in QUANTISED) != (calibration is not None):
        raise InputError(
            "INT8 and FP8 need calibration images, and nothing else does.",
            where="calibration",
            expected="precision=int8 calibration=DIR",
            got=f"precision {precision}" + (f", calibration {calibration}" if calibration else ", no images"),
        )
    if precision == "fp8" and opset < MIN_OPSET:
        raise InputError(
            "FP8 needs a newer operator set.", where="opset", expected=f"{MIN_OPSET} or more", got=str(opset)
        )
    if calibration is not None:
        parity_images(calibration)


def typed_bundle_model(
    check: ParityCheck, precision: Precision, calibration: Path | None = None, *, tf32: bool = False
) -> PrecisionReport | None:
    """Write ``model-<precision>.onnx`` and ``reports/precision.json`` beside a bundle's fp32 model.

    ``calibration`` holds images for the ranges of int8 and fp8; with ``tf32``, fp32 products are TF32's wherever
    decisions are measured. Nothing is done for ``fp32``.

    Raises:
        ParityError: The precision requested decides otherwise than PyTorch; the text names the block.
    """
    if precision == "fp32":
        return None
    folder, family, progress = check.folder, check.family, check.progress
    tolerance = family.tolerances.get(KINDS[precision], family.tolerances["fp32"])
    measure = DecisionMeasure(folder, check.images, check.references, tolerance)
    progress.step(f"precision {precision}")
    calibrated_on = None if calibration is None else parity_images(calibration)
    chooser = PrecisionSelector.of_bundle(folder, family.blocks, precision, measure, calibrated_on, progress, tf32=tf32)
    report, model = chooser.chosen()
    if report.failed or not report.plan.half_flops_share:
        raise _failure(chooser, report)
    write_typed(model, folder / report.model)
    path = folder / REPORT_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report.summary(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def tf32_record(check: ParityCheck) -> ParityRecord:
    """Prove a bundle's fp32 model with TF32 products, simulated.

    Raises:
        ParityError: It decides otherwise than PyTorch then.
    """
    check.progress.step("decisions with TF32 products")
    measure = DecisionMeasure(check.folder, check.images, check.references, check.family.tolerances["fp32"])
    record = measured_aside(tf32_model(onnx.load(str(check.folder / MODEL_FILE))), measure)
    if record.passed:
        return record
    raise ParityError(
        "The model decides otherwise than PyTorch with TF32 products; no bundle was made.",
        where="tf32",
        expected="parity under the family's tolerance",
        got=describe_parity(record),
        fix="export without tf32: engines then compute fp32 products in fp32",
    )


def _failure(chooser: PrecisionSelector, report: PrecisionReport) -> ParityError:
    if not report.failed:
        return ParityError(
            f"No block of the model can be {chooser.kind}: each breaks parity; no bundle was made.",
            where=f"block {next(iter(chooser.flops))!r} and all after it",
            fix="leave precision= out: the fp32 model passes",
        )
    record = report.failed
    isolated = {entry.block: entry.alone for entry in report.plan.blocks if entry.alone and not entry.alone.passed}
    return ParityError(
        f"The model in {chooser.precision} decides otherwise than PyTorch; no bundle was made.",
        where=f"block {chooser.breaking_block()!r}",
        expected="parity under the family's tolerance",
        got=describe_parity(record) + (f"; failing isolated: {', '.join(isolated)}" if isolated else ""),
        fix=f"pass precision={'auto-bf16' if chooser.kind == 'bf16' else 'auto'}, which keeps such blocks in fp32",
    )
