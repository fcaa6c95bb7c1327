"""From blocks to a typed model: builds, runs and compares what a choice of precision goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from medprompt.bundles.load import MODEL_FILE, load_bundle
from medprompt.core.manifest import ParityRecord
from medprompt.core.progress import Progress, Silent
from medprompt.export.parity.images import ParityImages
from medprompt.export.precision.blocks import Blocks, blocks_of_model
from medprompt.export.precision.cast import check_strongly_typed, naive_model, node_types, typed_model
from medprompt.export.precision.cost import CostModel, Island
from medprompt.export.precision.dataflow import Dataflow
from medprompt.export.precision.flops import flops_of_nodes
from medprompt.export.precision.measure import DecisionMeasure, measured_aside
from medprompt.export.precision.quantise import Quantised, calibration_feeds, quantised_model
from medprompt.export.precision.search import Half, PrecisionPlan, first_breaking, plan_precision
from medprompt.export.precision.simulated_half import simulated_half_model
from medprompt.export.precision.simulated_tf32 import tf32_model

Precision = Literal["fp32", "auto", "auto-bf16", "fp16", "bf16", "int8", "fp8"]

KINDS = {"auto": "fp16", "auto-bf16": "bf16", "fp16": "fp16", "bf16": "bf16", "int8": "int8", "fp8": "fp8"}
"""The type that each choice tries."""

QUANTISED: tuple[Literal["int8", "fp8"], ...] = ("int8", "fp8")
"""Choices that want calibration images."""

SEARCHED = ("auto", "auto-bf16", *QUANTISED)
"""Choices that keep blocks in fp32 where parity demands it; ``fp16`` and ``bf16`` mean every block."""

SEARCH_IMAGES = 16
"""Images that the search runs on; its result is proven on all of them, and searched anew on all where that fails."""


@dataclass(frozen=True)
class PrecisionReport:
    """What the precision step made and measured.

    Attributes:
        model: Name of the typed model in the bundle.
        plan: The type of each block.
        typed: Decisions of the typed file, on ONNX Runtime; None for bf16, which its CPU cannot run.
        rounded: Decisions of its simulated-half model (see ``medprompt.export.precision.simulated_half``); None where
            quantised.
        naive: Decisions where everything is half without fp32 nodes, simulated; None where quantised.
        tf32: Whether all of them have TF32 products where they are fp32 (see ``simulated_tf32``).
        estimated_ms: What an image costs (see ``medprompt.export.precision.cost``): in ``fp32``, and as ``chosen``.
        islands: The fp32 nodes among half ones that cost something, the costliest first.
    """

    model: str
    plan: PrecisionPlan
    typed: ParityRecord | None
    rounded: ParityRecord | None
    naive: ParityRecord | None
    tf32: bool = False
    estimated_ms: Mapping[str, float] = field(default_factory=dict)
    islands: tuple[Island, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The content of ``reports/precision.json``."""
        records = {"typed": self.typed, "rounded": self.rounded, "naive": self.naive}
        dumped = {name: record and record.model_dump(mode="json") for name, record in records.items()}
        return {
            "model": self.model,
            "tf32": self.tf32,
            **asdict(self.plan),
            "estimated_ms": dict(self.estimated_ms),
            "islands": [asdict(island) for island in self.islands],
            "parity": dumped,
        }

    @property
    def failed(self) -> ParityRecord | None:
        """The comparison that did not pass; None where all did."""
        return next((record for record in (self.rounded, self.typed) if record and not record.passed), None)


