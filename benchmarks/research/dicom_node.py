"""Fifty studies through a node that is killed again and again, into Orthanc: does each have its objects once?

    python -m medprompt.benchmarks.research.dicom_node BUNDLE IMAGES --work FOLDER

BUNDLE is served by ``medprompt dicom listen``; IMAGES is a folder of pictures, of which each study gets one, in colour
and in grey in turn. Needs Orthanc, dcmtk's storescu and dicom3tools' dciodvfy (Debian: orthanc, dcmtk, dicom3tools).
The node listens on loopback; Orthanc on all addresses, where its HTTP refuses other machines. FOLDER is new, empty, or
holds a trial that was interrupted or ran out of ``--seconds``, which is gone on with. Written there: ``result.json``,
and a file of each object that the archive got. Exit code 0 where each study has its objects once and none has a fault,
1 where not, 4 where the time ran out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

PROGRAMS = ("Orthanc", "storescu", "dciodvfy")
SECONDS = 500.0
KILL_EVERY = 8
"""Studies between two kills; each falls while a study is pushed."""

_open = build_opener(ProxyHandler({})).open  # never by way of a proxy


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def study_file(picture: Path, index: int, folder: Path) -> Path:
    """A study of one image: colour (VL photographic) or grey (CR) in turn."""
    grey = index % 2 == 1
    pixels = np.asarray(Image.open(picture).convert("L" if grey else "RGB"))
    kind = uid.ComputedRadiographyImageStorage if grey else uid.VLPhotographicImageStorage
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid.ExplicitVRLittleEndian, kind
    meta.MediaStorageSOPInstanceUID = f"2.25.7000{index}"
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = f"2.25.8000{index}", f"2.25.9000{index}"
    made.PatientName, made.PatientID = f"Trial^{index}", f"T{index}"
    made.PatientBirthDate = made.PatientSex = made.ReferringPhysicianName = made.AccessionNumber = ""
    made.StudyDate, made.StudyTime, made.StudyID = "20260101", "120000", str(index)
    made.Modality, made.SeriesNumber, made.InstanceNumber = "CR" if grey else "XC", 1, 1
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = (1, "MONOCHROME2") if grey else (3, "RGB")
    if not grey:
        made.PlanarConfiguration = 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    path = folder / f"{index:03}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


@contextmanager
def orthanc(folder: Path, node_port: int) -> Iterator[tuple[int, str]]:
    """Run Orthanc with the folder's archive: its DICOM port, and the address of its REST API."""
    dicom, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "archive"),
        "IndexDirectory": str(folder / "archive"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "DicomModalities": {"node": ["MEDPROMPT", "127.0.0.1", node_port]},
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [],
        "OverwriteInstances": False,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(path)], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{http}"
        until(lambda: answers(http))
        yield dicom, address
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def until(true: Any, wait_s: float = 60.0) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + wait_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not become true in {wait_s:g} s")
        time.sleep(0.1)


