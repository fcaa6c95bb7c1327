"""A node on loopback with a detector that finds one box, an archive, and a modality: shared by the tests of nodes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pynetdicom import AE, evt

from medprompt.core.detections import Detections
from medprompt.core.errors import ImageError
from medprompt.images.file import ImageFile
from medprompt.results.run import Item, Run
from medprompt.runtime.dicom_node.audit import Audit
from medprompt.runtime.dicom_node.config import NodeConfig
from medprompt.runtime.dicom_node.node import Node
from medprompt.runtime.dicom_node.queue import Queue
from medprompt.runtime.dicom_node.receive import IMAGES, Receiver

LABELS = ("RBC",)
CR, SR = uid.ComputedRadiographyImageStorage, uid.ComprehensiveSRStorage
CAPTURE, STATE = uid.SecondaryCaptureImageStorage, uid.GrayscaleSoftcopyPresentationStateStorage


def image(number: int = 1, study: int = 1, value: int = 90, **changes: Any) -> FileDataset:
    """A CR image of 20 x 30 pixels; a change to None takes an element away."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid.ExplicitVRLittleEndian, CR
    meta.MediaStorageSOPInstanceUID = f"1.2.{study}.1.{number}"
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CR, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = f"1.2.{study}", f"1.2.{study}.1"
    made.PatientName, made.PatientID, made.Modality, made.InstanceNumber = "Zzyzx^Quimby", "ZZYZX-1", "CR", number
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 20, 30, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = np.arange(600, dtype=np.uint8).tobytes()[:-1] + bytes([value])
    for name, changed in changes.items():
        if changed is None:
            delattr(made, name)
        else:
            setattr(made, name, changed)
    return dcmread(BytesIO(content(made)))


def content(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def find_one_box(paths: Sequence[Path]) -> Run:
    """A detector that finds the same box in all that can be decoded, and says of the rest what the product says."""
    return Run(
        tuple(map(_item, paths)),
        LABELS,
        "b" * 64,
        "c" * 64,
        "fake",
        "",
        thresholds=(0.2,),
        versions=(("medprompt", "1"),),
    )


def _item(path: Path) -> Item:
    try:
        with ImageFile(path) as file:
            picture, sha256 = file.picture(), file.sha256
    except ImageError as error:
        return Item(path, None, error=str(error), code=error.code)
    box, zero = np.array([[5, 4, 15, 14]], np.float32), np.zeros(1, np.int64)
    found = Detections(box, np.array([0.75], np.float32), zero, zero, LABELS, ("red cell",), picture.pixels.shape[:2])
    return Item(path, found, warnings=picture.warnings, sha256=sha256, dicom=picture.dicom)


class Archive:
    """Keeps what it is sent, twice where it is sent twice; can be down, refuse, and answer for what it keeps."""

    def __init__(self, status: int = 0x0000) -> None:
        self.status, self.objects, self.asked = status, [], []  # type: ignore[var-annotated]
        entity = AE(ae_title="ARCHIVE")
        for sop_class in (SR, CAPTURE, STATE, uid.ColorSoftcopyPresentationStateStorage, *IMAGES):
            if not any(str(one.abstract_syntax) == sop_class for one in entity.supported_contexts):
                entity.add_supported_context(sop_class)
        entity.add_supported_context("1.2.840.10008.1.1")
        entity.add_supported_context("1.2.840.10008.1.20.1")
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._commit)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        assert self.server
        self.port = self.server.server_address[1]

    def _store(self, event: Any) -> int:
        if self.status == 0:
            self.objects.append(dcmread(BytesIO(event.encoded_dataset())))
        return self.status

    def _commit(self, event: Any) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return 0x0000, None

    def of(self, sop_class: str) -> list[Dataset]:
        return [one for one in self.objects if one.SOPClassUID == sop_class]

    def close(self) -> None:
        self.server.shutdown()  # type: ignore[union-attr]


class Trial:
    """A node whose steps a test takes itself, at a time that it sets."""

    def __init__(self, folder: Path, archive_port: int, analyse: Any = find_one_box, **changes: Any) -> None:
        destination = {"name": "archive", "ae_title": "ARCHIVE", "port": archive_port, **changes.pop("to", {})}
        limits = {"peer_s": 3, "free_mb": 0, **changes.pop("limits", {})}
        raw = {"queue": folder, "calling": ("CT1",), "port": 0, "destination": (destination,), "limits": limits}
        self.config = NodeConfig.model_validate({**raw, **changes})
        self.queue = Queue(folder)
        self.audit = Audit(folder / "audit.jsonl")
        self.now = time.time()
        self.node = Node(self.config, self.queue, analyse, self.audit, lambda: self.now)
        self.receiver = Receiver(self.config, self.queue, self.audit, self.node.wake)

    def pass_s(self, seconds: float) -> None:
        """Time passes, and all that is due is done."""
        self.now += seconds
        while self.node.analyse_one() or self.node.deliver_one():
            pass

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.config.queue / "audit.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["event"] == name]

    def close(self) -> None:
        self.receiver.close()
        self.queue.__exit__()
        self.audit.__exit__()


@contextmanager
def trial(folder: Path, archive: Archive | None = None, analyse: Any = find_one_box, **changes: Any) -> Iterator[Trial]:
    one = Trial(folder, archive.port if archive else 1, analyse, **changes)
    try:
        yield one
    finally:
        one.close()


@contextmanager
def modality(port: int, calling: str = "CT1", called: str = "MEDPROMPT", **options: Any) -> Iterator[Any]:
    """An association that offers CR images, uncompressed, and C-ECHO."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5
    entity.add_requested_context("1.2.840.10008.1.1")
    entity.add_requested_context(CR, options.pop("syntax", uid.ExplicitVRLittleEndian))
    peer = entity.associate("127.0.0.1", port, ae_title=called, **options)
    try:
        yield peer
    finally:
        if peer.is_established:
            peer.release()


def sent(port: int, *images: Dataset) -> list[int]:
    """Statuses that a modality gets for images."""
    with modality(port) as peer:
        assert peer.is_established
        return [int(peer.send_c_store(one).get("Status", -1)) for one in images]


def alive(port: int) -> bool:
    """Whether the node answers a C-ECHO."""
    with modality(port) as peer:
        return bool(peer.is_established and peer.send_c_echo().Status == 0)


def until(true: Callable[[], Any]) -> None:
    """Wait for another thread."""
    woken, end = threading.Event(), time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        woken.wait(0.005)


def changed(run: Run, **changes: Any) -> Run:
    return replace(run, **changes)
