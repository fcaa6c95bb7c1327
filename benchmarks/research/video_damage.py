"""Damaged videos by the hundred: is a wrong picture shown as sound, or a number or a time off?

Run it as ``python -m medprompt.benchmarks.research.video_damage --count 600 --out rows.jsonl``. Clips of every kind are
made here, damaged, and read as ``infer`` reads them; each frame shown is compared with the undamaged clip's frame of
that number. Seed and number make a file again (``--only NUMBER --keep FILE``); a run that was stopped goes on after the
rows that it wrote.

A wrong frame is *noticed* where another frame of its group of pictures was rejected, else *hidden*: then the damaged
group is a valid one, of other pictures, to all that looks at it. Undamaged clips are read first: a rejected frame of
one is a false alarm, and ends the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.video_damage_inputs import KINDS, damaged, damages_of, make_clip
from medprompt.core.errors import MedpromptError
from medprompt.video.read import Frame, Video

TIME_S = 0.002
"""Times that differ by more are off: containers round to milliseconds."""

COUNTS = ("files", "refused", "shown", "rejected", "hidden", "in files", "noticed", "shifted", "warned", "vanished")
"""Columns of the tables."""


@dataclass(frozen=True)
class Clip:
    """An undamaged clip.

    Attributes:
        name: Of its kind.
        content: Its bytes.
        first: The first byte that may be damaged: that of the first packet.
        twin: Its frames.
    """

    name: str
    content: bytes
    first: int
    twin: Sequence[Frame]


@dataclass(frozen=True)
class Row:
    """What became of one damaged file.

    Attributes:
        number: Of the file; with the seed it makes the file again.
        kind, damage: What it was, and what was done to it.
        refused: Why the whole file was; empty where it was read.
        shown, rejected: How many frames.
        hidden, noticed: Numbers of wrong frames shown without a warning that numbers may be off, by whether a frame of
            their group was rejected.
        shifted: How many frames are another frame of the twin, or have another time, without that warning.
        warned: How many wrong or shifted frames carry it.
        vanished: How many frames are missing at the end, where nothing was rejected.
    """

    number: int
    kind: str
    damage: str
    refused: str = ""
    shown: int = 0
    rejected: int = 0
    hidden: tuple[int, ...] = ()
    noticed: tuple[int, ...] = ()
    shifted: int = 0
    warned: int = 0
    vanished: int = 0


def clips(folder: Path) -> Iterator[Clip]:
    """A clip of every kind; one that is not read as it should be is an error."""
    for name, kind in KINDS.items():
        path = folder / name
        make_clip(path, kind)
        twin = _frames(path)
        if odd := [frame.error or frame.warnings[0] for frame in twin if frame.pixels is None or frame.warnings]:
            raise MedpromptError("A false alarm: an undamaged clip is not read as sound.", where=name, got=odd[0])
        yield Clip(name, path.read_bytes(), _first_byte(path), twin)


def _frames(path: Path) -> list[Frame]:
    with Video(str(path)) as video:
        return list(video)


def _first_byte(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return next(packet.pos for packet in container.demux(video=0) if packet.pos)


def read_number(number: int, seed: int, known: Sequence[Clip], path: Path) -> Row:
    """Make a damaged file at ``path``, read it, and compare it with its twin."""
    clip, rng = known[number % len(known)], np.random.default_rng((seed, number))
    damages = list(damages_of(KINDS[clip.name]).items())
    done, damage = damages[number // len(known) % len(damages)]
    path = path.with_suffix(KINDS[clip.name].suffix)
    path.write_bytes(damaged(clip.content, damage, clip.first, rng))
    try:
        frames = _frames(path)
    except MedpromptError as error:
        return Row(number, clip.name, done, refused=str(error.got))
    return _compared(Row(number, clip.name, done), clip.twin, frames)


def _compared(row: Row, twin: Sequence[Frame], frames: Sequence[Frame]) -> Row:
    group = KINDS[row.kind].group
    rejected = {(frame.number - 1) // group for frame in frames if frame.pixels is None}
    wrong, shifted, warned = [], 0, 0
    for frame in frames:
        if frame.pixels is None or not (fault := _fault(frame, twin)):
            continue
        if any("numbers and times" in one for one in frame.warnings):
            warned += 1
        elif fault == "wrong":
            wrong.append(frame.number)
        else:
            shifted += 1
    return Row(
        row.number,
        row.kind,
        row.damage,
        shown=sum(frame.pixels is not None for frame in frames),
        rejected=sum(frame.pixels is None for frame in frames),
        hidden=tuple(number for number in wrong if (number - 1) // group not in rejected),
        noticed=tuple(number for number in wrong if (number - 1) // group in rejected),
        shifted=shifted,
        warned=warned,
        vanished=0 if rejected else max(0, len(twin) - len(frames)),
    )


def _fault(frame: Frame, twin: Sequence[Frame]) -> str:
    """``wrong``, ``shifted``, or nothing."""
    if frame.number > len(twin):
        return "shifted"
    right = twin[frame.number - 1]
    if not np.array_equal(frame.pixels, right.pixels):
        return "shifted" if any(np.array_equal(frame.pixels, one.pixels) for one in twin) else "wrong"
    times = (frame.time_s, right.time_s)
    return "shifted" if None in times or abs(times[0] - times[1]) > TIME_S else ""


def _main() -> None:
    from medprompt.core.terminal import Steps, print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.video_damage", description=__doc__)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("video-damage.jsonl"), help="rows, one a file; goes on there")
    parser.add_argument("--only", type=int, help="one number, printed")
    parser.add_argument("--keep", type=Path, help="write the damaged file of --only here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Steps("video damage") as steps:
        path = Path(folder) / "damaged"
        known = list(clips(Path(folder)))
        if args.only is not None:
            print(read_number(args.only, args.seed, known, args.keep or path))
            return
        rows = _written(args.out, args.seed)
        steps.step("read damaged videos", args.count)
        with args.out.open("a") as file:
            for number in range(len(rows), args.count):
                rows.append(read_number(number, args.seed, known, path))
                print(json.dumps({"seed": args.seed, **asdict(rows[-1])}), file=file, flush=True)
                steps.advance()
    print_table("Damaged videos", *table(rows, "kind"), f"{len(rows)} files, seed {args.seed}")
    print_table("By damage", *table(rows, "damage"))


def _written(path: Path, seed: int) -> list[Row]:
    """The rows of a run that was stopped."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if any(line.pop("seed") != seed for line in lines):
        raise MedpromptError("The rows are those of another seed.", where=str(path), fix="name another --out")
    return [Row(**line) for line in lines]


def table(rows: Sequence[Row], by: str) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """A row of counts for each value of a column, and one of all."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    lines = [(name, *map(str, _counts(group))) for name, group in [*groups.items(), ("all", rows)]]
    return (by, *COUNTS), lines


def _counts(rows: Sequence[Row]) -> Iterator[int]:
    yield len(rows)
    yield sum(bool(row.refused) for row in rows)
    yield sum(row.shown for row in rows)
    yield sum(row.rejected for row in rows)
    yield sum(len(row.hidden) for row in rows)
    yield sum(bool(row.hidden) for row in rows)
    yield sum(len(row.noticed) for row in rows)
    yield sum(row.shifted for row in rows)
    yield sum(row.warned for row in rows)
    yield sum(row.vanished for row in rows)


if __name__ == "__main__":
    run_command(_main)
