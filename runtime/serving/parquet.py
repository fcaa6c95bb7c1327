"""A results folder of a run over many images: Parquet parts, written once, with a row an image and a row a detection.

``images/part-N.parquet`` is written after ``detections/part-N.parquet`` and says that both are whole. So whatever a
kill leaves, an image counts exactly when its row is there, and its detections are then there as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from medprompt.core.errors import InputError
from medprompt.core.files import ASIDE, atomic_write, write_json
from medprompt.core.output_kinds import Kind

RUN = "run.json"
"""With what the images were analysed, and whether all were come to."""

IMAGES = pa.schema(
    [
        ("file", pa.string()),
        ("frame", pa.int32()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("code", pa.string()),
        ("error", pa.string()),
        ("warnings", pa.list_(pa.string())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("detections", pa.int32()),
        ("prompt_set", pa.string()),
        ("dicom", pa.string()),
    ]
)
"""A row an image, or a frame of a file of many; ``detections`` is null where nothing is known about it."""

DETECTIONS = pa.schema(
    [
        ("file", pa.string()),
        ("frame", pa.int32()),
        ("place", pa.int32()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("left", pa.float64()),
        ("top", pa.float64()),
        ("right", pa.float64()),
        ("bottom", pa.float64()),
        ("phrase", pa.string()),
    ]
)
"""A row a detection; ``place`` is its place among its image's, from 0; the box in source pixels. Where there are masks,
``segmentation`` is its COCO run lengths as text, of the image's height and width."""

SEGMENTATION = pa.field("segmentation", pa.string())


def named(path: Path | str) -> str:
    """A file's name as rows have it: bytes that are no UTF-8 are escaped, for Parquet has no other text."""
    return str(path).encode(errors="backslashreplace").decode()


Row = Mapping[str, Any]
Key = tuple[str, int | None]


def image_rows(items: Iterable[Row]) -> Iterator[Row]:
    """Rows of ``images`` for items as results JSON has them."""
    for item in items:
        height, width = item["size_hw"] or (None, None)
        found = item["detections"]
        yield {
            **{name: item[name] for name in ("frame", "sha256", "status", "code")},
            "file": named(item["file"]),
            "error": item["error"] and named(item["error"]),
            "warnings": [named(text) for text in item["warnings"]],
            "height": height,
            "width": width,
            "detections": None if found is None else len(found),
            **{
                name: json.dumps(item[name], sort_keys=True) if item[name] else None for name in ("prompt_set", "dicom")
            },
        }


def detection_rows(items: Iterable[Row]) -> Iterator[Row]:
    """Rows of ``detections`` for items as results JSON has them."""
    for item in items:
        for place, one in enumerate(item["detections"] or ()):
            sides = dict(zip(("left", "top", "right", "bottom"), one["box_xyxy"], strict=True))
            known = {"file": named(item["file"]), "frame": item["frame"], "place": place}
            mask = {SEGMENTATION.name: one["segmentation"]["counts"]} if "segmentation" in one else {}
            yield {**known, **sides, **{name: one[name] for name in ("label", "score", "phrase")}, **mask}


@dataclass(frozen=True)
class ResultsFolder:
    """The folder, and what is in it."""

    path: Path

    def head(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None where there is none."""
        try:
            content: dict[str, Any] = json.loads((self.path / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content

    def write_head(self, head: Row) -> None:
        """Write ``run.json``, whole or not at all."""
        write_json(self.path / RUN, head, allow_nan=False)

    def add(self, items: Sequence[Row]) -> None:
        """Write one more part.

        Raises:
            InputError: The folder cannot be written to, or the disk is full.
        """
        last = max((_number(path) for path in self._parts("images")), default=-1)
        name = f"part-{last + 1:06}.parquet"
        rows = list(detection_rows(items))
        schema = DETECTIONS.append(SEGMENTATION) if any(SEGMENTATION.name in row for row in rows) else DETECTIONS
        _write(self.path / "detections" / name, pa.Table.from_pylist(rows, schema))
        _write(self.path / "images" / name, pa.Table.from_pylist(list(image_rows(items)), IMAGES))

    def images(self) -> pa.Table:
        """All rows of images."""
        return _all(self._parts("images"), IMAGES)

    def detections(self) -> pa.Table:
        """All rows of detections."""
        return _all(self._parts("detections"), DETECTIONS)

    def keep(self, keys: frozenset[Key]) -> None:
        """Take out what is of other images, and what a kill left: detections whose image has no row."""
        whole = {path.name for path in self._parts("images")}
        for path in self._parts("detections"):
            if path.name not in whole:
                path.unlink()
        for path in self._parts("images"):
            kept = _of(_read(path), keys)
            if kept.num_rows < parquet.read_metadata(path).num_rows:
                _write(path, kept)
            beside = self.path / "detections" / path.name
            found = _read(beside)
            mine = _of(found, frozenset(_keys(kept)))
            if mine.num_rows < found.num_rows:
                _write(beside, mine)

    def remove(self) -> None:
        """Remove the folder with all that is in it; it was checked to be ours."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def _parts(self, table: str) -> list[Path]:
        return sorted((self.path / table).glob("part-*.parquet"))


def _foreign(folder: Path) -> str:
    """The first file that is none of a results folder's; the folder where it is none."""
    head = ResultsFolder(folder).head() or {}
    if not {"schema_version", "bundle_sha256", "parquet"} <= head.keys():
        return str(folder)
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        own = (
            str(place) == RUN
            or ASIDE in path.name
            or (path.is_dir() and str(place) in ("images", "detections"))
            or (len(place.parts) == 2 and place.parts[0] in ("images", "detections") and path.match("part-*.parquet"))
        )
        if path.is_symlink() or not own:
            return str(path)
    return ""


RESULTS_FOLDER = Kind("a results folder of infer --ray", _foreign, folder=True)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def _write(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as aside:
        parquet.write_table(table, aside)


def _read(path: Path) -> pa.Table:
    try:
        return parquet.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            "A part of the results cannot be read.",
            where=str(path),
            expected="a part that medprompt wrote",
            got=type(error).__name__,
            fix="run again with force=True, without resume=True",
        ) from error


def _all(parts: Sequence[Path], schema: pa.Schema) -> pa.Table:
    tables = [_read(path) for path in parts]  # of those without a detection, none says that there are masks
    return pa.concat_tables(tables, promote_options="default") if parts else schema.empty_table()


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(table["file"].to_pylist(), table["frame"].to_pylist(), strict=True))


def _of(table: pa.Table, keys: frozenset[Key]) -> pa.Table:
    return table.filter(pa.array([key in keys for key in _keys(table)], pa.bool_()))


def sorted_rows(table: pa.Table) -> pa.Table:
    """The rows by file, frame and place, in one chunk: equal for equal results, whatever order they came in."""
    by = [(name, "ascending") for name in ("file", "frame", "place") if name in table.column_names]
    return table.take(pc.sort_indices(table, sort_keys=by)).combine_chunks()
