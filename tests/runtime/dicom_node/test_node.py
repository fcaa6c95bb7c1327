"""A node on loopback: what is acknowledged is reported once, whatever happens in between."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")

from pydicom import uid
from pydicom.dataset import Dataset

from medprompt.core.errors import InputError
from medprompt.reports.files import read_report
from medprompt.results.run import Run
from medprompt.runtime.dicom_node import queue as queues
from medprompt.runtime.dicom_node.queue import Queue
from tests.runtime.dicom_node.nodes import (
    CAPTURE,
    CR,
    SR,
    STATE,
    Archive,
    Trial,
    alive,
    content,
    find_one_box,
    image,
    modality,
    sent,
    trial,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom leaves the sockets of associations that did not come about to the garbage collector."""


@pytest.fixture
def archive() -> Any:
    one = Archive()
    yield one
    one.close()


def test_a_study_comes_back_as_a_report_a_picture_and_a_presentation_state(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path / "queue", archive) as one:
        assert sent(one.receiver.port, image(1), image(2)) == [0, 0]
        one.pass_s(59)
        assert archive.objects == []
        one.pass_s(2)
        (report,), captures, (state,) = archive.of(SR), archive.of(CAPTURE), archive.of(STATE)
        assert one.queue.counts()["cleared"] == 1
        assert (list(one.queue.images.iterdir()), list(one.queue.results.iterdir())) == ([], [])
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    read = read_report(tmp_path / "sr.dcm")
    assert [(one.sop_instance_uid, one.box_xyxy, one.score) for one in read.findings] == [
        ("1.2.1.1.1", (5, 4, 15, 14), 0.75),
        ("1.2.1.1.2", (5, 4, 15, 14), 0.75),
    ]
    assert read.searched
    assert {str(one.StudyInstanceUID) for one in archive.objects} == {"1.2.1"}
    assert {str(one.PatientName) for one in archive.objects} == {"Zzyzx^Quimby"}
    assert [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in captures] == ["1.2.1.1.1", "1.2.1.1.2"]
    drawn = state.GraphicAnnotationSequence[1]
    assert drawn.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.1.1.2"
    assert drawn.GraphicObjectSequence[0].GraphicData[:4] == [5, 4, 15, 4]


def test_the_key_image_shows_the_box_where_it_is(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path, archive) as one:
        sent(one.receiver.port, image(1, value=0))
        one.pass_s(61)
    (capture,) = archive.of(CAPTURE)
    factor = capture.Columns // 30
    pixels = capture.pixel_array
    coloured = (pixels.max(axis=2).astype(int) - pixels.min(axis=2)) > 60
    framed = coloured[: 20 * factor]
    assert framed[9 * factor, 5 * factor]  # left edge, half-way down
    assert framed[9 * factor, 15 * factor - 1]
    assert not framed[9 * factor, 10 * factor]
    assert "RESEARCH USE ONLY" in capture.DerivationDescription


def test_nothing_is_lost_or_sent_twice_over_crashes(tmp_path: Path, archive: Archive) -> None:
    """A crash after each step: the queue is opened anew, and nothing that the process had in memory is there."""
    folder = tmp_path / "queue"
    with trial(folder, archive) as one:
        sent(one.receiver.port, image(1))
    with trial(folder, archive) as one:  # crashed after the acknowledgement
        one.now += 61
        one.queue.close_quiet(one.now, one.now)
        one.queue.next_job(one.now)
    with trial(folder, archive) as one:  # … while it analysed
        one.now += 62
        assert one.node.analyse_one()
    with trial(folder, archive) as one:  # … before it sent: then it dies when all is sent, and before it is noted
        one.now += 63
        one.queue.delivered = lambda *_: (_ for _ in ()).throw(MemoryError)  # type: ignore[method-assign]
        with pytest.raises(MemoryError):
            one.node.deliver_one()
    with trial(folder, archive) as one:
        one.pass_s(64)
        one.pass_s(100)
    assert [len({str(o.SOPInstanceUID) for o in archive.of(kind)}) for kind in (SR, CAPTURE, STATE)] == [1, 1, 1]
    twice = archive.of(SR)
    assert len(twice) == 2
    assert content_of(twice[0]) == content_of(twice[1])


def content_of(report: Dataset) -> str:
    return report.to_json()


