"""All that a node was given and has not yet done, on disk: SQLite beside files.

A file is on the disk before its row is, and its row before the sender is answered: what was acknowledged is never
lost. A study's instances are bound to a report in one transaction, so that a repeat after a crash has the same input;
a report's objects are on the disk before the first is sent, so that a repeat sends the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from medprompt.core.errors import InputError
from medprompt.runtime.dicom_node.disk import sync_folder, write_durably
from medprompt.runtime.dicom_node.rows import SCHEMA, STATES, Delivery, Instance, Job

PRIVATE = 0o700


APPLICATION = 0x6D706474
"""How SQLite's header tells a queue of ours from another's database."""


class Queue:
    """The folder of a node; one process at a time. Safe for threads.

    Raises:
        InputError: Another process has it, it cannot be written, or it has unfinished work of another bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        try:
            folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            _check_ours(folder)
            folder.chmod(PRIVATE)
            self._claim = FileLock(folder / "lock", timeout=0)
            self._claim.acquire()
            self._db = self._opened()
            for each in (self.images, self.results, self.dead):
                each.mkdir(mode=PRIVATE, exist_ok=True)
        except Timeout:
            raise InputError(
                "The queue is in use.", where=str(folder), got="another listener", fix="stop it, or name another queue"
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                "The queue cannot be used.",
                where=str(folder),
                expected="an empty folder or a node's queue, on a disk with room, that may be written to",
                got=type(error).__name__,
                fix="name another folder with queue=",
            ) from None

    def _opened(self) -> sqlite3.Connection:
        path = self.folder / "queue.sqlite3"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if tables and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            db.close()
            raise sqlite3.DatabaseError
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.executescript(SCHEMA)
        return db

    @property
    def images(self) -> Path:
        """Received files."""
        return self.folder / "images"

    @property
    def results(self) -> Path:
        """Objects to send, a folder a report."""
        return self.folder / "results"

    @property
    def dead(self) -> Path:
        """Objects that could not be delivered, and images that could not be analysed."""
        return self.folder / "dead"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._db.close()
        self._claim.release()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction, one at a time."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def bind(self, means: str, labels: str) -> None:
        """Take the queue for a bundle and its prompts.

        Raises:
            InputError: It has unfinished work of another.
        """
        known = self._rows("SELECT value FROM meta WHERE name = 'means'")
        unfinished = self.counts()
        if known and known[0]["value"] != means and unfinished["waiting"] + unfinished["analyse"]:
            raise InputError(
                "The queue has unfinished studies of another bundle.",
                where=str(self.folder),
                expected=known[0]["value"],
                got=f"{means} ({labels})",
                fix="let the other bundle finish them, or name another queue",
            )
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('means', ?)", (means,))

    def sweep(self) -> None:
        """Delete files that no row knows: those of a receipt that was never acknowledged."""
        known = {row["file"] for row in self._rows("SELECT file FROM instances")}
        for path in self.images.iterdir():
            if path.name not in known and path.suffix in (".dcm", ".part"):
                path.unlink()
        for path in self.results.iterdir():
            if not self._rows("SELECT 1 FROM reports WHERE id = ? AND state != 'analyse'", path.name):
                shutil.rmtree(path)

    def counts(self) -> dict[str, int]:
        """How many objects wait, and how many reports are in which state."""
        states = {row["state"]: row["n"] for row in self._rows("SELECT state, COUNT(*) n FROM reports GROUP BY state")}
        (waiting,) = self._rows("SELECT COUNT(*) n FROM instances WHERE report IS NULL")
        return {"waiting": waiting["n"], **{name: states.get(name, 0) for name in STATES}}

    def unfinished(self) -> int:
        """Objects whose report is not yet made."""
        (row,) = self._rows(
            "SELECT COUNT(*) n FROM instances i LEFT JOIN reports r ON r.id = i.report "
            "WHERE r.id IS NULL OR r.state = 'analyse'"
        )
        return int(row["n"])

    def add(self, content: bytes, now: float, **uids: str) -> bool:
        """Keep an object: on disk, then in the table. False where it was here before with the same bytes.

        Args:
            content: The whole file.
            now: Seconds since 1970.
            uids: ``sop``, ``study``, ``series``, ``sop_class``.

        Raises:
            OSError, sqlite3.Error: It could not be kept, and must not be acknowledged.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        if self._rows("SELECT 1 FROM instances WHERE sop = ? AND sha256 = ?", uids["sop"], sha256):
            return False
        name = hashlib.sha256(f"{uids['sop']} {sha256}".encode()).hexdigest()[:40] + ".dcm"
        write_durably(self.images / name, content)
        values = (uids["sop"], sha256, uids["study"], uids["series"], uids["sop_class"], name, len(content), now)
        with self._change() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO instances (sop, sha256, study, series, sop_class, file, bytes, received) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            ).rowcount
            db.execute("INSERT OR REPLACE INTO studies VALUES (?, ?)", (uids["study"], now))
        return bool(added)

    def close_quiet(self, before: float, now: float) -> int:
        """Bind what waits of studies that nothing came of since ``before`` to a report each; how many."""
        quiet = self._rows(
            "SELECT DISTINCT s.uid FROM studies s JOIN instances i ON i.study = s.uid "
            "WHERE i.report IS NULL AND s.received <= ? ORDER BY s.received",
            before,
        )
        for row in quiet:
            with self._change() as db:
                made = db.execute(
                    "INSERT INTO reports (study, made, state, attempts, next) VALUES (?, ?, 'analyse', 0, ?)",
                    (row["uid"], now, now),
                ).lastrowid
                db.execute("UPDATE instances SET report = ? WHERE study = ? AND report IS NULL", (made, row["uid"]))
        return len(quiet)

    def next_job(self, now: float) -> Job | None:
        """The oldest report to make. The attempt counts from here on, so that one that kills the process ends too."""
        rows = self._rows("SELECT * FROM reports WHERE state = 'analyse' AND next <= ? ORDER BY id LIMIT 1", now)
        if not rows:
            return None
        report = rows[0]
        with self._change() as db:
            db.execute("UPDATE reports SET attempts = attempts + 1 WHERE id = ?", (report["id"],))
        instances = self._rows("SELECT * FROM instances WHERE report = ? ORDER BY series, sop, id", report["id"])
        earlier = self._rows(
            "SELECT uid FROM reports WHERE study = ? AND id < ? AND uid != '' ORDER BY id",
            report["study"],
            report["id"],
        )
        return Job(
            report["id"],
            report["study"],
            report["made"],
            report["attempts"] + 1,
            tuple(map(self._instance, instances)),
            tuple(row["uid"] for row in earlier),
        )

    def _instance(self, row: sqlite3.Row) -> Instance:
        uids = {name: row[name] for name in ("sop", "sha256", "study", "series", "sop_class")}
        return Instance(**uids, file=self.images / row["file"])

    def made(self, job: Job, uid: str, objects: Sequence[bytes], destinations: Sequence[str], now: float) -> None:
        """Keep a report's objects on disk, then owe them to each destination."""
        folder = self.results / str(job.id)
        folder.mkdir(mode=PRIVATE, exist_ok=True)
        for number, content in enumerate(objects):
            write_durably(folder / f"{number:03}.dcm", content)
        sync_folder(self.results)
        with self._change() as db:
            db.execute("UPDATE reports SET state = 'send', uid = ? WHERE id = ?", (uid, job.id))
            db.executemany(
                "INSERT OR IGNORE INTO deliveries (report, destination, state, attempts, next) "
                "VALUES (?, ?, 'send', 0, ?)",
                [(job.id, name, now) for name in destinations],
            )

    def postpone(self, job: Job, until: float) -> None:
        """Make a report later."""
        with self._change() as db:
            db.execute("UPDATE reports SET next = ? WHERE id = ?", (until, job.id))

    def give_up(self, report: int, now: float) -> None:
        """Move a report's images and objects to the dead letters; nothing of them is deleted."""
        folder = self.dead / str(report)
        folder.mkdir(mode=PRIVATE, exist_ok=True)
        for path in [*self._images_of(report), *self.objects(report)]:
            if path.exists():
                with suppress(FileExistsError):
                    (folder / path.name).hardlink_to(path)
        with self._change() as db:
            db.execute("UPDATE reports SET state = 'dead', done = ? WHERE id = ?", (now, report))
            db.execute("UPDATE deliveries SET state = 'dead' WHERE report = ? AND state != 'done'", (report,))

    def revive(self, now: float) -> int:
        """Take up the dead letters again; how many."""
        dead = self._rows("SELECT id FROM reports WHERE state = 'dead'")
        for row in dead:
            again = "send" if self.objects(row["id"]) else "analyse"
            with self._change() as db:
                db.execute(
                    "UPDATE reports SET state = ?, attempts = 0, next = ?, done = NULL WHERE id = ?",
                    (again, now, row["id"]),
                )
                db.execute(
                    "UPDATE deliveries SET state = 'send', attempts = 0, next = ? WHERE report = ? AND state = 'dead'",
                    (now, row["id"]),
                )
            shutil.rmtree(self.dead / str(row["id"]), ignore_errors=True)
        return len(dead)

    def next_delivery(self, now: float) -> Delivery | None:
        """The delivery that is due for longest; a report's destinations do not wait for each other."""
        rows = self._rows(
            "SELECT * FROM deliveries WHERE state IN ('send', 'commit') AND next <= ? ORDER BY next, report LIMIT 1",
            now,
        )
        return next((Delivery(row["report"], row["destination"], row["attempts"], row["state"]) for row in rows), None)

    def objects(self, report: int) -> list[Path]:
        """The files of a report's objects."""
        return sorted((self.results / str(report)).glob("*.dcm"))

    def _images_of(self, report: int) -> list[Path]:
        return [self.images / row["file"] for row in self._rows("SELECT file FROM instances WHERE report = ?", report)]

    def delivery_failed(self, delivery: Delivery, until: float) -> None:
        """Try again at ``until``."""
        with self._change() as db:
            db.execute(
                "UPDATE deliveries SET state = 'send', attempts = attempts + 1, next = ? "
                "WHERE report = ? AND destination = ?",
                (until, delivery.report, delivery.destination),
            )

    def commitment_asked(self, delivery: Delivery, transaction: str, until: float) -> None:
        """Sent: the archive answers later whether it keeps the objects; they are sent again at ``until`` without."""
        with self._change() as db:
            db.execute(
                "UPDATE deliveries SET state = 'commit', transaction_uid = ?, next = ?, attempts = attempts + 1 "
                "WHERE report = ? AND destination = ?",
                (transaction, until, delivery.report, delivery.destination),
            )

    def commitment_answered(self, transaction: str, kept: bool, now: float) -> bool:
        """What an archive says of a transaction; False where none is known."""
        rows = self._rows("SELECT * FROM deliveries WHERE transaction_uid = ? AND state = 'commit'", transaction)
        for row in rows:
            delivery = Delivery(row["report"], row["destination"], row["attempts"], row["state"])
            if kept:
                self.delivered(delivery, now)
            else:
                self.delivery_failed(delivery, now)
        return bool(rows)

    def delivered(self, delivery: Delivery, now: float) -> None:
        """Done at one destination; after the last the report is."""
        with self._change() as db:
            db.execute(
                "UPDATE deliveries SET state = 'done' WHERE report = ? AND destination = ?",
                (delivery.report, delivery.destination),
            )
            db.execute(
                "UPDATE reports SET state = 'done', done = ? WHERE id = ? AND NOT EXISTS "
                "(SELECT 1 FROM deliveries WHERE report = reports.id AND state != 'done')",
                (now, delivery.report),
            )

    def forget(self, files_before: float, rows_before: float) -> None:
        """Delete files of reports done before ``files_before``, and rows of those done before ``rows_before``."""
        for row in self._rows("SELECT id FROM reports WHERE state = 'done' AND done <= ?", files_before):
            for path in self._images_of(row["id"]):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.results / str(row["id"]), ignore_errors=True)
            with self._change() as db:
                db.execute("UPDATE reports SET state = 'cleared' WHERE id = ?", (row["id"],))
        for row in self._rows("SELECT id FROM reports WHERE state = 'cleared' AND done <= ?", rows_before):
            with self._change() as db:
                db.execute("DELETE FROM deliveries WHERE report = ?", (row["id"],))
                db.execute("DELETE FROM instances WHERE report = ?", (row["id"],))
                db.execute("DELETE FROM reports WHERE id = ?", (row["id"],))


def _check_ours(folder: Path) -> None:
    """Refuse a folder with files of another: a queue deletes what it does not know."""
    names = {path.name for path in folder.iterdir()}
    if names - {"lock"} and "queue.sqlite3" not in names:
        raise InputError(
            "The folder is no queue of a node.",
            where=str(folder),
            expected="an empty or a new folder, or a queue",
            got=f"a folder with {len(names)} other files",
            fix="name another folder",
        )
