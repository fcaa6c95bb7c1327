"""What Ray's workers do: files are read and decoded by one kind, pictures answered by the other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from medprompt.core.errors import ImageError, MedpromptError
from medprompt.core.frames import FramePolicy
from medprompt.core.picture import Picture
from medprompt.images.file import ImageFile
from medprompt.images.sources import Source, find_sources
from medprompt.results.run import Item
from medprompt.runtime.batch import batch_of, detect_item, failed_item, run_item, run_of
from medprompt.runtime.detector import Detector
from medprompt.runtime.pipeline import Steps, in_flight
from medprompt.runtime.serving.ray_files import bytes_of
from medprompt.runtime.strategies import Prompting


@dataclass(frozen=True)
class Unit:
    """A file to read: which of its frames, and how many it has; a URI without any is looked into when it is read."""

    file: str
    of: int = 1
    frames: tuple[int, ...] = ()

    @property
    def keys(self) -> Iterator[int | None]:
        """Frames as rows name them."""
        return (source.number for source in self.sources())

    def sources(self) -> list[Source]:
        """The frames."""
        return [Source(Path(self.file), frame, self.of) for frame in self.frames]


@dataclass(frozen=True)
class _Read:
    """What came of reading a frame: its item, and the picture; without one the item says what came instead."""

    item: Item
    picture: Picture | None = None
    name: str = ""

    def row(self) -> dict[str, list[Any]]:
        """As a row of a Ray data set."""
        item, picture = self.item, self.picture
        pixels = np.zeros((0, 0, 3), np.uint8) if picture is None else np.ascontiguousarray(picture.pixels)
        about = {
            "file": self.name or str(item.path),
            **{name: getattr(item, name) for name in ("frame", "sha256", "error", "code")},
            "picture": picture and {"warnings": picture.warnings, "dicom": picture.dicom, "shape": pixels.shape},
        }
        return {"about": [json.dumps(about)], "pixels": [pixels.tobytes()]}

    @classmethod
    def from_row(cls, about: dict[str, Any], pixels: bytes) -> _Read:
        """The other way."""
        name, shown = about.pop("file"), about.pop("picture")
        item = Item(Path(name), None, **about)
        if shown is None:
            return cls(item, name=name)
        image = np.frombuffer(pixels, np.uint8).reshape(shown["shape"])
        return cls(item, Picture(image, warnings=tuple(shown["warnings"]), dicom=shown["dicom"]), name)


class Reader:
    """Reads and decodes the frames of one file: rows of ``_Read``, or of the kind of a file that is no image."""

    def __init__(self, policy: FramePolicy) -> None:
        self.policy = policy

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Read files: the JSON text of a ``Unit`` each."""
        for text in batch["unit"]:
            unit = Unit(**json.loads(text))
            try:
                yield from (one.row() for one in _read(unit.sources())) if unit.frames else self._fetched(unit.file)
            except MedpromptError as error:  # of the run, not of a file: as a row, for Ray would wrap it
                yield _told("failure", str(error))

    def _fetched(self, uri: str) -> Iterator[dict[str, list[Any]]]:
        """A file of an object store is read like one in a folder of its own."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(unquote(urlsplit(uri).path)).name)
            passed: list[str] = []
            try:
                path.write_bytes(bytes_of(uri))
                sources = find_sources([folder], self.policy, lambda _, kind: passed.append(kind))
            except ImageError:
                yield _told("passed", passed[0] if passed else "other")
            except OSError as error:
                unread = ImageError("The image cannot be read.", where=uri, got=type(error).__name__)
                yield _Read(failed_item(Item(path, None), unread), name=uri).row()
            else:
                for one in _read(sources):
                    yield replace(
                        one, item=replace(one.item, error=one.item.error.replace(str(path), uri)), name=uri
                    ).row()


def _read(sources: Sequence[Source]) -> Iterator[_Read]:
    """The frames of one file, which is opened once."""
    path = sources[0].path
    try:
        file = ImageFile(path, hold=True)
    except ImageError as error:
        yield from (_Read(failed_item(Item(path, None, frame=one.number), error)) for one in sources)
        return
    with file:
        for source in sources:
            item = Item(path, None, frame=source.number, sha256=file.sha256)
            try:
                yield _Read(item, file.picture(source.frame))
            except Exception as error:
                yield _Read(failed_item(item, error))


class Answerer:
    """Detects in pictures that were read; a row an item as results JSON has it, or what was passed over or failed."""

    columns = ("item", "head", "passed", "failure")

    def __init__(self, loading: Mapping[str, Any], prompting: Prompting) -> None:
        self.prompting, self.failure = prompting, ""
        try:
            self.detector = Detector.load(**loading)
        except MedpromptError as error:
            self.failure = str(error)

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Answer rows of ``_Read``: an Arrow table of ``columns``."""
        rows = [{"failure": self.failure}]
        if not self.failure:
            try:
                rows = list(self._rows(batch))
            except MedpromptError as error:
                rows = [{"failure": str(error)}]
        return _text_table(self.columns, rows)

    def _rows(self, batch: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """The first row has the head too: with what this worker serves."""
        content = run_of(self.detector, self.prompting, (), complete=False).as_json()
        head = json.dumps({name: value for name, value in content.items() if name not in ("items", "video")})
        works = map(self._steps, map(json.loads, batch["about"]), batch["pixels"])
        for row in in_flight(self.detector, works, batch=batch_of(self.detector)):
            yield {**row, "head": head}
            head = ""

    def _steps(self, about: dict[str, Any], pixels: bytes) -> Steps[dict[str, str]]:
        if "file" not in about:
            return about
        read = _Read.from_row(about, pixels)
        item = read.item
        if read.picture is not None:
            item = yield from run_item(item, detect_item(self.detector, self.prompting, item, read.picture))
        return {"item": json.dumps({**item.as_json(), "file": read.name}, allow_nan=False)}


def _text_table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.array([row.get(name, "") for row in rows], pa.string()) for name in columns})


def _told(name: str, text: str) -> dict[str, list[Any]]:
    """A row that is about no image."""
    return {"about": [json.dumps({name: text})], "pixels": [b""]}
