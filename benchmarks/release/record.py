"""The change record: one folder with JSON, HTML and PDF that says what changed, how it was tested, and what came of it.

Its three parts are those of a predetermined change control plan (FDA, "Marketing Submission Recommendations for a
Predetermined Change Control Plan for Artificial Intelligence-Enabled Device Software Functions", December 2024):
Description of Modifications, Modification Protocol, Impact Assessment. A record is no such plan, and no claim of
conformity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medprompt.benchmarks.regression.limits import Limits
from medprompt.benchmarks.regression.regress import MeasurementOptions, compare_with_baseline, measure_baseline
from medprompt.benchmarks.regression.verdict import Outcome
from medprompt.benchmarks.release.changes import Modification, modifications
from medprompt.benchmarks.release.plan import ReleasePlan
from medprompt.benchmarks.release.results import Result, result_of, results_of
from medprompt.bundles.anomalies import Anomaly, anomalies_of
from medprompt.bundles.load import Bundle
from medprompt.core.errors import InputError
from medprompt.core.packages import package_version
from medprompt.core.progress import Progress, Silent
from medprompt.data import DetectionSet

SCHEMA = 1
SAME = (
    "Every engine whose parity is stated as passed decided at export as PyTorch did; medprompt verify repeats that "
    "with the bundle's golden images on the device."
)


@dataclass(frozen=True)
class ChangeRecord:
    """All that a record says.

    Attributes:
        blanks: What the plan leaves open.
    """

    new: Bundle
    old: Bundle
    plan: ReleasePlan
    changes: tuple[Modification, ...]
    results: tuple[Result, ...]
    anomalies: tuple[Anomaly, ...]
    blanks: tuple[str, ...]
    created: str

    @property
    def outcome(self) -> Outcome:
        """Failed where one result failed; no verdict where one has none, or none was held against the limits."""
        outcomes = {result.outcome for result in self.results}
        if Outcome.failed in outcomes:
            return Outcome.failed
        tested = any(result.kind == "regression" for result in self.results)
        return Outcome.passed if tested and Outcome.unclear not in outcomes else Outcome.unclear

    @property
    def why(self) -> str:
        """The outcome in a sentence."""
        failed = [result.kind for result in self.results if result.outcome == Outcome.failed]
        if failed:
            return f"Beyond a limit: {', '.join(failed)}."
        if not any(result.kind == "regression" for result in self.results):
            return "It was not held against the limits: no regression result."
        unclear = [result.kind for result in self.results if result.outcome == Outcome.unclear]
        return (
            f"Too noisy or incomplete to tell: {', '.join(unclear)}."
            if unclear
            else "Every figure is within its limit."
        )

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values; ``outcome`` comes first."""
        plan, limits = self.plan.plan, self.plan.limits
        return {
            "outcome": str(self.outcome),
            "why": self.why,
            "schema_version": SCHEMA,
            "created": self.created,
            "medprompt": package_version("medprompt"),
            "bundle_sha256": self.new.sha256,
            "baseline_sha256": self.old.sha256,
            "blanks": list(self.blanks),
            "intended_use": plan.intended_use or None,
            "known_limits": list(plan.known_limits),
            "description_of_modifications": {
                "reason": plan.reason or None,
                "modifications": [one.as_json() for one in self.changes],
            },
            "modification_protocol": {
                "limits": limits.model_dump(mode="json"),
                "decided": sorted(self.plan.stated),
                "methods": {result.kind: result.method for result in self.results},
            },
            "impact_assessment": {
                "results": [result.as_json() for result in self.results],
                **{name: list(getattr(plan, name)) for name in ("benefits", "risks", "mitigations")},
                "known_anomalies": [one.model_dump(mode="json") for one in self.anomalies],
            },
            "signers": [signer.model_dump(mode="json") for signer in plan.signers],
        }


def check_plan(plan: ReleasePlan, new: Bundle, *, strict: bool, signed: bool) -> tuple[str, ...]:
    """What is left open.

    Raises:
        InputError: ``strict``, and something is.
    """
    own = [] if new.manifest.intended_use.strip() else ["intended use of the bundle itself"]
    blanks = (*plan.blanks(), *own, *([] if signed else ["signature"]))
    if strict and blanks:
        raise InputError(
            "The record would have blanks.",
            where="limits",
            expected="everything decided and written down",
            got="; ".join(blanks),
            fix="fill in the limits file; see `medprompt docs release-gate`",
        )
    return blanks


def change_record(
    new: Bundle,
    old: Bundle,
    plan: ReleasePlan,
    blanks: Sequence[str],
    reports: Sequence[Path] = (),
    labelled: Sequence[DetectionSet] = (),
    options: MeasurementOptions | None = None,
    progress: Progress | None = None,
) -> ChangeRecord:
    """Compare two bundles, and gather what was measured of the new one; ``labelled`` sets are measured on now.

    Raises:
        InputError: The bundles are one; or see ``results_of``.
        DataError: See ``compare_with_baseline``.
    """
    if new.sha256 == old.sha256:
        raise InputError("The bundles are one.", where="baseline", got=str(old.path), fix="name the bundle before it")
    results = list(results_of(new, old, plan.limits, reports))
    if labelled:
        results.insert(
            0, _measured(new, old, plan.limits, labelled, options or MeasurementOptions(), progress or Silent())
        )
    built = [record.compiled for record in new.manifest.engines if record.compiled]
    versions = {**new.manifest.versions, **{_library(one.builder): one.builder_version for one in built}}
    return ChangeRecord(
        new=new,
        old=old,
        plan=plan,
        changes=modifications(old, new),
        results=tuple(results),
        anomalies=anomalies_of(versions),
        blanks=tuple(blanks),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _measured(
    new: Bundle,
    old: Bundle,
    limits: Limits,
    labelled: Sequence[DetectionSet],
    options: MeasurementOptions,
    progress: Progress,
) -> Result:
    """Both bundles on the same images in this process, the old one timed in turn with the new one."""
    baseline = measure_baseline(old, labelled, "the baseline of this record", options, progress=progress)
    against = MeasurementOptions(**{**vars(options), "device": baseline.environment.device, "against": old.path})
    found = compare_with_baseline(new, baseline, labelled, limits, against, progress=progress)
    return result_of("regression", found.as_json(), old, limits)


def _library(builder: str) -> str:
    return {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}[builder]
