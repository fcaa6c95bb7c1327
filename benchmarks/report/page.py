"""One HTML file about a bundle: accuracy, latency, parity, prompts, pictures; it needs no network and no other file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.accuracy.evaluation import EvaluationReport, evaluate_bundle
from medprompt.benchmarks.accuracy.predictions import short_name
from medprompt.benchmarks.accuracy.tables import operating_table, tables
from medprompt.benchmarks.latency.machine import describe_machine, was_busy
from medprompt.benchmarks.latency.measure import LatencyOptions
from medprompt.benchmarks.latency.run import LatencyRun, run_latency
from medprompt.benchmarks.report.pictures import class_colours, pairs_of_set
from medprompt.benchmarks.report.plots import accuracy_plots, latency_plots
from medprompt.bundles.attached import attached_reports
from medprompt.bundles.load import Bundle, load_bundle
from medprompt.core.errors import EngineError, InputError, missing_extra
from medprompt.core.files import atomic_write
from medprompt.core.output_kinds import Kind, file_kind
from medprompt.core.packages import package_version
from medprompt.core.progress import Progress, Silent
from medprompt.core.terminal import Table
from medprompt.data import DetectionSet
from medprompt.prompts.summary import threshold_warnings

TEMPLATE = Path(__file__).with_name("report.html.j2")
TIMED_IMAGES = 10
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class BundleReport:
    """Everything on the page, measured in one run on one bundle.

    Attributes:
        checkpoint: What it was compared with; None where PyTorch was not run.
    """

    bundle: Bundle
    accuracy: EvaluationReport
    latency: LatencyRun
    checkpoint: Path | None

    @property
    def compared(self) -> bool:
        """Whether PyTorch was run."""
        return self.checkpoint is not None

    @property
    def verdict(self) -> tuple[bool, str]:
        """Whether the bundle may stand for PyTorch, and why, in a sentence."""
        if not self.compared:
            return True, "PyTorch was not run: these are the bundle's own figures."
        failed = [entry.name for entry in self.accuracy.failed]
        kept = sum(entry.parity.kept * entry.parity.decisions for entry in self.accuracy.sets if entry.parity)
        decisions = sum(entry.parity.decisions for entry in self.accuracy.sets if entry.parity)
        share = f"{kept / decisions:.2%} of {decisions} decisions are PyTorch's" if decisions else "no decision"
        return not failed, f"{share}{'; beyond the tolerance on ' + ', '.join(failed) if failed else ''}."

    def html(self) -> str:
        """The page.

        Raises:
            EngineError: jinja2 or matplotlib is not installed.
        """
        rendered = page_maker(TEMPLATE, "The report")
        drawn: list[str] = []
        labelled = [entry.predictions.labelled for entry in self.accuracy.sets]
        labels = [*self.bundle.bank.labels, *(label for found in labelled for label in found.labels)]
        colours = class_colours(labels)
        sets = [
            {
                "name": entry.name,
                "plots": accuracy_plots(entry.as_json(), colours, drawn),
                "pairs": list(pairs_of_set(entry, self.bundle, self.accuracy.device, colours)),
            }
            for entry in self.accuracy.sets
        ]
        passed, why = self.verdict
        return rendered(
            manifest=self.bundle.manifest,
            sha256=self.bundle.sha256,
            bank=self.bundle.bank,
            passed=passed,
            why=why,
            compared=self.compared,
            headline=list(self._headline()),
            operating_tables=[operating_table(entry) for entry in self.accuracy.sets],
            warnings=(
                *self.bundle.manifest.warnings,
                *threshold_warnings(self.bundle.bank.prompts, self.bundle.manifest),
            ),
            sets=sets,
            accuracy_tables=list(tables(self.accuracy)),
            latency_tables=list(self.latency.tables()),
            latency_plots=latency_plots(self.latency.latency, self.latency.stages, drawn),
            parity_table=self._engines(),
            precision_table=self._precision(),
            version=package_version("medprompt"),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            counts=list(map(_counts, labelled)),
            remarks=self.remarks,
            colours={label: colours[label.casefold()] for label in dict.fromkeys(labels)},
            terms=TERMS,
            machine=list(_machine_rows(describe_machine())),
            unread=self.accuracy.unread,
            attached=list(attached_sections(self.bundle)),
            failures=self.latency.failures,
        )

    def _headline(self) -> Iterator[tuple[str, str, str]]:
        """Figure, value and what it is of."""
        for entry in self.accuracy.sets:
            delta = f", Δ {entry.deltas['ap50']}" if entry.deltas else ""
            yield "AP50", str(entry.bundle.estimates["ap50"]), f"{entry.name}{delta}"
            if entry.bundle.segm is not None:
                delta = f", Δ {entry.deltas['dice']}" if entry.deltas else ""
                yield "Dice", str(entry.bundle.estimates["dice"]), f"{entry.name}{delta}"
        latency = self.latency.latency
        name = list(latency.series)[-1]  # the last engine
        busy = "; the machine was busy" if was_busy(latency.machine) else ""
        yield "ms an image", f"{float(np.median(latency.series[name].wall_ms)):.1f}", f"{name}, median{busy}"
        if self.compared:
            yield "of PyTorch's time", str(latency.ratio(name)), "median of rounds (95 %)"

    @property
    def remarks(self) -> list[str]:
        """What the checkpoint's card says of these sets: images that taught or chose the weights flatter them."""
        path = None if self.checkpoint is None else self.checkpoint / "README.md"
        if path is None or not path.is_file():
            return []
        from medprompt.export.finetune.sets import data_sha256

        card = path.read_text(encoding="utf-8")
        measured, _, trained = card.partition("## Training")
        chosen = "chosen by these figures: the best" in measured
        digests = {entry.name: data_sha256(entry.predictions.labelled) for entry in self.accuracy.sets}
        return [
            *(f"{name}: the model was trained on these images." for name, sha in digests.items() if sha in trained),
            *(
                f"{name}: the weights were chosen by their figures on these images."
                for name, sha in digests.items()
                if chosen and sha in measured
            ),
        ]

    def _engines(self) -> Table:
        rows = [
            (
                record.device,
                record.precision,
                "-" if record.parity is None else f"{record.parity.kept:.2%} of {record.parity.decisions}",
                "-" if record.parity is None else f"{record.parity.max_score_delta:.4f}",
                record.reason or ("passed" if record.parity and record.parity.passed else "failed"),
            )
            for record in self.bundle.manifest.engines
        ]
        return Table("Parity at export", ("engine", "precision", "kept", "max Δscore", "verdict"), rows)

    def _precision(self) -> Table | None:
        path = self.bundle.path / "reports" / "precision.json"
        if not path.is_file():
            return None
        plan = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            (
                block["block"],
                block["kind"],
                f"{block['flops_share']:.1%}",
                f"{block['alone']['kept']:.2%}" if block["alone"] else "-",
            )
            for block in plan["blocks"]
        ]
        caption = f"{plan['half_flops_share']:.1%} of the matrix work is not fp32; {plan['trials']} trials"
        return Table("Precision plan", ("block", "type", "matrix work", "kept isolated"), rows, caption)


