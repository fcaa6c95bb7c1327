"""Detect in very many images, on many machines: Ray reads and decodes, an actor an accelerator detects.

The driver alone writes, so that each image has its row once, whatever is killed: Ray repeats what a lost worker did
not hand over, and what the driver had not written is done again when the run is resumed.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medprompt.bundles.load import load_bundle
from medprompt.bundles.signing import check_signature
from medprompt.core.errors import EngineError, InputError, in_one_line, need_module
from medprompt.core.frames import FramePolicy, frame_policy_from_text
from medprompt.core.outputs import Output, reserve_outputs
from medprompt.core.progress import Progress, Silent
from medprompt.images.sources import Source, find_sources
from medprompt.prompts.bank import PromptBank
from medprompt.runtime.infer import InferOptions, prompting_of, read_beside_images
from medprompt.runtime.selection.serving_options import Banks, resolve_bank
from medprompt.runtime.serving.ray_cluster import LOCAL, READ_CPUS, cluster_of, resources_of
from medprompt.runtime.serving.ray_files import files_below, is_same, is_uri
from medprompt.runtime.serving.ray_workers import Answerer, Reader, Unit
from medprompt.runtime.strategies import Prompting

FILES_A_TASK = 32
IMAGES_A_BATCH = 16

PART_IMAGES = 5000
PART_S = 30.0
"""A part is written after so many images or seconds: what a killed driver loses at most."""

RETRIES = 3
"""How often a task is tried again whose worker died: an image that always kills its worker ends the run."""

BLOCK_BYTES = 1 << 25
"""Bytes of decoded images that are handed on together."""

SERVED = (
    *("out", "resume", "force", "prompts", "labels", "select", "threshold", "frames", "tile", "tile_overlap"),
    *("device", "threads", "strict", "self_test", "key"),
)
"""Options of ``infer`` that a run on many machines has."""


@dataclass(frozen=True)
class RayRun:
    """What a run on Ray came to: the folder, images by status, and those done in this very run."""

    out: Path
    images: int
    by_status: Mapping[str, int]
    detections: int
    run: int
    passed_over: Mapping[str, int]
    engine: str

    @property
    def failed(self) -> int:
        """Images about which nothing is known."""
        return sum(count for status, count in self.by_status.items() if status in ("REJECTED", "ERROR"))

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "out": str(self.out), "failed": self.failed}


def infer_on_ray(
    bundle: Path | str,
    images: Sequence[Path | str],
    options: InferOptions,
    address: str = LOCAL,
    workers: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> RayRun:
    """Detect in files with many workers; ``out`` becomes a folder of Parquet parts, see ``parquet``.

    Args:
        bundle: The bundle's folder, which every machine has under this path.
        images: Files and folders that every machine has under these paths, or URIs (``s3://BUCKET/PREFIX``).
        options: As of ``infer``, those in ``SERVED``.
        address: ``local``; a cluster's address as ``ray.init`` takes it; ``auto`` for the one this machine belongs to.
        workers: Detectors; where None one a GPU, or else one for each ``threads`` (1 where None) cores.
        progress: Told about each image.
        warn: Told what the user should know.

    Raises:
        InputError: An option that is not served, no such files, an ``out`` that may not be written to, or that is of
            another bundle, other prompts or another engine.
        EngineError: Ray is not installed, does not answer, or gives a worker up; or a worker cannot load the bundle.
    """
    need_module("ray", "Detection on many machines", "ray", "ray")
    from medprompt.runtime.serving.parquet import RESULTS_FOLDER, ResultsFolder

    _check_options(options)
    policy = frame_policy_from_text(options.frames)
    loaded = load_bundle(bundle)
    if options.key:
        check_signature(loaded, options.key)
    bank = resolve_bank(loaded, options.prompts, options.labels)
    passed: dict[str, int] = {}
    out = Path(options.out or "")
    local = [Path(one) for one in images if not is_uri(one)]
    prompting = prompting_of(options, (), bank, warn)
    output = Output(out, RESULTS_FOLDER, force=options.resume)
    with reserve_outputs({"out": output}, [*local, *read_beside_images(bundle, options)], force=options.force):
        folder = ResultsFolder(out)
        if options.resume:
            _check_head(folder, {"bundle_sha256": loaded.sha256, "bank_sha256": bank.content_hash()})
        work = _Work(folder, options, policy, progress or Silent(), passed)
        units = work.units(images)
        with cluster_of(address):
            if not options.resume:  # not before there is something to run on
                folder.remove()
            loading = {
                "bundle": str(Path(bundle).absolute()),
                # Banks by path: they are not sent to each worker.
                "prompts": _absolute(options.prompts),
                **{name: getattr(options, name) for name in ("labels", "device", "threshold", "threads", "strict")},
                "self_test": options.self_test or None,
            }
            done = work.run(units, loading, prompting, workers)
    if passed:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
        warn(f"passed over, and not analysed: {counts}")
    return done


@dataclass
class _Work:
    """One run: the folder, what is left to do, and what was passed over."""

    folder: Any
    options: InferOptions
    policy: FramePolicy
    progress: Progress
    passed: dict[str, int]

    def units(self, images: Sequence[Path | str]) -> list[Unit]:
        """Local files with the frames to look at, and the URIs of others."""
        remote = [uri for one in images if is_uri(one) for uri in files_below(str(one))]
        local = [Path(one).absolute() for one in images if not is_uri(one)]
        frames: dict[Path, list[Source]] = {}
        for source in find_sources(local, self.policy, self._pass) if local else ():
            if source.video:
                raise InputError("A video is analysed alone.", where=str(source.path), fix="leave ray= out")
            frames.setdefault(source.path, []).append(source)
        return [
            *(Unit(str(path), own[0].frames, tuple(one.frame for one in own)) for path, own in frames.items()),
            *map(Unit, remote),
        ]

    def _pass(self, path: Path, kind: str) -> None:
        self.passed[kind] = self.passed.get(kind, 0) + 1

    def run(
        self, units: Sequence[Unit], loading: Mapping[str, Any], prompting: Prompting, workers: int | None
    ) -> RayRun:
        """Take over what is done, do the rest, and say that all was come to."""
        from medprompt.runtime.serving.parquet import named

        keys = self._taken_over()
        self.folder.keep(frozenset(keys))
        done = {file for file, _ in keys}
        todo = [one for one in units if not one.frames or any((named(one.file), key) not in keys for key in one.keys)]
        todo = [one for one in todo if one.frames or named(one.file) not in done]
        self.progress.step("detect", sum(max(1, len(one.frames)) for one in todo))
        # Closed while Ray is still there: what of a run is left behind it ends in a crash.
        with closing(_answers(todo, loading, prompting, self.policy, workers, len(units))) as answers:
            count = self._write_all(answers, keys)
        self.folder.write_head({**(self.folder.head() or {}), "complete": True, "passed_over": self.passed})
        return self._summary(count)

    def _taken_over(self) -> set[tuple[str, int | None]]:
        """Images that earlier parts answered and whose content is still the same."""
        import ray

        table = self.folder.images()
        rows = table.select(["file", "frame", "sha256", "detections"]).to_pylist()
        answered_rows = [row for row in rows if row["detections"] is not None]
        if not answered_rows:
            return set()
        hashes = {row["file"]: row["sha256"] for row in answered_rows}
        self.progress.step("compare with the earlier run", len(hashes))
        listed = [{"file": file, "sha256": sha256} for file, sha256 in hashes.items()]
        same = set()
        for row in ray.data.from_items(listed, override_num_blocks=_blocks(len(listed))).filter(is_same).iter_rows():
            same.add(row["file"])
            self.progress.advance()
        return {(row["file"], row["frame"]) for row in answered_rows if row["file"] in same}

    def _write_all(self, answers: Iterator[Mapping[str, Any]], keys: set[tuple[str, int | None]]) -> int:
        """Write parts as answers come; what is there already is left out, so that no image is there twice."""
        from medprompt.runtime.serving.parquet import named

        waiting: list[Mapping[str, Any]] = []
        written_at, count = time.monotonic(), 0
        try:
            for row in answers:
                _raise_failure(row)
                if row["head"]:
                    self._take_head(json.loads(row["head"]))
                if row["passed"]:
                    self._pass(Path(), row["passed"])
                    continue
                item = json.loads(row["item"])
                key = (named(item["file"]), item["frame"])
                if key in keys:
                    continue
                keys.add(key)
                waiting.append(item)
                count += 1
                self.progress.advance()
                if len(waiting) >= PART_IMAGES or time.monotonic() - written_at >= PART_S:
                    self.folder.add(waiting)
                    waiting, written_at = [], time.monotonic()
        finally:
            if waiting:
                self.folder.add(waiting)
        return count

    def _take_head(self, head: Mapping[str, Any]) -> None:
        known = self.folder.head()
        if known is None:
            self.folder.write_head({**head, "parquet": 1, "complete": False})
        else:
            _check_head(self.folder, {name: head[name] for name in _COMPARED})

    def _summary(self, count: int) -> RayRun:
        import pyarrow.compute as pc

        images = self.folder.images()
        statuses = {one["values"]: one["counts"] for one in pc.value_counts(images["status"]).to_pylist()}
        found = pc.sum(images["detections"]).as_py() or 0
        engine = (self.folder.head() or {}).get("engine", "")
        return RayRun(self.folder.path, images.num_rows, statuses, found, count, dict(self.passed), engine)


_COMPARED = ("schema_version", "bundle_sha256", "bank_sha256", "prompting", "tiling", "engine", "versions", "classes")


def _check_head(folder: Any, head: Mapping[str, Any]) -> None:
    """Refuse to go on with other means than those of the parts that are there."""
    known = folder.head()
    differs = [name for name, value in head.items() if known and known.get(name) != value]
    if differs:
        raise InputError(
            "The results here were made with other means, or workers do not serve alike.",
            where=f"{folder.path}: {', '.join(differs)}",
            expected=str(known[differs[0]])[:200] if known else "",
            got=str(head[differs[0]])[:200],
            fix="choose another out=, name one engine with device=, or start anew with force=True, without resume=True",
        )


def _raise_failure(row: Mapping[str, Any]) -> None:
    if row["failure"]:
        raise EngineError(
            "A worker cannot serve the bundle.",
            where="ray",
            got=row["failure"],
            fix="every machine needs medprompt, the engine's extra and the bundle under this path",
        )


def _answers(
    units: Sequence[Unit],
    loading: Mapping[str, Any],
    prompting: Prompting,
    policy: FramePolicy,
    workers: int | None,
    images: int,
) -> Generator[Mapping[str, Any]]:
    """The rows of ``Answerer``, as they come.

    Raises:
        EngineError: Ray gave up.
    """
    import ray

    if not units:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.target_max_block_size = False, BLOCK_BYTES
    resources, count = resources_of(ray.cluster_resources(), loading["threads"], workers)
    rows = [{"unit": json.dumps(vars(one))} for one in units]
    read = ray.data.from_items(rows, override_num_blocks=_blocks(len(units))).map_batches(
        Reader(policy), batch_size=1, num_cpus=READ_CPUS
    )
    with warnings.catch_warnings():
        # No parameter of its own says how often; by Ray 2.64, which the extra leaves out, it goes.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        answers = read.map_batches(
            Answerer,
            fn_constructor_kwargs={"loading": {**loading, "images": images}, "prompting": prompting},
            batch_size=IMAGES_A_BATCH,
            compute=ray.data.ActorPoolStrategy(size=count),
            max_task_retries=RETRIES,
            **resources,
        )
    try:
        yield from answers.iter_rows()
    except (ray.exceptions.RayError, OSError) as error:
        raise EngineError(
            "Ray gave the run up; what was written stays, and resume=True goes on from there.",
            where="ray",
            got=f"{type(error).__name__}: {in_one_line(str(error).strip())}"[:300],
            fix="see Ray's logs (`ray logs`); fewer workers= need less memory",
        ) from error


def _absolute(prompts: Banks | None) -> Banks | None:
    """Prompts as every worker finds them."""
    if isinstance(prompts, str | Path):
        return Path(prompts).absolute()
    if prompts is None or isinstance(prompts, PromptBank):
        return prompts
    return [one if isinstance(one, PromptBank) else Path(one).absolute() for one in prompts]


def _blocks(rows: int) -> int:
    return max(1, -(-rows // FILES_A_TASK))


def _check_options(options: InferOptions) -> None:
    """Refuse what a run on many machines has not."""
    unserved = [
        field.name
        for field in fields(InferOptions)
        if field.name not in SERVED and getattr(options, field.name) != field.default
    ]
    if unserved:
        raise InputError(
            "Not with ray.", where=", ".join(unserved), fix="leave it out; the rows in out= have what it would write"
        )
    if options.out is None:
        raise InputError("The results need a folder.", where="out", fix="pass out=FOLDER, for Parquet parts")
