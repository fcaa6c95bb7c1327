"""Fifty studies through a node that is killed again and again, into Orthanc: does each have its objects once?

    python -m medprompt.benchmarks.research.dicom_node BUNDLE IMAGES --work FOLDER

BUNDLE is served by ``medprompt dicom listen``; IMAGES is a folder of pictures, of which each study gets one, in colour
and in grey in turn. Needs Orthanc, dcmtk's storescu and dicom3tools' dciodvfy (Debian: orthanc, dcmtk, dicom3tools).
All of it listens on loopback. Written: ``result.json`` in FOLDER, and a file of each object that the archive got.
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
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

PROGRAMS = ("Orthanc", "storescu", "dciodvfy")
WAIT_S = 500.0
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
    """Run an empty Orthanc: its DICOM port, and the address of its REST API."""
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
        self.start()

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


def pushed(paths: list[Path], listener: Listener, kills: int) -> int:
    """Push all, killing the node in between, each until it is acknowledged; the tries it took."""
    tries = 0
    for index, path in enumerate(paths):
        if kills and index % KILL_EVERY == KILL_EVERY - 1:
            kills -= 1
            under_way = threading.Thread(target=push, args=(path, listener.port))
            under_way.start()
            time.sleep(random.Random(index).uniform(0, 0.1))
            listener.kill()
            under_way.join()
            listener.start()
        tries += 1
        while not push(path, listener.port):
            tries += 1
            time.sleep(0.2)
    return tries


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
    bundle: Path, images: Path, work: Path, studies: int = 50, kills: int = 5, *, go_on: bool = False
) -> dict[str, Any]:
    """The whole trial; what came of it. ``go_on``: nothing is pushed, and what an earlier trial left is worked off."""
    if not go_on:
        shutil.rmtree(work, ignore_errors=True)
    (work / "sent").mkdir(parents=True, exist_ok=True)
    pictures = sorted(one for one in images.rglob("*") if one.suffix.lower() in (".png", ".jpg", ".jpeg"))
    paths = [study_file(pictures[index % len(pictures)], index, work / "sent") for index in range(studies)]
    port, began = free_port(), time.monotonic()
    with orthanc(work, port) as (archive, address):
        listener = Listener(bundle, work, port, archive)
        try:
            tries = 0 if go_on else pushed(paths, listener, kills)
            counts = _finished(work, listener, studies)
        finally:
            if listener.process.poll() is None:
                listener.process.terminate()
                listener.process.wait()
        rows = archived(address, work / "archived")
    result = {
        "studies": studies,
        "kills": kills,
        "pushes": tries,
        "seconds": round(time.monotonic() - began, 1),
        "queue": counts,
        **_judged(rows, studies),
    }
    (work / "result.json").write_text(json.dumps(result, indent=2))
    return result


def _finished(work: Path, listener: Listener, studies: int) -> dict[str, int]:
    """Wait until the audit tells of an end to each study; then stop the node and count its queue."""
    from medprompt.runtime.dicom_node.queue import Queue

    end, counts = time.monotonic() + WAIT_S, {"cleared": 0}
    while time.monotonic() < end:
        counts = _counts(work / "queue" / "queue.sqlite3")
        if counts.get("cleared", 0) >= studies:
            break
        time.sleep(1)
    listener.process.terminate()
    listener.process.wait()
    with Queue(work / "queue") as queue:
        return {**queue.counts(), "files_left": len(list(queue.images.iterdir()))}


def _counts(path: Path) -> dict[str, int]:
    import sqlite3

    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return dict(db.execute("SELECT state, COUNT(*) FROM reports GROUP BY state").fetchall())
    finally:
        db.close()


def _judged(rows: list[dict[str, str]], studies: int) -> dict[str, Any]:
    """How many studies have exactly one report and one picture, and what is wrong with the objects."""
    each: dict[str, Counter[str]] = {}
    for row in rows:
        each.setdefault(row["study"], Counter())[row["class"]] += 1
    reports = Counter(counter["Comprehensive SR Storage"] for counter in each.values())
    pictures = Counter(counter["Secondary Capture Image Storage"] for counter in each.values())
    wrong = {row["class"]: faults(row["file"]) for row in rows}
    return {
        "objects": len(rows),
        "by_class": dict(Counter(row["class"] for row in rows)),
        "reports_a_study": dict(reports),
        "key_images_a_study": dict(pictures),
        "lost": studies - len(each),
        "duplicates": len(rows) - len({row["sop"] for row in rows}),
        "dciodvfy_errors": {name: found for name, found in wrong.items() if found},
    }


def main() -> None:
    """Run the trial and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument(
        "--go-on", action="store_true", help="Work off what a trial that was interrupted left in FOLDER."
    )
    given = parser.parse_args()
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    made = trial(given.bundle, given.images, given.work, given.studies, given.kills, go_on=given.go_on)
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
