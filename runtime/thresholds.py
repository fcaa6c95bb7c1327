"""Other thresholds for a finished bundle: a new bundle, which says where they come from and is proven at them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from medprompt.bundles.bill import list_file
from medprompt.bundles.load import BANK_FILE, HASH_FILE, MANIFEST_FILE, Bundle, load_bundle, write_manifest
from medprompt.bundles.signing import SIGNATURE_FILE
from medprompt.core.errors import ParityError, PromptError
from medprompt.core.files import write_text
from medprompt.core.manifest import Manifest, ParityRecord
from medprompt.core.models import FrozenModel
from medprompt.core.output_kinds import ATTACHED_FOLDER
from medprompt.core.outputs import folder_written_aside
from medprompt.prompts.bank import PromptBank, save_bank
from medprompt.prompts.diff import diff_prompts
from medprompt.prompts.schema import Calibration, Prompts
from medprompt.prompts.summary import class_table, prompt_summary, threshold_warnings
from medprompt.runtime.selection.selftest import describe_self_test
from medprompt.runtime.verify import verify_on_device

REPORT_FILE = "reports/thresholds.json"
CARD_FILE = "MODEL_CARD.md"
NOT_DECISIVE = ("threshold", "source", "order")
"""Differences between a bundle's prompts and a prompts file that thresholds do not depend on."""


class ThresholdReport(FrozenModel):
    """Where a bundle's thresholds come from: ``reports/thresholds.json``.

    Attributes:
        source_bundle_sha256: The bundle that this one was made from.
        thresholds: By class; None for the bundle's default.
        calibration: On what they were chosen; thresholds of other classes were set by hand.
        by: Who is responsible for them, as given.
        date: When they were set, UTC.
        device, parity: The engine that was asked on the golden images, from the least of the thresholds, and its
            agreement with PyTorch.
    """

    source_bundle_sha256: str
    thresholds: dict[str, float | None]
    calibration: tuple[Calibration, ...]
    by: str | None = None
    date: str
    device: str
    parity: ParityRecord


def set_thresholds(
    bundle: Bundle | Path | str,
    prompts: Prompts,
    out: Path,
    *,
    by: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
) -> ThresholdReport:
    """Write a bundle with the thresholds of a prompts file, proven on its golden images; the source is not changed.

    Model, phrases, weights and engines are the source's, and so is the threshold of a class to which the file gives
    none. Neither a signature nor attached reports are carried over.

    Args:
        bundle: The source, or its folder.
        prompts: A file of the same classes, phrases and weights, such as ``prompts calibrate`` writes.
        out: The new bundle's folder, written whole or not at all.
        by: Who is responsible for the thresholds.
        device: What proves the new bundle, see ``verify_on_device``.
        threads: CPU threads of it.
        force: Replace a bundle that exists.

    Raises:
        PromptError: Prompts that decide otherwise than the bundle's, without a threshold, or calibrated on another
            checkpoint.
        BundleError: The source cannot be loaded, or has no golden images.
        EngineError: No engine can run here.
        ParityError: The engine decides otherwise than PyTorch at these thresholds.
        InputError: ``out`` is the source, exists and ``force`` is not set, or cannot be written to.
    """
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    left_out = shutil.ignore_patterns(MANIFEST_FILE, HASH_FILE, SIGNATURE_FILE, ATTACHED_FOLDER)
    with folder_written_aside(Path(out), "a bundle", inputs=[path], force=force) as folder:
        source = load_bundle(bundle)
        bank = _with_thresholds(source, prompts)
        shutil.copytree(source.path, folder, ignore=left_out, dirs_exist_ok=True)
        save_bank(bank, folder / BANK_FILE)
        manifest = source.manifest.model_copy(update={"prompt_summary": prompt_summary(bank)})
        write_manifest(folder, manifest)
        report = _proven(source, bank, folder, by, device, threads)
        _write_documents(folder, source, bank, manifest, report)
        write_manifest(folder, manifest)
    return report


