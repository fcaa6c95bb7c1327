"""Checkpoint and prompts in, bundle out: every step of an export, in order, whole or not at all."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medprompt.bundles.load import BANK_FILE, GOLDEN_FILE, MODEL_FILE, save_golden, write_manifest
from medprompt.core.errors import InputError, PromptError
from medprompt.core.files import real_path
from medprompt.core.manifest import Manifest, ParityRecord, Postprocess
from medprompt.core.outputs import folder_written_aside
from medprompt.core.progress import Progress, Silent
from medprompt.export.checkpoint import ImageProcessor, family_from_checkpoint
from medprompt.export.checkpoint_files import (
    about_checkpoint,
    about_file,
    checkpoint_sha256,
    import_record,
    licence_files,
)
from medprompt.export.compile.engine import add_engine, check_compile
from medprompt.export.compile.options import CompileOptions
from medprompt.export.documents.model_card import model_card
from medprompt.export.documents.sbom import library_versions, licence_list, sbom_of_folder
from medprompt.export.embed import bank_from_prompts, phrase_warnings
from medprompt.export.families.base import Family
from medprompt.export.graph.detection_graph import DetectionGraph, input_specs, output_specs
from medprompt.export.graph.onnx_export import OnnxFacts, check_opset, onnx_from_graph
from medprompt.export.graph.parts_export import onnx_in_parts
from medprompt.export.imported import usable_checkpoint
from medprompt.export.importers.run import ImportOptions
from medprompt.export.parity.check import (
    ParityCheck,
    ParityReport,
    check_devices,
    check_parity,
    references_of_images,
    typed_engines,
)
from medprompt.export.parity.images import ParityImages, parity_images
from medprompt.export.parity.stretch import cost_of_one_size, stretch_warning
from medprompt.export.precision.apply import (
    Precision,
    PrecisionReport,
    check_precision,
    tf32_record,
    typed_bundle_model,
)
from medprompt.export.tryout import try_out
from medprompt.export.weights import channel_warnings
from medprompt.images.resize import model_hw
from medprompt.prompts.bank import PromptBank, save_bank
from medprompt.prompts.file import prompts_from_yaml
from medprompt.prompts.schema import Prompts
from medprompt.prompts.summary import prompt_summary
from medprompt.site.record import SITE_FILE, site_record, write_record

REPORT_FILE = "reports/parity.json"
CARD_FILE = "MODEL_CARD.md"
SBOM_FILE = "sbom.json"
LICENCES_FILE = "LICENCES.md"
PADDING = {"black": 0.0, "grey": 0.5}
"""Share of white: what transformers 5 and 4 pad with."""
LEAST_SIDE = 32
"""Pixels of the model's image each way: the coarsest maps of the backbones are a 32nd of it."""


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported; ``medprompt.export_bundle`` says what each option means."""

    images: Path | None = None
    image_size: tuple[int, int] | None = None
    image_processor: ImageProcessor | None = None
    padding: Literal["black", "grey"] | None = None
    resize: Literal["host", "graph"] | None = None
    nms_iou: float | None = None
    top_k: int | None = None
    threshold: float = 0.2
    opset: int = 20
    precision: Precision = "fp32"
    calibration: Path | None = None
    engine: CompileOptions | None = None
    imported: ImportOptions = field(default_factory=ImportOptions)
    tf32: bool = False
    intended_use: str | None = None
    about: Path | None = None

    def checked(self) -> ExportOptions:
        """Refuse what cannot be done before any work is done; return the options with the engine's GPUs settled.

        Raises:
            InputError: A value out of range, or calibration images missing or useless.
            ImageError: No calibration image there.
            EngineError: No engine that could prove parity, or that could be compiled.
        """
        check_opset(self.opset)
        if self.resize == "graph":
            raise InputError(
                "No graph resizes images any more: GPU engines do so by kernels of their own, before the graph.",
                where="resize",
                expected="host, or nothing",
                got="graph",
                fix="leave resize= out; bundles that were made so still run",
            )
        ranges = {
            "top_k": (self.top_k, 1, 10_000),
            "threshold": (self.threshold, 0, 1),
            "nms_iou": (self.nms_iou, 0.01, 1),
            "image_size": (min(self.image_size) if self.image_size else None, LEAST_SIDE, 8192),
        }
        for name, (value, low, high) in ranges.items():
            if value is not None and not low <= value <= high:
                raise InputError("A value is out of range.", where=name, expected=f"{low} … {high}", got=f"{value:g}")
        check_precision(self.precision, self.calibration, self.opset, tf32=self.tf32)
        check_devices()
        if self.engine is None:
            return self
        return replace(self, engine=check_compile(replace(self.engine, precision=self.precision, tf32=self.tf32)))


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        seconds: Wall time of the whole export.
        precision: The typed model and how its types were chosen; None where only fp32 was asked for.
    """

    path: Path
    manifest: Manifest
    onnx: OnnxFacts
    parity: ParityReport
    seconds: float
    precision: PrecisionReport | None = None


