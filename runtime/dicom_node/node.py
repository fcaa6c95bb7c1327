"""A node: what came is analysed when its study is quiet, and delivered until it has arrived."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pydicom.uid import generate_uid

from medprompt.runtime.batch import hashed_id
from medprompt.runtime.dicom_node.analyse import Analyse, objects_of
from medprompt.runtime.dicom_node.audit import Audit
from medprompt.runtime.dicom_node.config import NodeConfig
from medprompt.runtime.dicom_node.deliver import DeliveryError, ask_commitment, send_objects
from medprompt.runtime.dicom_node.queue import Queue
from medprompt.runtime.dicom_node.receive import Receiver
from medprompt.runtime.dicom_node.rows import Delivery, Job

ERRORS_AGAIN = 3
"""Times that a study with a frame of status ERROR is analysed, before it is reported so: memory may be free again."""

IDLE_S = 1.0
"""How often the queue is looked at while nothing happens."""

_log = logging.getLogger(__name__)


class Node:
    """Works a queue off.

    Args:
        config: What it was told.
        queue: Its folder, open.
        analyse: Detects in files; called from one thread.
        audit: Told about each step.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        config: NodeConfig,
        queue: Queue,
        analyse: Analyse,
        audit: Audit,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.queue, self.audit, self.clock = config, queue, audit, clock
        self._analyse = analyse
        self._destinations = {one.name: one for one in config.destination}
        self._stop, self._woken = threading.Event(), threading.Condition()
        queue.sweep()

    def run(self, ready: Callable[[int], Any] = lambda port: None) -> None:
        """Listen and work until ``stop``; ``ready`` is told the port."""
        receiver = Receiver(self.config, self.queue, self.audit, self.wake)
        sender = threading.Thread(target=self._work, args=(self.deliver_one,), name="deliver")
        sender.start()
        try:
            self.audit("listening", port=receiver.port)
            ready(receiver.port)
            self._work(self.analyse_one)
        finally:
            self.stop()
            receiver.close()
            sender.join()
            self.audit("stopped")

    def stop(self) -> None:
        """End ``run`` after the step that it is at; what is left stays in the queue."""
        self._stop.set()
        self.wake()

    def wake(self) -> None:
        """Look at the queue now."""
        with self._woken:
            self._woken.notify_all()

    def _work(self, one: Callable[[], bool]) -> None:
        """Do one after another; whatever fails, the node goes on, and the queue has what is left."""
        while not self._stop.is_set():
            try:
                busy = one()
            except Exception as error:
                _log.warning("a step of the node failed: %s", type(error).__name__)
                self.audit("step failed", why=type(error).__name__)
                busy = False
            if not busy:
                with self._woken:
                    self._woken.wait(min(IDLE_S, self.config.quiet_s))

    def analyse_one(self) -> bool:
        """Make the next report that is due; False where there is none."""
        now = self.clock()
        self.queue.close_quiet(now - self.config.quiet_s, now)
        keep = self.config.keep
        self.queue.forget(now - 3600 * keep.hours, now - 86400 * keep.known_days)
        job = self.queue.next_job(now)
        if job is None:
            return False
        if job.attempts > self.config.retry.analyses:
            self.queue.give_up(job.id, now)
            self.audit("dead letter", study=hashed_id(job.study), why="analysis")
            return True
        try:
            self._report(job)
        except Exception as error:  # whatever it was: this study is tried again, the others go on
            _log.debug("a study failed", exc_info=True)
            self._postpone(job, type(error).__name__)
        self.wake()
        return True

    def _report(self, job: Job) -> None:
        run = self._analyse([one.file for one in job.instances])
        if any(item.status == "ERROR" for item in run.items) and job.attempts < ERRORS_AGAIN:
            self._postpone(job, "ERROR")
            return
        uid, objects = objects_of(job, run)
        self.queue.made(job, uid, objects, list(self._destinations), self.clock())
        detections = sum(len(item.detections) for item in run.items if item.detections is not None)
        statuses = [item.status for item in run.items]
        self.audit(
            "report made",
            study=hashed_id(job.study),
            report=hashed_id(uid),
            objects=len(objects),
            detections=detections,
            **{status: statuses.count(status) for status in sorted(set(statuses))},
        )

    def _postpone(self, job: Job, why: str) -> None:
        self.queue.postpone(job, self.clock() + self._pause_s(job.attempts - 1))
        self.audit("analysis failed", study=hashed_id(job.study), attempt=job.attempts, why=why)

    def _pause_s(self, failures: int) -> float:
        retry = self.config.retry
        return min(retry.longest_s, retry.first_s * 2.0 ** min(failures, 30))

    def deliver_one(self) -> bool:
        """Do the next delivery that is due; False where there is none."""
        now = self.clock()
        delivery = self.queue.next_delivery(now)
        if delivery is None:
            return False
        if delivery.attempts >= self.config.retry.attempts or delivery.destination not in self._destinations:
            self.queue.give_up(delivery.report, now)
            self.audit("dead letter", report=delivery.report, destination=delivery.destination, why="delivery")
            return True
        try:
            self._deliver(delivery)
        except (DeliveryError, OSError) as error:
            self.queue.delivery_failed(delivery, self.clock() + self._pause_s(delivery.attempts))
            why = error.got if isinstance(error, DeliveryError) else type(error).__name__
            self.audit("delivery failed", report=delivery.report, destination=delivery.destination, why=why)
        return True

    def _deliver(self, delivery: Delivery) -> None:
        """Send a report's objects: after a crash the same ones, which an archive knows by their UIDs."""
        destination = self._destinations[delivery.destination]
        paths = self.queue.objects(delivery.report)
        timeout_s = self.config.limits.peer_s
        send_objects(destination, self.config.ae_title, paths, timeout_s)
        if destination.commitment:
            transaction = generate_uid(prefix=None)
            # Noted first: the answer may be here before the request has returned.
            self.queue.commitment_asked(delivery, transaction, self.clock() + self.config.retry.commitment_s)
            ask_commitment(destination, self.config.ae_title, paths, transaction, timeout_s)
        else:
            self.queue.delivered(delivery, self.clock())
        self.audit("delivered", report=delivery.report, destination=delivery.destination, objects=len(paths))
