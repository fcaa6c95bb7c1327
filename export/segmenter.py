"""A checkpoint that makes masks of boxes in, a segmenter out: proven on boxes, whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprompt.bundles.golden import OBJECT
from medprompt.bundles.load import DECODER_FILE, ENCODER_FILE, GOLDEN_FILE, save_golden, write_manifest
from medprompt.core.detections import Detections
from medprompt.core.errors import EngineError, ParityError
from medprompt.core.files import real_path
from medprompt.core.manifest import EngineRecord, TensorSpec
from medprompt.core.outputs import folder_written_aside
from medprompt.core.progress import Progress, Silent
from medprompt.core.segmenter import SegmenterManifest
from medprompt.export.checkpoint import segmenter_from_checkpoint
from medprompt.export.checkpoint_files import (
    about_checkpoint,
    about_file,
    checkpoint_sha256,
    import_record,
    licence_files,
)
from medprompt.export.documents.sbom import library_versions, licence_list
from medprompt.export.graph.detection_graph import Normalise
from medprompt.export.graph.onnx_export import OnnxFacts, check_opset, onnx_from_graph
from medprompt.export.parity.check import check_devices, describe_parity, parity_devices, precision_of, processor_name
from medprompt.export.parity.images import ParityImages, parity_images
from medprompt.export.segmenters.base import BoxSegmenter
from medprompt.runtime.segmenter import BOXES, MASKS, Segmenter, compare_masks

ROUNDS = 4
"""Timed rounds a device; the first of them warms up and does not count."""

GRID = 3
"""Boxes on which masks are compared: so many a side of the image, and four that are large, long or thin."""

Compared = Sequence[tuple[NDArray[np.uint8], Detections]]


@dataclass(frozen=True)
class SegmenterReport:
    """What an export made: the folder, its manifest, the two graphs, and how long it took in all."""

    path: Path
    manifest: SegmenterManifest
    encoder: OnnxFacts
    decoder: OnnxFacts
    seconds: float


def export_segmenter(
    checkpoint: Path | str,
    out: Path | str,
    *,
    images: Path | str | None = None,
    opset: int = 20,
    intended_use: str | None = None,
    about: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> SegmenterReport:
    """Turn a checkpoint that makes masks of boxes into a segmenter, for ``infer(segment=…)`` and ``Detector.load``.

    Args:
        checkpoint: A folder of ``save_pretrained``: ``Sam3TrackerModel`` and its processor, and its licence.
        out: The folder to make.
        images: Folder of real images to prove the masks on; drawn ones are a weak check.
        opset: ONNX operator set, 18 to 20.
        intended_use: What it is for; research use only where None.
        about: Supplier, licence, limits and data sets of the weights (JSON), where the checkpoint has no about.json.
        force: Replace a bundle that medprompt wrote.
        progress: Told about each step.

    Raises:
        InputError: A checkpoint, image or option that cannot be used; nothing is written.
        ParityError: No engine makes the masks that transformers makes; nothing is written.
    """
    check_opset(opset)
    check_devices()
    folder, progress = Path(checkpoint), progress or Silent()
    started = time.perf_counter()
    compared = parity_images(Path(images) if images else None)
    inputs, searched = [folder, Path(about) if about else None], [Path(images)] if images else []
    with folder_written_aside(Path(out), "a bundle", inputs=inputs, images=searched, force=force) as aside:
        progress.step("load checkpoint")
        model = segmenter_from_checkpoint(folder)
        for path in licence_files(folder, type(model)):
            shutil.copyfile(path, aside / path.name)
        progress.step("export to ONNX")
        stated = {} if intended_use is None else {"intended_use": intended_use.strip()}
        manifest = _manifest(model, folder, opset).model_copy(
            update={"about": about_file(Path(about)) if about else about_checkpoint(folder), **stated}
        )
        facts = _write_graphs(model, manifest, aside)
        pairs = _references(model, compared, progress)
        golden = [pairs[index] for index in compared.golden_indices()]
        save_golden(aside / GOLDEN_FILE, [image for image, _ in golden], [found for _, found in golden])
        write_manifest(aside, manifest)
        engines = prove_segmenter(aside, manifest, pairs, compared.source, progress)
        manifest = manifest.model_copy(update={"engines": engines})
        (aside / "MODEL_CARD.md").write_text(_card(manifest, facts), encoding="utf-8")
        (aside / "LICENCES.md").write_text(licence_list(manifest), encoding="utf-8")
        write_manifest(aside, manifest)
    return SegmenterReport(Path(out), manifest, *facts, time.perf_counter() - started)


def _manifest(model: BoxSegmenter, checkpoint: Path, opset: int) -> SegmenterManifest:
    preprocess, features, source = model.preprocess(), model.feature_specs(), import_record(checkpoint)
    dtype = "uint8" if preprocess.rounds else "float32"
    return SegmenterManifest(
        family=model.model.config.model_type,
        architecture=model.architecture,
        checkpoint=real_path(checkpoint).name,
        checkpoint_sha256=checkpoint_sha256(checkpoint),
        source=source,
        inputs=(
            TensorSpec(name="image", dtype=dtype, shape=(1, *preprocess.size_hw, 3), source="image"),
            TensorSpec(name=BOXES, dtype="float32", shape=("N", 4), source="boxes"),
        ),
        features=features,
        outputs=(TensorSpec(name=MASKS, dtype="float32", shape=("N", *model.mask_hw)),),
        preprocess=preprocess,
        mask_threshold=model.mask_threshold,
        tolerance=model.tolerance,
        opset=opset,
        versions=library_versions(),
        warnings=source.warnings if source else (),
    )


def _write_graphs(model: BoxSegmenter, manifest: SegmenterManifest, folder: Path) -> tuple[OnnxFacts, OnnxFacts]:
    image, boxes = manifest.inputs
    return (
        onnx_from_graph(
            model.encoder(Normalise(manifest.preprocess)),
            (image,),
            manifest.features,
            folder / ENCODER_FILE,
            manifest.opset,
        ),
        onnx_from_graph(
            model.decoder(), (boxes, *manifest.features), manifest.outputs, folder / DECODER_FILE, manifest.opset
        ),
    )


def prompting_boxes(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes to compare masks on, float32 ``[N, 4]`` in pixels: a grid, and a large, a small, a long and a thin one."""
    height, width = size_hw
    sides = list(pairwise(np.linspace(0, 1, GRID + 1)))
    grid = [(left, top, right, bottom) for left, right in sides for top, bottom in sides]
    more = [(0.05, 0.05, 0.95, 0.95), (0.45, 0.5, 0.52, 0.56), (0.1, 0.4, 0.9, 0.5), (0.6, 0.1, 0.66, 0.85)]
    return (np.array([*grid, *more]) * [width, height, width, height]).astype(np.float32)