def bundle_from_checkpoint(
    checkpoint: Path,
    prompts: Path | Prompts,
    out: Path,
    options: ExportOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """As ``medprompt.export_bundle``, with the options in one object.

    Raises:
        InputError: A checkpoint, prompts file (one with ``ensemble:`` too), image or option that cannot be used;
            nothing is written.
        ParityError: The exported model decides otherwise than PyTorch; nothing is written.
    """
    options = (options or ExportOptions()).checked()
    progress = progress or Silent()
    started = time.perf_counter()
    read = prompts if isinstance(prompts, Prompts) else prompts_from_yaml(prompts)
    _refuse_ensemble(read)
    compared = parity_images(options.images)
    read_files = [checkpoint, prompts if isinstance(prompts, Path) else None, options.about, *options.imported.paths]
    searched = [path for path in (options.images, options.calibration) if path is not None]
    with (
        folder_written_aside(out, "a bundle", inputs=read_files, images=searched, force=force) as folder,
        usable_checkpoint(Path(checkpoint), options.imported) as usable,
    ):
        progress.step("load checkpoint")
        family = _family(usable, options, compared)
        licences = licence_files(usable, type(family))
        progress.step("embed prompts", len(read.texts))
        bank = bank_from_prompts(family, read)
        queries = try_out(family, bank, next(iter(compared)))
        progress.step("export to ONNX")
        manifest, facts = _write_model(family, bank, queries, usable, folder, options)
        for path in licences:
            shutil.copyfile(path, folder / path.name)
        references = references_of_images(family, read, manifest.postprocess, compared, progress)
        threshold = bank.least_threshold(manifest.default_threshold)
        check = ParityCheck(family, folder, compared, references, threshold, progress)
        report = _prove(check, manifest)
        cost = cost_of_one_size(check, read, manifest.postprocess)
        report = replace(report, one_size=cost)
        warnings = (*manifest.warnings, *stretch_warning(cost))
        manifest = manifest.model_copy(update={"engines": report.engines, "warnings": warnings})
        exact = tf32_record(check) if options.tf32 else None
        typed = typed_bundle_model(check, options.precision, options.calibration, tf32=options.tf32)
        manifest = manifest.model_copy(update={"tf32": _tf32_of(exact, typed)})
        if typed is not None:
            write_manifest(folder, manifest)  # an engine loads no file that is not listed
            more = typed_engines(check, typed.model)
            manifest = manifest.model_copy(update={"engines": (*manifest.engines, *more)})
        if options.engine is not None:
            manifest = add_engine(folder, manifest, bank, options.engine, progress)
        _record_site(check, bank, manifest, options)
        progress.step("write documents")
        _write_documents(folder, manifest, read, facts, report)
        write_manifest(folder, manifest)
    return ExportReport(Path(out), manifest, facts, report, time.perf_counter() - started, typed)


def _tf32_of(exact: ParityRecord | None, typed: PrecisionReport | None) -> dict[str, ParityRecord]:
    """Decisions with TF32 products, by precision, where they were asked for."""
    chosen = None if typed is None else typed.rounded or typed.typed
    if exact is None:
        return {}
    return {"fp32": exact} | ({typed.plan.asked: chosen} if typed is not None and chosen is not None else {})


def _refuse_ensemble(prompts: Prompts) -> None:
    """An export is proven against transformers, which takes texts: it has no answer for a mean of embeddings."""
    if prompts.ensemble is not None:
        raise PromptError(
            "An export is proven on phrases that transformers take; a mean of embeddings is not one.",
            where=f"ensemble: {prompts.ensemble}",
            fix="export without 'ensemble:'; then medprompt prompts embed CHECKPOINT --prompts P.yaml --out BANK, "
            "and medprompt infer BUNDLE --prompts BANK: the bank needs no export",
        )


def _family(checkpoint: Path, options: ExportOptions, images: ParityImages) -> Family:
    """Load, and see that the model takes the images; where one size serves all of them, take the processor's for it.

    Raises:
        ImageError: An image that is too long and thin, see ``model_hw``.
    """
    family = family_from_checkpoint(checkpoint, options.image_size, image_processor=options.image_processor)
    if options.padding is not None:
        family.pad_with(PADDING[options.padding])
    if family.image_size.follows:
        for image in images:
            model_hw((image.shape[0], image.shape[1]), family.preprocess())
        return family
    if options.image_size is not None or options.images is None or not family.image_size.warning:
        return family
    sizes = {(image.shape[0], image.shape[1]) for image in images}
    if len(sizes) == 1:
        size_hw = family.size_for_image(sizes.pop())
        if min(size_hw) < LEAST_SIDE:
            raise InputError(
                "The images are too narrow for the model at their own aspect ratio.",
                where="images",
                expected=f"at least {LEAST_SIDE} pixels each way as the model sees them",
                got="{}x{}".format(*size_hw),
                fix="image_size=HEIGHTxWIDTH, or other images",
            )
        family.image_size = family.choose_size(size_hw)
    return family


def _write_model(
    family: Family, bank: PromptBank, queries: int, checkpoint: Path, folder: Path, options: ExportOptions
) -> tuple[Manifest, OnnxFacts]:
    inputs, preprocess = input_specs(family), family.preprocess()
    chosen = Postprocess(
        top_k=min(family.top_k if options.top_k is None else options.top_k, queries),
        queries=queries,
        pooling=bank.prompts.pooling,
        token_rule=family.token_rule,
        labels_per_query=family.labels_per_query,
        nms_iou=family.rules.nms_iou if options.nms_iou is None else options.nms_iou,
    )
    post = family.postprocess(chosen)
    graph = DetectionGraph(family.core(), inputs, preprocess, post)
    outputs = output_specs(post.top_k, family.mask_hw)
    if post.phrases_at_once is None:
        facts = onnx_from_graph(graph, inputs, outputs, folder / MODEL_FILE, options.opset)
    else:
        facts = onnx_in_parts(graph, inputs, outputs, folder / MODEL_FILE, options.opset, onnx_from_graph)
    save_bank(bank, folder / BANK_FILE)
    source = import_record(checkpoint)
    stated = {} if options.intended_use is None else {"intended_use": options.intended_use.strip()}
    manifest = Manifest(
        family=family.model.config.model_type,
        architecture=family.architecture,
        checkpoint=real_path(checkpoint).name,
        checkpoint_sha256=checkpoint_sha256(checkpoint),
        source=source,
        about=about_file(options.about) if options.about else about_checkpoint(checkpoint),
        **stated,
        encoder=bank.encoder,
        inputs=inputs,
        outputs=outputs,
        preprocess=preprocess,
        postprocess=post,
        default_threshold=options.threshold,
        opset=options.opset,
        prompt_summary=prompt_summary(bank),
        tolerances=dict(family.tolerances),
        versions=library_versions(),
        max_text_tokens=family.max_text_tokens,
        warnings=(
            *family.warnings(post),
            *(source.warnings if source else ()),
            *phrase_warnings(family, bank.prompts.texts),
            *channel_warnings(family.model),
        ),
    )
    return manifest, facts


def _prove(check: ParityCheck, manifest: Manifest) -> ParityReport:
    """Write the golden file and a first manifest, then compare with PyTorch."""
    kept = check.images.golden_indices()
    golden = [image for index, image in enumerate(check.images) if index in kept]
    save_golden(check.folder / GOLDEN_FILE, golden, [check.references[index] for index in kept])
    write_manifest(check.folder, manifest)
    return check_parity(check)


def _record_site(check: ParityCheck, bank: PromptBank, manifest: Manifest, options: ExportOptions) -> None:
    """Record what the images look like, of those compared or else of those for calibration; nothing of drawn ones."""
    images, references = check.images, check.references
    if options.images is None and options.calibration is not None:
        images = parity_images(options.calibration)
        references = references_of_images(check.family, bank.prompts, manifest.postprocess, images, check.progress)
    if options.images is None and options.calibration is None:
        return
    check.progress.step("record the images' figures", len(images))
    record = site_record(images, references, bank, manifest.default_threshold, images.source)
    write_record(check.folder / SITE_FILE, record)


def _write_documents(
    folder: Path, manifest: Manifest, prompts: Prompts, facts: OnnxFacts, report: ParityReport
) -> None:
    (folder / REPORT_FILE).parent.mkdir(exist_ok=True)
    (folder / REPORT_FILE).write_text(json.dumps(report.summary(), indent=2) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(manifest, prompts, facts), encoding="utf-8")
    (folder / LICENCES_FILE).write_text(licence_list(manifest), encoding="utf-8")
    (folder / SBOM_FILE).write_text(json.dumps(sbom_of_folder(folder, manifest), indent=2) + "\n", encoding="utf-8")