TERMS = (
    ("AP, AP50, AP75", "COCO average precision: over IoU 0.50 … 0.95, at 0.50, at 0.75. 1 is best."),
    ("AP, AP50 by masks", "The same, where masks overlap and not boxes (COCO's segm)."),
    (
        "mask IoU, Dice, boundary F1",
        "What is reported of a class in an image, all its masks together, against all that is labelled: the share of "
        "their union that both have, twice their common part over both areas, and how far their edges agree within "
        "0.75 % of the image's diagonal. Means over images with either. 1 is best.",
    ),
    ("95 % intervals", "From drawing images again at random. With few boxes of a class they are too narrow."),
    (
        "sensitivity",
        "Share of the labelled boxes that are found: a detection of the class overlaps with IoU 0.5 or more.",
    ),
    ("FROC", "Sensitivity over the number of false positives an image, as the threshold falls."),
    ("calibration error (ECE)", "How far scores lie from the share of detections that are right, on average."),
    ("decisions kept", "Boxes over the threshold for which the other side has one of the same class, place and score."),
    ("Δ, bundle less PyTorch", "The bundle's figure minus PyTorch's on the same images; 0 means that nothing changed."),
    ("p50, p90, p99", "Half, 90 % and 99 % of the calls took no longer. 'First' is the first call after loading."),
    ("relative IQR", "How much the times of the middle half of the calls scatter, as a share of the median."),
    ("× the first", "Time as a multiple of the first row's, round by round. Below 1 is faster."),
    ("95 % prediction interval", "Where the ratio of another run on this machine is to be expected."),
    (
        "× the limit",
        "Time as a multiple of the least that this CPU needs for the model's arithmetic and memory traffic.",
    ),
)
"""Words of the page's tables and plots, and what they say."""


