"""Many small images on Ray: rows equal to one process, with a worker and the driver killed on the way.

``python -m medprompt.benchmarks.research.ray_many BUNDLE DATA WORK [--images 20000] [--device fake]``
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from medprompt.runtime.serving.parquet import ResultsFolder, detection_rows, image_rows

SIDE = 96


def main() -> None:
    """Make the images, run once in one process and on Ray, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bundle", "data", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    images, out, one = asked.work / "images", asked.work / "rows", asked.work / "one.json"
    make_tiles(asked.data, images, asked.images)
    base = [sys.executable, "-m", "medprompt", "infer", str(asked.bundle), str(images), "--device", asked.device]
    timed("one process", [*base, "--threads", "1", "--out", str(one)])
    on_ray = [*base, "--ray", "local", "--ray-workers", "2", "--out", str(out), "--resume"]
    killed(on_ray, ResultsFolder(out), asked.images)
    timed("resumed", on_ray)
    print(json.dumps(compared(one, ResultsFolder(out))))
    for workers in (1, 2):
        fresh = asked.work / f"scale-{workers}"
        timed(f"{workers} workers", [*on_ray[:-4], str(workers), "--out", str(fresh)])


def make_tiles(data: Path, folder: Path, count: int) -> None:
    """Cut tiles of the images, in their order, again with other offsets where they do not suffice."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(path for path in data.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    tiles = (
        (path, x, y)
        for start in range(0, SIDE, 8)
        for path in sources
        for size in [Image.open(path).size]
        for x in range(start, size[0] - SIDE + 1, SIDE)
        for y in range(start, size[1] - SIDE + 1, SIDE)
    )
    for number, (path, x, y) in enumerate(islice(tiles, count)):
        target = folder / f"{number:06}.png"
        if not target.exists():
            with Image.open(path) as picture:
                picture.convert("RGB").crop((x, y, x + SIDE, y + SIDE)).save(target, compress_level=1)


def timed(name: str, command: Sequence[str]) -> None:
    """Run to its end and say how long it took, start and end of Ray included."""
    began = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    took = round(time.monotonic() - began, 1)
    print(json.dumps({"run": name, "seconds": took, "exit": done.returncode, "said": done.stdout[-200:]}), flush=True)


def killed(command: Sequence[str], folder: ResultsFolder, images: int) -> None:
    """Kill a detector as soon as rows are written, and the driver with the next part."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(driver, lambda: folder.images().num_rows > 0)
    workers = [
        pid
        for pid in (int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit())
        if is_detector(pid, driver.pid)
    ]
    os.kill(workers[0], signal.SIGKILL)
    before = folder.images().num_rows
    print(json.dumps({"killed": "worker", "rows": before}), flush=True)
    wait_for(driver, lambda: folder.images().num_rows > before)
    driver.kill()
    driver.wait()
    print(json.dumps({"killed": "driver", "rows": folder.images().num_rows, "of": images}), flush=True)


def is_detector(pid: int, driver: int) -> bool:
    """Whether a process is an actor of this driver's Ray: it was started by its raylet."""
    try:
        return "Answerer" in Path(f"/proc/{pid}/cmdline").read_text() and driver in ancestors(pid)
    except OSError:
        return False


def ancestors(pid: int) -> list[int]:
    """Parents of a process, the nearest first."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def wait_for(driver: subprocess.Popen[bytes], reached: Any) -> None:
    """Wait for a state of the folder; an error where the driver ends before it."""
    while not reached():
        if driver.poll() is not None:
            raise SystemExit(f"the run ended before it could be killed: {driver.returncode}")
        time.sleep(0.2)


def compared(one: Path, folder: ResultsFolder) -> dict[str, Any]:
    """Rows of one process against those of the parts, each as a line of JSON, sorted."""
    items = json.loads(one.read_text())["items"]
    answer: dict[str, Any] = {}
    for name, made, parts in (
        ("images", image_rows(items), folder.images()),
        ("detections", detection_rows(items), folder.detections()),
    ):
        left, right = (sorted(json.dumps(row, sort_keys=True) for row in rows) for rows in (made, parts.to_pylist()))
        answer |= {name: len(right), f"{name}_unique": len(set(right)), f"{name}_equal": left == right}
    return answer


if __name__ == "__main__":
    main()