def _with_thresholds(source: Bundle, prompts: Prompts) -> PromptBank:
    """The source's bank with the thresholds, and the record of them, of a file that decides alike."""
    own = source.bank.prompts
    given = prompts if prompts.task is not None else prompts.model_copy(update={"task": own.task})
    changes = [change for change in diff_prompts(own, given) if change.what not in NOT_DECISIVE]
    if changes:
        raise PromptError(
            "The prompts decide otherwise than the bundle's: thresholds of the ones do not fit the others.",
            where="prompts",
            expected="the bundle's classes, phrases and weights",
            got="; ".join(f"{change.what} {change.kind}: {change.where}" for change in changes[:5]),
            fix="medprompt export CHECKPOINT --prompts with this file; or calibrate with --no-weights --thresholds",
        )
    thresholds = {entry.label: entry.threshold for entry in prompts.classes}
    if not any(threshold is not None for threshold in thresholds.values()):
        raise PromptError(
            "The prompts file has no threshold.",
            where="prompts",
            fix="medprompt prompts calibrate CHECKPOINT --prompts P.yaml --data DATA --thresholds --out Q.yaml",
        )
    others = [record for record in _records(prompts) if record.checkpoint != source.manifest.checkpoint_sha256]
    if others:
        raise PromptError(
            "The thresholds were calibrated on another checkpoint.",
            where="prompts",
            expected=source.manifest.checkpoint_sha256[:16],
            got=others[0].checkpoint[:16],
            fix="calibrate on the checkpoint that the bundle was made from",
        )
    classes = [
        entry if thresholds[entry.label] is None else entry.model_copy(update={"threshold": thresholds[entry.label]})
        for entry in own.classes
    ]
    return source.bank.with_prompts(
        own.model_copy(update={"classes": tuple(classes), "calibration": prompts.calibration})
    )


def _records(prompts: Prompts) -> tuple[Calibration, ...]:
    return tuple(record for record in prompts.calibration or () if record.thresholds)


def _proven(
    source: Bundle, bank: PromptBank, folder: Path, by: str | None, device: str, threads: int | None
) -> ThresholdReport:
    """Compare the new bundle's decisions on its golden images with PyTorch's, at the thresholds that it serves."""
    found = verify_on_device(folder, device, threads)
    if not found.parity.passed:
        raise ParityError(
            "The bundle decides otherwise than PyTorch at these thresholds.",
            where=f"engine {found.choice.device}",
            got=describe_self_test(found.parity),
            fix="choose another device=, or higher thresholds",
        )
    return ThresholdReport(
        source_bundle_sha256=source.sha256,
        thresholds={entry.label: entry.threshold for entry in bank.prompts.classes},
        calibration=_records(bank.prompts),
        by=by,
        date=datetime.now(UTC).date().isoformat(),
        device=found.choice.device,
        parity=found.parity,
    )


def _write_documents(
    folder: Path, source: Bundle, bank: PromptBank, manifest: Manifest, report: ThresholdReport
) -> None:
    """Report, model card and SBOM as they are with the new thresholds."""
    (folder / REPORT_FILE).parent.mkdir(exist_ok=True)
    write_text(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    card = folder / CARD_FILE
    if card.is_file():
        default = manifest.default_threshold
        old, new = class_table(source.bank.prompts, default), class_table(bank.prompts, default)
        text = card.read_text(encoding="utf-8").partition("\n## Thresholds\n")[0]
        for warning in threshold_warnings(source.bank.prompts, manifest):
            text = text.replace(warning, "".join(threshold_warnings(bank.prompts, manifest)) or "none")
        section = [
            text.replace(old, new).rstrip(),
            "## Thresholds",
            *_provenance(report),
            *([] if old in text else [new]),
        ]
        write_text(card, "\n\n".join(section) + "\n")
    for path in (folder / BANK_FILE, folder / REPORT_FILE, card):
        if path.is_file():
            list_file(folder, path)


def _provenance(report: ThresholdReport) -> list[str]:
    sets = "; ".join(f"{', '.join(r.labels)}: {r.data}, {r.images} images, {r.date}" for r in report.calibration)
    by = f" by {report.by}" if report.by else ""
    return [
        f"The thresholds above were set on {report.date}{by} in a bundle with SHA-256 `{report.source_bundle_sha256}`.",
        f"Calibrated on {sets}." if sets else "They were set by hand, not on labelled images.",
        f"From the least of them, {report.device} decides as PyTorch: {describe_self_test(report.parity)}.",
    ]


def threshold_report(bundle: Bundle) -> ThresholdReport | None:
    """Where the thresholds come from, if they were set in a finished bundle."""
    path = bundle.path / REPORT_FILE
    return ThresholdReport.model_validate_json(path.read_bytes()) if REPORT_FILE in bundle.manifest.files else None