def _references(model: BoxSegmenter, images: ParityImages, progress: Progress) -> Compared:
    """Each image with its boxes, and the masks that transformers makes of them."""
    progress.step("PyTorch reference", len(images))
    pairs = []
    for image in images:
        size_hw, boxes = (image.shape[0], image.shape[1]), prompting_boxes(image.shape[:2])
        ids, scores = np.zeros(len(boxes), dtype=np.int64), np.ones(len(boxes), dtype=np.float32)
        masks = model.reference(image, boxes)
        pairs.append((image, Detections(boxes, scores, ids, ids, OBJECT, OBJECT, size_hw, masks=masks)))
        progress.advance()
    return pairs


def prove_segmenter(
    folder: Path, manifest: SegmenterManifest, pairs: Compared, source: str, progress: Progress
) -> tuple[EngineRecord, ...]:
    """A record of each device that can run here.

    Raises:
        ParityError: None of them makes transformers' masks.
    """
    records = []
    for device, obstacle in parity_devices().items():
        progress.step(f"parity on {device}")
        records.append(_record(folder, manifest, pairs, source, device, obstacle))
    if not any(record.parity and record.parity.passed for record in records):
        raise ParityError(
            "The exported segmenter makes other masks than PyTorch; no bundle was made.",
            expected=f"transformers' masks on {source}",
            got="; ".join(f"{record.device}: {record.reason}" for record in records),
            fix="use the versions in constraints.txt; report it if it stays",
        )
    return tuple(records)


def _record(
    folder: Path, manifest: SegmenterManifest, pairs: Compared, source: str, device: str, obstacle: str
) -> EngineRecord:
    precision = precision_of(device)
    if obstacle:
        return EngineRecord(device=device, precision=precision, reason=obstacle)
    began = time.perf_counter()
    try:
        with Segmenter.load(folder, device=device, self_test=False) as segmenter:
            load_ms = (time.perf_counter() - began) * 1e3
            parity = compare_masks(manifest, segmenter.engine, pairs, source, device)
            image, found = pairs[0]
            times = [_timed(segmenter, image, found.boxes_xyxy) for _ in range(ROUNDS)]
    except EngineError as error:
        return EngineRecord(device=device, precision=precision, reason=" ".join(str(error).split()))
    return EngineRecord(
        device=device,
        precision=precision,
        parity=parity,
        latency_ms=round(float(np.median(times[1:])), 3),
        load_ms=round(load_ms, 1),
        machine=processor_name(),
        reason="" if parity.passed else describe_parity(parity),
    )


def _timed(segmenter: Segmenter, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> float:
    before = time.perf_counter()
    segmenter(image, boxes_xyxy)
    return 1000 * (time.perf_counter() - before)


def _card(manifest: SegmenterManifest, facts: tuple[OnnxFacts, OnnxFacts]) -> str:
    """The card of a segmenter, as Markdown."""
    rows = [
        f"- {record.device}: {describe_parity(record.parity)}" if record.parity else f"- {record.device}: not run"
        for record in manifest.engines
    ]
    sizes = ", ".join(
        f"{name} {fact.nodes} nodes, {fact.bytes / 1e6:.1f} MB"
        for name, fact in zip(("encoder", "decoder"), facts, strict=True)
    )
    height, width = manifest.preprocess.size_hw
    sections = [
        f"# Model card: {manifest.checkpoint}",
        f"- Architecture: {manifest.architecture} ({manifest.family})\n- Checkpoint SHA-256: "
        f"`{manifest.checkpoint_sha256}`\n- Image: RGB, resized to {height} x {width}\n- ONNX: operator set "
        f"{manifest.opset}, {sizes}",
        "## Intended use",
        f"{manifest.intended_use} It makes a mask of each box that it is given, and knows no classes. Accuracy is not "
        "measured here: parity says that its masks are those of its PyTorch checkpoint, not that either is right.",
        "## Parity with PyTorch",
        "\n".join(rows),
        *(["## Warnings", "\n".join(f"- {warning}" for warning in manifest.warnings)] if manifest.warnings else []),
    ]
    return "\n\n".join(sections) + "\n"