class PrecisionSelector:
    """Builds, runs and compares the models that a choice of precision goes through.

    ``quantised`` is the quantised model, for ``int8`` and ``fp8``; with ``tf32``, what is measured has TF32 products.
    """

    def __init__(
        self,
        model: Any,
        blocks: Blocks,
        precision: Precision,
        measure: DecisionMeasure,
        quantised: Quantised | None = None,
        progress: Progress | None = None,
        *,
        tf32: bool = False,
    ) -> None:
        self.tf32 = tf32
        self.blocks = blocks
        self.precision = precision
        self.measure = measure
        self.flops = flops_shares(model, blocks)
        self._model = model
        self._flow = Dataflow(model)
        self._cost = CostModel(model, self._flow, tf32=tf32)
        self._quantised = quantised
        self._progress = progress or Silent()

    @classmethod
    def of_bundle(
        cls,
        folder: Path,
        declared: Mapping[str, str],
        precision: Precision,
        measure: DecisionMeasure,
        calibration: ParityImages | None = None,
        progress: Progress | None = None,
        *,
        tf32: bool = False,
    ) -> PrecisionSelector:
        """Read a bundle's model, and calibrate it for ``int8`` and ``fp8``."""
        model = onnx.load(str(folder / MODEL_FILE))
        blocks = blocks_of_model(model, declared)
        quantised = None
        if calibration is not None and precision in QUANTISED:
            feeds = calibration_feeds(load_bundle(folder), calibration)
            quantised = quantised_model(model, blocks, folder / MODEL_FILE, feeds, precision)
        return cls(model, blocks, precision, measure, quantised, progress, tf32=tf32)

    @property
    def kind(self) -> str:
        """The type that is tried."""
        return KINDS[self.precision]

    def chosen(self) -> tuple[PrecisionReport, Any]:
        """Choose on some of the images, prove on all of them, and choose anew on all where that fails."""
        some = self.measure.on_some(SEARCH_IMAGES)
        report, model = self._chosen_on(some)
        if report.failed and some is not self.measure and self.precision in SEARCHED:
            report, model = self._chosen_on(self.measure)
        return report, model

    def run(self, model: Any, measure: DecisionMeasure | None = None) -> ParityRecord:
        """Write a model aside, as its device would compute it, and compare its decisions."""
        record = measured_aside(tf32_model(model) if self.tf32 else model, measure or self.measure)
        self._progress.advance()
        return record

    def typed(self, half: Half) -> Any:
        """The model to serve, the given blocks in the type that is tried."""
        if self._quantised is not None:
            return self._quantised.with_blocks(half)
        return typed_model(self._model, self.blocks, dict.fromkeys(half, self.kind))

    def measurable(self, half: Half) -> Any:
        """The model that shows here what the typed one does on its device."""
        return self.typed(half) if self._quantised is not None else simulated_half_model(self.typed(half))

    def trial(self, half: Half, measure: DecisionMeasure | None = None) -> ParityRecord:
        """Decisions with the given blocks in the type that is tried.

        Where the simulated model passes and the typed file can run here too, both must pass: they round at different
        points, and a choice that holds by luck of the rounding would not hold on another device.
        """
        record = self.run(self.measurable(half), measure)
        if record.passed and self.kind == "fp16":
            served = self.run(self.typed(half), measure)
            return record if served.passed else served
        return record

    def naive(self) -> Any | None:
        """Everything half without fp32 nodes, simulated; None where quantised."""
        if self._quantised is not None:
            return None
        return simulated_half_model(naive_model(self._model, self.blocks, self.kind))

    def _islands(self, half: Half) -> tuple[Island, ...]:
        return () if self._quantised is not None else self._cost.islands(self._kinds(half), self.blocks)

    def _kinds(self, half: Half) -> tuple[str, ...]:
        return node_types(self._flow, self.blocks, dict.fromkeys(half, self.kind))

    def _saved_ms(self) -> dict[str, float] | None:
        """Time that each block saves where it alone is half: what winning it back is worth."""
        if self._quantised is not None:
            return None
        exact = self._cost.ms(self._kinds(frozenset()))
        return {block: exact - self._cost.ms(self._kinds(frozenset({block}))) for block in self.flops}

    def _estimated_ms(self, half: Half) -> dict[str, float]:
        if self._quantised is not None:
            return {}
        return {name: self._cost.ms(self._kinds(blocks)) for name, blocks in {"fp32": Half(), "chosen": half}.items()}

    def _chosen_on(self, some: DecisionMeasure) -> tuple[PrecisionReport, Any]:
        plan = plan_precision(
            self.precision,
            self.kind,
            self.flops,
            lambda half: self.trial(half, some),
            worth=self._saved_ms(),
            search=self.precision in SEARCHED,
        )
        half = plan.half
        model = self.typed(half)
        if self._quantised is None:
            check_strongly_typed(model)
        naive = self.naive()
        return (
            PrecisionReport(
                model=f"model-{self.precision}.onnx",
                plan=replace(plan, half_flops_share=self.share(half)),
                typed=None if self.kind == "bf16" else self.run(model),
                rounded=None if self._quantised is not None else self.run(simulated_half_model(model)),
                naive=None if naive is None else self.run(naive),
                tf32=self.tf32,
                estimated_ms=self._estimated_ms(half),
                islands=self._islands(half),
            ),
            model,
        )

    def share(self, half: Half) -> float:
        """Share of the matrix work that is done in the type that is tried."""
        flops = flops_of_nodes(self._model)
        if self._quantised is not None:
            products, of_node = self._quantised.products, self.blocks.of_node
            names = [node.name for node in self._model.graph.node]
            done = [work for index, work in flops.items() if products.get(names[index]) and of_node[index] in half]
        else:
            kinds = self._kinds(half)
            done = [work for index, work in flops.items() if kinds[index] != "fp32"]
        return sum(done) / sum(flops.values())

    def breaking_block(self) -> str:
        """The block at which a growing row of half blocks stops passing."""
        return first_breaking(list(self.flops), lambda half: self.trial(half).passed)


def flops_shares(model: Any, blocks: Blocks) -> dict[str, float]:
    """Share of the matrix work of each block whose type may be chosen, in the order of the data's way."""
    shares = dict.fromkeys(blocks.free, 0.0)
    flops = flops_of_nodes(model)
    for index, work in flops.items():
        if blocks.of_node[index] in shares:
            shares[blocks.of_node[index]] += work / sum(flops.values())
    return shares
