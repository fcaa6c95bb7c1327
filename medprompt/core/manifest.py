"""What a bundle says about itself: ``manifest.json``, one pydantic model a table of the file."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from medprompt.core.models import FrozenModel

SCHEMA_VERSION = 2

Source = Literal[
    "image",
    "resize_rows",
    "resize_cols",
    "phrase",
    "token",
    "shared",
    "block_bias",
    "phrase_tokens",
    "phrase_to_class",
    "output",
    "boxes",
]


class TensorSpec(FrozenModel):
    """One graph input or output.

    Attributes:
        name: Tensor name in the graph.
        dtype: numpy name of the element type.
        shape: Sizes; a string names a dynamic axis (B batch, P phrases, T text tokens, L tokens of the
            longest phrase, C classes, H and W source image size, h and w the model's image size).
        source: Where the runtime takes an input from. ``phrase``, ``token`` and ``shared`` are bank tensors
            of that layout under the same name; the rest is computed (see ``prompts/assemble.py``).
    """

    name: str
    dtype: Literal["uint8", "int64", "float32", "float16"]
    shape: tuple[int | str, ...]
    source: Source = "output"


class OwnSize(FrozenModel):
    """The size that the checkpoint's own image processor would give a source, in pixels: fixed, or by a limit.

    Attributes:
        height, width: Of every source.
        shortest_edge, longest_edge: The aspect ratio is kept; the shorter edge becomes ``shortest_edge``, or less where
            the longer would be over ``longest_edge``.
        max_height, max_width: The aspect ratio is kept; the image is the largest that both allow.
    """

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    max_height: int | None = None
    max_width: int | None = None

    def __str__(self) -> str:
        names = {name: value for name, value in self if value is not None}
        return ", ".join(f"{name} {value}" for name, value in names.items())


class Preprocess(FrozenModel):
    """How an image becomes the graph's ``image`` input.

    Attributes:
        size_hw: Height and width of the model's image in pixels; where ``sizes`` is ``own``, those of a square source.
        resample: ``bicubic``, ``bilinear`` and ``lanczos`` are antialiased filters, ``nearest`` takes one pixel;
            ``zoom`` is OWLv2's gaussian blur plus linear interpolation.
        backend: Whose resize it is: the taps and the rounding of ``pillow`` (with ``zoom``: scipy) or ``torchvision``.
        rounds: Whether the resized image is rounded to uint8; else ``image`` is float32, still in 0 … 255.
        pad: ``square`` extends the source at the bottom or right to a square before resizing.
        pad_value: Level of that border, in the source's 0 … 255.
        rescale_factor, mean, std: Applied in the graph, per RGB channel; recorded for the reader.
        placement: ``host`` where the runtime resizes, ``graph`` where the graph does.
        own_size: What the checkpoint's own processor would do where that can be another size than ``size_hw``. An image
            to which it differs is served with a warning.
        sizes: ``own``: the model's image has the size of ``own_size`` for every source; ``one``: ``size_hw``.
        least_pixels: With ``own``: the model has an answer for images of so many pixels or more.
    """

    size_hw: tuple[int, int]
    resample: Literal["bicubic", "bilinear", "lanczos", "nearest", "zoom"]
    backend: Literal["pillow", "torchvision"] = "pillow"
    rounds: bool = True
    pad: Literal["none", "square"] = "none"
    pad_value: float = Field(default=0.0, ge=0)
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    placement: Literal["host", "graph"] = "host"
    own_size: OwnSize | None = None
    sizes: Literal["one", "own"] = "one"
    least_pixels: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _own_sizes_are_known(self) -> Self:
        if self.sizes == "own" and self.own_size is None:
            raise ValueError("sizes: own needs own_size")
        return self


class Postprocess(FrozenModel):
    """How the graph's outputs become detections.

    Attributes:
        top_k: Detections the graph returns an image, before thresholds.
        queries: How many the model makes, of which ``top_k`` are returned; None where that was not recorded.
        pooling: How the phrases of one class are combined, in score space.
        token_rule: How the tokens of one phrase are combined; None where a phrase is one vector.
        labels_per_query: ``one``: a query answers its best class only; ``many``: one detection a class.
        nms_iou: IoU over which the weaker of two boxes is dropped by the runtime; None: off.
        nms_across_classes: Whether boxes of different classes suppress each other.
        nms_pixels: ``inclusive``: suppression counts a box's last pixel, of the model's image, into its sides.
        score_rule: ``centerness``: √(probability · centerness), and 0, which is no detection, where the probability is
            ``least_probability`` or less. ``sigmoid``: of a logit.
        level_top_k: Detections that each level of a feature pyramid keeps, where they are kept by level.
        max_detections: Most that are left after suppression, and those that tie with the last; None: all.
        min_side: Boxes that are not wider and higher than this are dropped before suppression, in source pixels.
        end_pixels: Added to the right and bottom of every box that is left, in source pixels.
        mask_threshold: Least probability of a mask's pixel; None: the graph has no output ``masks``.
        phrases_at_once: Most phrases that are computed together, where each is computed apart; None: all of a bank.
    """

    top_k: int = Field(gt=0)
    queries: int | None = Field(default=None, gt=0)
    pooling: Literal["max", "mean"] = "max"
    token_rule: Literal["max", "mean"] | None = None
    labels_per_query: Literal["one", "many"] = "one"
    nms_iou: float | None = Field(default=None, gt=0, le=1)
    nms_across_classes: bool = False
    nms_pixels: Literal["exclusive", "inclusive"] = "exclusive"
    score_rule: Literal["sigmoid", "centerness"] = "sigmoid"
    least_probability: float | None = Field(default=None, ge=0, lt=1)
    level_top_k: int | None = Field(default=None, gt=0)
    max_detections: int | None = Field(default=None, gt=0)
    min_side: float | None = Field(default=None, ge=0)
    end_pixels: float = Field(default=0.0, ge=0)
    mask_threshold: float | None = Field(default=None, ge=0, le=1)
    phrases_at_once: int | None = Field(default=None, gt=0)


class Tolerance(FrozenModel):
    """What a bundle may differ from PyTorch.

    Attributes:
        min_kept: Minimum share of reference detections that must be found again.
        min_iou: IoU at which a detection counts as found.
        max_score_delta: Largest score difference of a found detection.
        min_mask_iou: IoU of masks, at the source's size, at which a detection counts as found where there are masks.
    """

    min_kept: float = 0.995
    min_iou: float = 0.95
    max_score_delta: float = 0.01
    min_mask_iou: float = 0.98


class ParityRecord(FrozenModel):
    """The measured agreement of one engine with PyTorch.

    Attributes:
        images: How many images were compared, and ``image_source`` which.
        decisions: Reference detections compared (score at or over ``threshold``; where fewer than 20 reach it,
            the best-scoring ones: ``fallback_top`` says how many an image, else it is 0).
        kept: Share of them found again; ``max_score_delta`` and ``mean_score_delta`` over those found.
        extra: Detections at or over the threshold that the reference does not have.
        tolerance: What was demanded.
        min_mask_iou: Least IoU of the masks of those found again; None where the reference has no masks.
        passed: Whether ``kept`` met it, and ``extra`` stayed within the same share of the decisions.
    """

    images: int
    image_source: str
    threshold: float
    fallback_top: int
    decisions: int
    kept: float
    extra: int
    min_iou: float
    mean_score_delta: float
    max_score_delta: float
    tolerance: Tolerance
    min_mask_iou: float | None = None
    passed: bool


class AxisRange(FrozenModel):
    """Sizes of one dynamic axis that compiled engines are built for: inclusive bounds, and the one to be fastest at."""

    least: int = Field(gt=0)
    typical: int = Field(gt=0)
    most: int = Field(gt=0)


class EngineProfile(FrozenModel):
    """One optimisation profile of an engine: requests of so many images are computed by it.

    Attributes:
        batch: Images a request.
        activation_bytes: GPU memory for one context's activations at its largest sizes, as the builder states it.
    """

    batch: AxisRange
    activation_bytes: int | None = None


class CompiledEngine(FrozenModel):
    """An engine file that was compiled for certain GPUs; no other GPU, version or system may load it.

    Attributes:
        path: Of the engine file, relative to the bundle.
        phrases_path: Of a second file, where the image is computed once for many phrases and ``path`` computes it.
        builder: Python package that compiled it and must load it.
        builder_version: Its version.
        gpus: Compute capabilities, such as ``sm86``.
        gpu_names: Models of GPU that it was compiled on, for ``tensorrt``, whose engines are for one model; empty where
            every model of ``gpus`` may load it.
        system: ``OS-machine`` as ``platform`` names them, such as ``linux-x86_64``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``auto``, ``int8`` or ``fp8``: which typed model it came from.
        tf32: Whether products in fp32 may round their operands to TF32 (10 bits of mantissa); None where that was not
            recorded, and the builder's own default stood: it does.
        model: ONNX file it was compiled from, relative to the bundle.
        axes: Sizes it was compiled for, by axis name (see ``TensorSpec.shape``).
        profiles: Its optimisation profiles, in the builder's order; empty: one, of ``axes``.
        seconds: Build time.
        activation_bytes: GPU memory for one context's activations at the largest sizes, as the builder states it.
    """

    path: str
    phrases_path: str = ""
    builder: Literal["tensorrt", "tensorrt_rtx"]
    builder_version: str
    gpus: tuple[str, ...]
    gpu_names: tuple[str, ...] = ()
    system: str
    precision: str
    tf32: bool | None = None
    model: str
    axes: dict[str, AxisRange]
    profiles: tuple[EngineProfile, ...] = ()
    seconds: float = 0.0
    activation_bytes: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Every engine file, relative to the bundle."""
        return tuple(filter(None, (self.path, self.phrases_path)))


class EngineRecord(FrozenModel):
    """One engine that was tried at export.

    Attributes:
        device: The runtime's name of it, as ``device`` takes it.
        precision: Arithmetic of the engine.
        parity: Its agreement with PyTorch; None where it could not run here (``reason`` says why).
        latency_ms: Median time of the engine on one image, batch 1, at export, on ``machine``.
        load_ms: Time from the bundle's folder to a loaded engine there, its library's import included.
        compiled: The engine file, for devices that need one (``trt``, ``trt-rtx``). Several records may share a device.
    """

    device: str
    precision: str
    parity: ParityRecord | None = None
    latency_ms: float | None = None
    load_ms: float | None = None
    machine: str = ""
    reason: str = ""
    compiled: CompiledEngine | None = None


class FileEntry(FrozenModel):
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


class TrainedRules(FrozenModel):
    """How the project that trained an imported model makes scores of its outputs, and phrases of class names.

    It lies in the checkpoint's config.json, as ``trained_rules``, so that it stays with the weights when they are
    trained further and saved again.

    Attributes:
        token_rule, labels_per_query: See ``Postprocess``; None: the family's own.
        nms_iou: See ``Postprocess``: what an export suppresses by where it is not told; None: nothing.
        names: How a class name becomes words: ``plain`` as it is; ``mmdet`` drops what stands in round brackets and
            makes blanks of underscores and of double blanks.
        closing_stop: Whether a caption ends with a full stop, where that changes what the model reads; None: the
            family's own.
    """

    token_rule: Literal["max", "mean"] | None = None
    labels_per_query: Literal["one", "many"] | None = None
    nms_iou: float | None = Field(default=None, gt=0, le=1)
    names: Literal["plain", "mmdet"] = "plain"
    closing_stop: bool | None = None


class SourceFile(FrozenModel):
    """A file or folder that weights were imported from: its name, and the SHA-256 of its content."""

    name: str
    sha256: str


class ImportRecord(FrozenModel):
    """Where an imported checkpoint's weights come from.

    Attributes:
        format: Of the files, such as ``mmdet-mm-grounding-dino``.
        files: What was read, the weights first.
        weights: Which of several sets of weights in the file was taken, such as ``model_ema``.
        mapping_sha256: Of the table that turned the project's names into the family's; empty where names were kept.
        rules: Of the project that trained it.
        warnings: Where the project's own pipeline may answer otherwise.
    """

    format: str
    files: tuple[SourceFile, ...]
    weights: str = ""
    mapping_sha256: str = ""
    rules: TrainedRules = TrainedRules()
    warnings: tuple[str, ...] = ()


class DataRecord(FrozenModel):
    """A labelled set that weights were trained on, chosen by or measured on.

    Attributes:
        role: ``train``, or ``val``: measured, never trained on.
        images, boxes: How many; None where that was not stated.
        sha256: Of the images' bytes and their boxes, see ``medprompt.export.finetune.sets.data_sha256``.
        licence, source: Its terms (an SPDX name, where there is one) and where it is from; empty: not stated.
    """

    name: str
    role: Literal["train", "val"] = "train"
    images: int | None = None
    boxes: int | None = None
    sha256: str = ""
    licence: str = ""
    source: str = ""


class About(FrozenModel):
    """What only people can say of a model: who answers for it, its terms, and what it was made from.

    Attributes:
        supplier: Who made the weights.
        licence: Terms of the weights (an SPDX name, where there is one).
        limitations: What is known to go wrong, a sentence each.
        references: Addresses of the weights by kind: where they are had, their code, page and paper.
        figures: What training measured on the ``val`` sets, by name; ``medprompt finetune`` writes them.
    """

    supplier: str = ""
    licence: str = ""
    limitations: tuple[str, ...] = ()
    references: dict[Literal["distribution", "vcs", "website", "documentation"], str] = Field(default_factory=dict)
    data: tuple[DataRecord, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict)


class PromptSummary(FrozenModel):
    """What the bundle's prompts are made of; the bank itself holds each phrase's origin.

    Attributes:
        classes, phrases: How many.
        sources: Phrases by source, such as ``{"manual": 3, "mlm": 2}``.
        models: Fingerprints of the models that generated phrases.
        bank_sha256: Content hash of the bank.
    """

    classes: int = Field(gt=0)
    phrases: int = Field(gt=0)
    sources: dict[str, int]
    models: tuple[str, ...] = ()
    bank_sha256: str


class BundleManifest(FrozenModel):
    """What every bundle's ``manifest.json`` says, whatever the bundle is for.

    Attributes:
        source: Where an imported checkpoint came from; None: it was in the form of transformers.
        about: What people stated of the weights.
        inputs, outputs: Of the graph; of a segmenter see there.
        engines: Every engine that was tried at export, and every engine file.
        files: All that the bundle holds, by path; checked before any of it is read.
    """

    schema_version: int = SCHEMA_VERSION
    family: str
    architecture: str
    checkpoint: str
    checkpoint_sha256: str
    source: ImportRecord | None = None
    about: About = About()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    opset: int
    engines: tuple[EngineRecord, ...] = ()
    files: dict[str, FileEntry] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    intended_use: str = "Research use only, not for diagnosis."

    def summary(self) -> dict[str, Any]:
        """The manifest as JSON values, without the file table."""
        return self.model_dump(mode="json", exclude={"files"})


class Manifest(BundleManifest):
    """The whole of a detector's; ``axes`` are by axis name, ``tolerances`` and ``tf32`` by precision.

    ``tf32`` are the decisions of the bundle's models with TF32 products, simulated at export; empty where it was not
    asked for. Only such a model may be compiled with TF32.

    ``max_text_tokens`` is how many text tokens the model reads at once, where phrases share one text: prompts of more
    are refused. None: phrases are read one by one, or it was not recorded.
    """

    encoder: str
    postprocess: Postprocess
    default_threshold: float = Field(default=0.2, ge=0, le=1)
    precision: str = "fp32"
    axes: dict[str, AxisRange] = Field(default_factory=dict)
    max_text_tokens: int | None = Field(default=None, gt=0)
    prompt_summary: PromptSummary | None = None
    tolerances: dict[str, Tolerance] = Field(default_factory=dict)
    tf32: dict[str, ParityRecord] = Field(default_factory=dict)