def test_a_report_says_of_what_it_knows_nothing(tmp_path: Path, archive: Archive) -> None:
    blind = image(2, PixelData=None)
    short = image(3, PixelData=b"\0\0")
    with trial(tmp_path / "queue", archive) as one:
        assert sent(one.receiver.port, blind, short) == [0, 0]
        one.pass_s(61)
    (report,), (capture,) = archive.of(SR), archive.of(CAPTURE)
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    read = read_report(tmp_path / "sr.dcm")
    assert (read.searched, read.findings) == (False, ())
    assert read.comments.count("Not analysed: REJECTED damaged") == 2
    assert capture.StudyInstanceUID == "1.2.1"


def test_the_same_instance_twice_is_one_report(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path, archive) as one:
        assert sent(one.receiver.port, image(1), image(1)) == [0, 0]
        one.pass_s(61)
        assert sent(one.receiver.port, image(1)) == [0]
        one.pass_s(100)
    assert len(archive.of(SR)) == 1


def test_a_late_instance_has_a_report_of_its_own_that_names_the_earlier_one(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path / "queue", archive) as one:
        sent(one.receiver.port, image(1))
        one.pass_s(61)
        sent(one.receiver.port, image(2))
        one.pass_s(61)
    first, second = archive.of(SR)
    second.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    read = read_report(tmp_path / "sr.dcm")
    assert [finding.sop_instance_uid for finding in read.findings] == ["1.2.1.1.2"]
    assert f"Stands beside: {first.SOPInstanceUID}" in read.comments


def test_our_own_objects_do_not_come_round(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path, archive) as one:
        assert sent(one.receiver.port, image(1, Manufacturer="medprompt")) == [0]
        one.pass_s(61)
        assert one.queue.counts()["waiting"] == 0
    assert archive.objects == []


@pytest.mark.parametrize("names", [("STRANGER", "MEDPROMPT"), ("CT1", "OTHER")])
def test_another_ae_title_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    with trial(tmp_path) as one:
        with modality(one.receiver.port, *names) as peer:
            assert peer.is_rejected
        assert alive(one.receiver.port)
        refused = one.events("association refused")
    assert len(refused) == 1
    assert "STRANGER" not in json.dumps(refused)


def test_too_many_associations_are_refused(tmp_path: Path) -> None:
    with trial(tmp_path, limits={"associations": 1}) as one:
        with modality(one.receiver.port) as first, modality(one.receiver.port) as second:
            assert (first.is_established, second.is_rejected) == (True, True)
        until(lambda: alive(one.receiver.port))


def test_an_object_that_is_too_large_ends_the_association(tmp_path: Path) -> None:
    large = image(1, PixelData=b"\0" * 300_000)
    with trial(tmp_path, limits={"object_mb": 0.1}) as one:
        with modality(one.receiver.port) as peer:
            assert "Status" not in peer.send_c_store(large)
        assert alive(one.receiver.port)
        assert one.queue.counts()["waiting"] == 0
        assert one.events("object too large")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.1.99"])  # JPIP; deflated: a bomb
def test_a_transfer_syntax_that_is_not_taken_is_not_negotiated(syntax: str, tmp_path: Path) -> None:
    with trial(tmp_path) as one, modality(one.receiver.port, syntax=syntax) as peer:
        refused = [str(context.abstract_syntax) for context in peer.rejected_contexts]
        assert refused == [CR]
        assert peer.send_c_echo().Status == 0