def _counts(labelled: DetectionSet) -> str:
    boxes = sum(len(image.class_ids) for image in labelled.images)
    return f"{short_name(labelled.name)}: {len(labelled.images)} images, {boxes} labelled boxes"


def _machine_rows(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    libraries = machine.pop("libraries")
    for name, value in {**machine, **libraries}.items():
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        yield name.replace("_", " "), shown


def measure_report(
    bundle: Bundle | Path | str,
    labelled: Sequence[DetectionSet],
    *,
    checkpoint: Path | None = None,
    devices: Sequence[str] = ("auto",),
    threads: int = 1,
    rounds: int = 20,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> BundleReport:
    """Measure accuracy and latency of one bundle in one run.

    Args:
        bundle: A bundle, or its folder.
        labelled: Labelled sets; latency is measured on the first images of the first.
        checkpoint: The checkpoint that it was made from: everything is then compared with PyTorch.
        devices: Engines to time; the first one's accuracy is measured.
        threads: CPU threads of all.
        rounds: Timed calls of each contender.
        resamples: Draws of the intervals.
        seed: Of the draws.
        progress: Notified of each step.

    Raises:
        DataError, InputError: See ``evaluate_bundle`` and ``run_latency``.
    """
    if not labelled:
        raise InputError("There is no labelled set.", where="data", fix="name one or more")
    loaded = load_bundle(bundle)
    progress = progress or Silent()
    accuracy = evaluate_bundle(
        loaded,
        labelled,
        checkpoint=checkpoint,
        device=devices[0],
        threads=threads,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    latency = run_latency(
        loaded.path,
        [image.path for image in labelled[0].images[:TIMED_IMAGES]],
        LatencyOptions(devices, threads, rounds, seed=seed),
        checkpoint=checkpoint,
        progress=progress,
    )
    return BundleReport(loaded, accuracy, latency, checkpoint)


def page_maker(template: Path, feature: str) -> Callable[..., str]:
    """What makes an HTML page of a template's contents.

    Raises:
        EngineError: jinja2 is not installed, so there is no ``feature``.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise missing_extra(feature, "jinja2", "bench") from error
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(template.read_text("utf-8")).render


PAGE = file_kind("a report", r'.{0,300}(<meta name="generator" content="medprompt">|, bundle \w{12}: report</title>)')
PDF_END = b"% a report of medprompt\n"
"""A comment after the end of a PDF: it tells ours from others, and readers pass over it."""

PDF = Kind("a printed report", lambda path: "" if path.read_bytes().endswith(PDF_END) else str(path))


def need_browser() -> str:
    """An installed Chromium.

    Raises:
        EngineError: There is none.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise EngineError(
            "Printing needs Chromium.", expected=" or ".join(BROWSERS), fix="print the page from a browser"
        )
    return browser


def write_pdf(page: Path, out: Path) -> None:
    """Print a page as PDF with an installed Chromium.

    Raises:
        EngineError: There is none, or it failed.
    """
    browser = need_browser()
    with atomic_write(out) as aside, tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own does not work for root
        done = subprocess.run(
            [*command, "--no-pdf-header-footer", f"--print-to-pdf={aside}", page.resolve().as_uri()],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode or not aside.stat().st_size:
            raise EngineError("Chromium printed nothing.", where=str(page), got=done.stderr.strip()[-300:])
        with aside.open("ab") as printed:
            printed.write(PDF_END)


def attached_sections(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Kind, outcome, method, date, notes and tables of each attached report that has ``tables``.

    Raises:
        BundleError: An attached report has changed, or is about another bundle.
    """
    for name, entry, about in attached_reports(bundle):
        if isinstance(about.get("tables"), list):
            yield {
                "kind": entry.kind,
                "outcome": about.get("verdict", about.get("outcome", "")),
                "method": about.get("method", ""),
                "source": f"attached/{name}, {entry.date}",
                "notes": about.get("notes", []),
                "tables": [Table(one["title"], one["columns"], one["rows"]) for one in about["tables"]],
            }