class Listener:
    """``medprompt dicom listen`` in a process of its own."""

    def __init__(self, bundle: Path, folder: Path, port: int, archive: int) -> None:
        config = folder / "node.toml"
        config.write_text(
            f'queue = "queue"\ncalling = ["STORESCU"]\nport = {port}\nquiet_s = 1\n'
            f'[[destination]]\nname = "archive"\nae_title = "ORTHANC"\nport = {archive}\ncommitment = true\n'
            "[retry]\nfirst_s = 0.5\ncommitment_s = 20\n[limits]\nfree_mb = 100\n"
        )
        self.command = [sys.executable, "-m", "medprompt", "dicom", "listen", str(bundle), "--config", str(config)]
        self.port, self.log = port, folder / "listen.log"

    def __enter__(self) -> Listener:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        until(lambda: answers(self.port) or self.process.poll() is not None, 120)
        if self.process.poll() is not None:
            raise RuntimeError(f"the node ended: see {self.log}")

    def kill(self) -> None:
        """As a power cut would."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def push(path: Path, port: int) -> bool:
    """Whether storescu's object was acknowledged."""
    command = ["storescu", "-aet", "STORESCU", "-aec", "MEDPROMPT", "127.0.0.1", str(port), str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass
class Progress:
    """How far a trial is, on disk after each step."""

    file: Path
    studies: int
    kills: int
    pushed: int = 0
    killed: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, work: Path, studies: int, kills: int) -> Progress:
        """That of a folder; at the start of a trial where the folder is new or empty."""
        file = work / "progress.json"
        if file.exists():
            found = cls(file, **json.loads(file.read_text()))
            if (found.studies, found.kills) != (studies, kills):
                raise SystemExit(f"{work} holds a trial of {found.studies} studies and {found.kills} kills")
            return found
        if work.exists() and any(work.iterdir()):
            raise SystemExit(f"{work} holds no trial, and is not empty: name a new folder")
        work.mkdir(parents=True, exist_ok=True)
        started = cls(file, studies, kills)
        started.save()
        return started

    def save(self) -> None:
        """Write it, whole or not at all."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({name: value for name, value in vars(self).items() if name != "file"}))
        new.replace(self.file)


def push_all(paths: list[Path], listener: Listener, progress: Progress, deadline: float) -> None:
    """Push what is not pushed yet, killing the node in between, each until it is acknowledged."""
    while progress.pushed < len(paths) and time.monotonic() < deadline:
        path = paths[progress.pushed]
        if progress.killed < progress.kills and progress.pushed >= KILL_EVERY * (progress.killed + 1) - 1:
            kill_amid(path, listener, progress.pushed)
            progress.killed += 1
            progress.save()
        while not push(path, listener.port):
            time.sleep(0.2)
        progress.pushed += 1
        progress.save()


def kill_amid(path: Path, listener: Listener, seed: int) -> None:
    """Kill the node while a study is pushed, and start it again."""
    under_way = threading.Thread(target=push, args=(path, listener.port))
    under_way.start()
    time.sleep(random.Random(seed).uniform(0, 0.1))
    listener.kill()
    under_way.join()
    listener.start()


def archived(address: str, folder: Path) -> list[dict[str, str]]:
    """Each object of the archive, as a file, with its study and SOP class."""
    folder.mkdir(exist_ok=True)
    rows = []
    for one in json.load(_open(f"{address}/instances")):
        path = folder / f"{one}.dcm"
        path.write_bytes(_open(f"{address}/instances/{one}/file").read())
        tags = json.load(_open(f"{address}/instances/{one}/simplified-tags"))
        name = uid.UID(tags["SOPClassUID"]).name
        rows.append(
            {"file": str(path), "study": tags["StudyInstanceUID"], "class": name, "sop": tags["SOPInstanceUID"]}
        )
    return rows


def faults(path: str) -> list[str]:
    """What dciodvfy calls an error."""
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def trial(
    bundle: Path, images: Path, work: Path, studies: int = 50, kills: int = 5, seconds: float = SECONDS
) -> dict[str, Any] | None:
    """The trial, or the rest of the one that the folder holds: what came of it; None where the time ran out."""
    progress, began = Progress.of(work, studies, kills), time.monotonic()
    (work / "sent").mkdir(exist_ok=True)
    pictures = sorted(one for one in images.rglob("*") if one.suffix.lower() in (".png", ".jpg", ".jpeg"))
    paths = [study_file(pictures[index % len(pictures)], index, work / "sent") for index in range(studies)]
    port = free_port()
    with orthanc(work, port) as (archive, address), Listener(bundle, work, port, archive) as listener:
        try:
            push_all(paths, listener, progress, began + seconds)
            ended = cleared(work, studies, began + seconds)
        finally:
            progress.seconds += round(time.monotonic() - began, 1)
            progress.save()
        rows = archived(address, work / "archived") if ended else []
    if not ended:
        return None
    done = {name: value for name, value in vars(progress).items() if name != "file"}
    result = {**done, "queue": left(work / "queue"), **judged(rows, studies)}
    (work / "result.json").write_text(json.dumps(result, indent=2))
    return result


def cleared(work: Path, studies: int, deadline: float) -> bool:
    """Wait until the archive has answered for each study; whether it did in time."""
    while time.monotonic() < deadline:
        if _counts(work / "queue" / "queue.sqlite3").get("cleared", 0) >= studies:
            return True
        time.sleep(1)
    return False


def left(folder: Path) -> dict[str, int]:
    """What a node that has ended left in its queue."""
    from medprompt.runtime.dicom_node.queue import Queue

    with Queue(folder) as queue:
        return {**queue.counts(), "files_left": len(list(queue.images.iterdir()))}


def _counts(path: Path) -> dict[str, int]:
    import sqlite3

    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return dict(db.execute("SELECT state, COUNT(*) FROM reports GROUP BY state").fetchall())
    finally:
        db.close()


def judged(rows: list[dict[str, str]], studies: int) -> dict[str, Any]:
    """How many studies have exactly one report and one picture, and what is wrong with the objects."""
    each: dict[str, Counter[str]] = {}
    for row in rows:
        each.setdefault(row["study"], Counter())[row["class"]] += 1
    reports = Counter(counter["Comprehensive SR Storage"] for counter in each.values())
    pictures = Counter(counter["Secondary Capture Image Storage"] for counter in each.values())
    wrong = {row["file"]: faults(row["file"]) for row in rows}
    return {
        "objects": len(rows),
        "by_class": dict(Counter(row["class"] for row in rows)),
        "reports_a_study": dict(reports),
        "key_images_a_study": dict(pictures),
        "lost": studies - len(each),
        "duplicates": len(rows) - len({row["sop"] for row in rows}),
        "dciodvfy_errors": {name: found for name, found in wrong.items() if found},
        "passed": reports == pictures == {1: studies}
        and len(each) == studies
        and len(rows) == len({row["sop"] for row in rows})
        and not any(wrong.values()),
    }


def main() -> None:
    """Run the trial and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="Stop then; the same command goes on.")
    given = parser.parse_args()
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
    made = trial(given.bundle, given.images, given.work, given.studies, given.kills, given.seconds)
    print(json.dumps(made, indent=2) if made else "The time ran out: the same command goes on.")
    raise SystemExit(4 if made is None else not made["passed"])


if __name__ == "__main__":
    main()