def test_a_report_is_no_image_and_is_not_negotiated(tmp_path: Path) -> None:
    from pynetdicom import AE

    entity = AE(ae_title="CT1")
    entity.add_requested_context(SR)
    with trial(tmp_path) as one:
        peer = entity.associate("127.0.0.1", one.receiver.port, ae_title="MEDPROMPT")
        assert not peer.accepted_contexts
        peer.abort()
        assert alive(one.receiver.port)


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (b"\xff" * 40, 0xC000),
        (b"\x08\x00\x18\x00UI\x08\x001.2.3.4\x00", 0xC000),
    ],
)
def test_what_is_no_data_set_is_not_understood(
    broken: bytes, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of the object are exchanged on their way."""
    monkeypatch.setattr("pynetdicom.association.encode", lambda *_: broken)
    with trial(tmp_path) as one:
        with modality(one.receiver.port) as peer:
            answer = peer.send_c_store(image(1))
        assert answer.get("Status") == status
        assert one.queue.counts()["waiting"] == 0
        monkeypatch.undo()
        assert alive(one.receiver.port)


def test_an_object_under_another_uid_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = content(image(2))
    body = raw[raw.index(b"\x08\x00\x16\x00") :]
    monkeypatch.setattr("pynetdicom.association.encode", lambda *_: body)
    with trial(tmp_path) as one:
        assert sent(one.receiver.port, image(1)) == [0xA900]
        assert one.queue.counts()["waiting"] == 0


def test_an_association_that_breaks_off_amid_an_object_leaves_nothing(tmp_path: Path) -> None:
    with trial(tmp_path, limits={"pdu_bytes": 4096}) as one:
        with modality(one.receiver.port) as peer:
            wire = peer.dul.socket.socket
            send, calls = peer.dul.socket.send, []

            def broken(data: bytes) -> None:
                calls.append(len(data))
                if len(calls) > 3:
                    wire.close()
                send(data)

            peer.dul.socket.send = broken
            answer = peer.send_c_store(image(1, PixelData=b"\0" * 100_000))
            assert "Status" not in answer
        assert alive(one.receiver.port)
        assert one.queue.counts()["waiting"] == 0
        assert list(one.queue.images.iterdir()) == []


def test_a_peer_that_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    with (
        trial(tmp_path, limits={"peer_s": 0.2}) as one,
        socket.create_connection(("127.0.0.1", one.receiver.port)) as mute,
    ):
        mute.settimeout(5)
        assert alive(one.receiver.port)  # the others are served meanwhile
        assert mute.recv(100)[:1] in (b"", b"\x07")  # closed, or A-ABORT


def test_a_full_disk_is_told_and_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with trial(tmp_path) as one:
        monkeypatch.setattr(queues, "write_durably", full)
        assert sent(one.receiver.port, image(1)) == [0xA700]
        assert one.queue.counts()["waiting"] == 0
        monkeypatch.undo()
        assert sent(one.receiver.port, image(1)) == [0]


@pytest.mark.parametrize("limits", [{"queue_objects": 1}, {"free_mb": 1e9}])
def test_a_full_queue_is_told(limits: dict[str, float], tmp_path: Path) -> None:
    with trial(tmp_path, limits=limits) as one:
        statuses = sent(one.receiver.port, image(1), image(2))
        assert statuses[-1] == 0xA700
        assert one.queue.counts()["waiting"] == statuses.count(0)


def test_an_archive_that_is_down_for_a_while_gets_all_when_it_is_back(tmp_path: Path) -> None:
    archive = Archive(status=0xA700)
    with trial(tmp_path, archive, retry={"first_s": 5, "attempts": 9}) as one:
        sent(one.receiver.port, image(1))
        one.pass_s(61)
        one.pass_s(4)
        assert len(one.events("delivery failed")) == 1
        one.pass_s(2)
        one.pass_s(9)
        assert len(one.events("delivery failed")) == 2
        archive.status = 0
        one.pass_s(2)
        assert one.queue.counts()["cleared"] == 1
    archive.close()
    assert len(archive.of(SR)) == 1


def test_what_no_archive_takes_is_a_dead_letter_and_can_be_taken_up_again(tmp_path: Path) -> None:
    archive = Archive()
    archive.close()
    with trial(tmp_path, archive, retry={"first_s": 1, "attempts": 2}) as one:
        sent(one.receiver.port, image(1))
        for _ in range(4):
            one.pass_s(61)
        assert one.queue.counts()["dead"] == 1
        (letter,) = one.queue.dead.iterdir()
        assert len(list(letter.iterdir())) == 4  # the image, and the three objects
        assert one.queue.revive(one.now) == 1
        assert one.queue.counts()["send"] == 1
        assert list(one.queue.dead.iterdir()) == []


def test_a_study_that_ends_the_process_each_time_is_a_dead_letter(tmp_path: Path) -> None:
    def dies(paths: Any) -> Run:
        raise SystemExit

    with trial(tmp_path, analyse=dies, retry={"analyses": 2}) as one:
        sent(one.receiver.port, image(1))
        one.now += 61
        for _ in range(2):
            with pytest.raises(SystemExit):
                one.node.analyse_one()
        one.pass_s(1)
        assert one.queue.counts()["dead"] == 1


def test_an_error_is_tried_again_before_it_is_reported(tmp_path: Path, archive: Archive) -> None:
    calls: list[int] = []

    def out_of_memory_once(paths: Any) -> Run:
        calls.append(1)
        run = find_one_box(paths)
        failed = tuple(replace(item, detections=None, error="no memory") for item in run.items)
        return run if len(calls) > 1 else replace(run, items=failed)

    with trial(tmp_path, archive, out_of_memory_once) as one:
        sent(one.receiver.port, image(1))
        one.pass_s(61)
        one.pass_s(61)
    assert len(calls) == 2
    assert len(archive.of(SR)) == 1
    assert len(archive.of(STATE)) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_files_stay_until_the_archive_has_answered_for_them(kept: bool, tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path, archive, to={"commitment": True}) as one:
        sent(one.receiver.port, image(1))
        one.pass_s(61)
        (request,) = archive.asked
        assert len(request.ReferencedSOPSequence) == 3
        assert one.queue.counts()["send"] == 1
        assert _commitment(one.receiver.port, request.TransactionUID, kept) == 0
        one.pass_s(2)
        assert one.queue.counts()["send"] == (0 if kept else 1)
    assert len(archive.of(SR)) == (1 if kept else 2)


def _commitment(port: int, transaction: str, kept: bool) -> int:
    """What an archive says on an association of its own."""
    from pynetdicom import AE, build_role

    entity = AE(ae_title="ARCHIVE")
    entity.add_requested_context("1.2.840.10008.1.20.1")
    role = build_role("1.2.840.10008.1.20.1", scp_role=True)
    peer = entity.associate("127.0.0.1", port, ae_title="MEDPROMPT", ext_neg=[role])
    said = Dataset()
    said.TransactionUID = transaction
    answer, _ = peer.send_n_event_report(said, 1 if kept else 2, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1")
    peer.release()
    return int(answer.Status)


def test_two_listeners_on_one_queue_are_refused(tmp_path: Path) -> None:
    with Queue(tmp_path), pytest.raises(InputError, match="in use"):
        Queue(tmp_path)


def test_a_folder_of_somebody_else_is_no_queue(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.dcm").write_text("years of work")
    with pytest.raises(InputError, match="no queue"):
        Queue(tmp_path)
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as db:
        db.execute("CREATE TABLE mine (a)")
    with pytest.raises(InputError, match="cannot be used"):
        Queue(tmp_path)
    assert (tmp_path / "images" / "mine.dcm").read_text() == "years of work"


def test_another_bundle_is_refused_while_there_is_work_of_the_first(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path, archive) as one:
        one.queue.bind("bundle a", "RBC")
        sent(one.receiver.port, image(1))
        with pytest.raises(InputError, match="another bundle"):
            one.queue.bind("bundle b", "RBC")
        one.pass_s(61)
        one.queue.bind("bundle b", "RBC")


def test_the_log_names_no_patient_and_no_uid(tmp_path: Path, archive: Archive) -> None:
    with trial(tmp_path, archive) as one:
        sent(one.receiver.port, image(1))
        one.pass_s(61)
        log = (tmp_path / "audit.jsonl").read_text()
    assert "report made" in log
    assert not any(text in log for text in ("Zzyzx", "ZZYZX", "1.2.1"))


def test_all_is_private(tmp_path: Path) -> None:
    with trial(tmp_path / "queue") as one:
        sent(one.receiver.port, image(1))
        (file,) = one.queue.images.iterdir()
        modes = [path.stat().st_mode & 0o077 for path in (one.queue.folder, one.queue.images, file)]
        files = [path for path in one.queue.folder.iterdir() if path.suffix in (".sqlite3", ".jsonl")]
        assert [*modes, *(path.stat().st_mode & 0o077 for path in files)] == [0] * 5


def test_a_running_node_works_by_itself(tmp_path: Path, archive: Archive) -> None:
    one = Trial(tmp_path, archive.port, quiet_s=0.05)
    one.receiver.close()
    one.node.clock = time.time
    ports: list[int] = []
    thread = threading.Thread(target=one.node.run, args=(ports.append,))
    thread.start()
    until(lambda: ports)
    sent(ports[0], image(1))
    until(lambda: len(archive.of(SR)) == 1)
    one.node.stop()
    thread.join(5)
    assert not thread.is_alive()
    one.queue.__exit__()
    one.audit.__exit__()


def test_compressed_images_are_taken(tmp_path: Path) -> None:
    with trial(tmp_path) as one, modality(one.receiver.port, syntax=uid.JPEGBaseline8Bit) as peer:
        assert not peer.rejected_contexts
