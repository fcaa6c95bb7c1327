"""The server side of a node: C-ECHO, C-STORE, and an archive's answers about storage commitment."""

from __future__ import annotations

import re
import shutil
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pydicom import dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, MPEGTransferSyntaxes, UncompressedTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from medprompt.core.errors import ImageError, InputError
from medprompt.dicom.header import DECODERS, pydicom_at_work
from medprompt.runtime.batch import hashed_id
from medprompt.runtime.dicom_node.audit import Audit
from medprompt.runtime.dicom_node.config import NodeConfig, Tls
from medprompt.runtime.dicom_node.queue import Queue

SUCCESS, OUT_OF_RESOURCES, NOT_OF_CLASS, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4, B.2.3)."""

PLAIN = [one for one in UncompressedTransferSyntaxes if one != DeflatedExplicitVRLittleEndian]
"""Without the deflated one: 64 MB of it can be 64 GB, and each sender of it knows a plain one too (PS3.5, 10.1)."""

SYNTAXES = [*PLAIN, *DECODERS, *MPEGTransferSyntaxes]
"""Transfer syntaxes that the node takes; others are refused when an association is negotiated."""

IMAGES = [
    str(one.abstract_syntax)
    for one in AllStoragePresentationContexts
    if "Image Storage" in UID(str(one.abstract_syntax)).name
]

OWN = "medprompt"
"""Manufacturer of the objects that we make: an archive that routes them back must not start a circle."""

UIDS = {"sop": "SOPInstanceUID", "study": "StudyInstanceUID", "series": "SeriesInstanceUID", "sop_class": "SOPClassUID"}


class Receiver:
    """Listens as long as it is open; each object is on the disk before its sender is told so.

    Raises:
        InputError: The address is in use or not this machine's, or a certificate cannot be used.
    """

    def __init__(self, config: NodeConfig, queue: Queue, audit: Audit, woken: Callable[[], None]) -> None:
        self.config, self.queue, self.audit, self.woken = config, queue, audit, woken
        self._received: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_EVENT_REPORT, self._commitment),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_DIMSE_RECV, self._whole),
            (evt.EVT_REJECTED, lambda event: self.audit("association refused", peer=self._peer(event))),
            (evt.EVT_ABORTED, lambda event: self.audit("association aborted", peer=self._peer(event))),
        ]
        context = server_context(config.tls, config.limits.peer_s) if config.tls else None
        try:
            server = _entity(config).start_server(
                (config.host, config.port), block=False, ssl_context=context, evt_handlers=handlers
            )
        except OSError as error:
            raise InputError(
                "The node cannot listen.", where=f"{config.host}:{config.port}", got=error.strerror or ""
            ) from None
        assert server is not None  # block=False
        self._server = server

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Take no more associations, and end those that there are."""
        self._server.shutdown()

    def _peer(self, event: Any) -> str:
        """A known peer's AE title; of others the hash, for anything may stand there."""
        title = str(event.assoc.requestor.ae_title or "").strip()
        return title if title in self.config.calling else f"unknown {hashed_id(title)}"

    def _count(self, event: Any) -> None:
        """End an association whose object outgrows the limit, before it fills the memory."""
        self._received[event.assoc] = self._received.get(event.assoc, 0) + len(event.data)
        if self._received[event.assoc] > self.config.limits.object_mb * 1e6:
            self._received[event.assoc] = 0
            self.audit("object too large", peer=self._peer(event))
            # Not here: this is the thread that an abort waits for.
            threading.Thread(target=event.assoc.abort, daemon=True).start()

    def _whole(self, event: Any) -> None:
        self._received[event.assoc] = 0

    def _store(self, event: Any) -> int:
        try:
            status, uid = self._kept(event)
        except (OSError, sqlite3.Error, MemoryError) as error:
            status, uid = OUT_OF_RESOURCES, ""
            self.audit("object refused", why=type(error).__name__)
        self.audit("object received", peer=self._peer(event), instance=hashed_id(uid), status=f"{status:04X}")
        return status

    def _kept(self, event: Any) -> tuple[int, str]:
        """Keep an object: the status to answer with, and its UID. Only what is on the disk is a success."""
        content = event.encoded_dataset()
        uids, manufacturer = _identity(content)
        if not all(uids.values()):
            return NOT_UNDERSTOOD, ""
        if (uids["sop"], uids["sop_class"]) != (
            str(event.request.AffectedSOPInstanceUID),
            str(event.request.AffectedSOPClassUID),
        ):
            return NOT_OF_CLASS, uids["sop"]
        if manufacturer == OWN:
            self.audit("own object left alone", instance=hashed_id(uids["sop"]))
            return SUCCESS, uids["sop"]
        limits = self.config.limits
        free = shutil.disk_usage(self.queue.folder).free - len(content)
        if self.queue.unfinished() >= limits.queue_objects or free < limits.free_mb * 1e6:
            return OUT_OF_RESOURCES, uids["sop"]
        if self.queue.add(content, time.time(), **uids):
            self.woken()
        return SUCCESS, uids["sop"]

    def _commitment(self, event: Any) -> tuple[int, None]:
        transaction = str(event.event_information.get("TransactionUID", ""))
        kept = event.event_type == 1
        known = self.queue.commitment_answered(transaction, kept, time.time())
        self.audit("commitment", transaction=hashed_id(transaction), kept=int(kept), known=int(known))
        self.woken()
        return SUCCESS, None


def _entity(config: NodeConfig) -> Any:
    entity = AE(ae_title=config.ae_title)
    entity.require_called_aet = True
    archives = [one.ae_title for one in config.destination if one.ae_title and one.commitment]
    entity.require_calling_aet = [*config.calling, *archives]
    entity.maximum_associations = config.limits.associations
    entity.maximum_pdu_size = config.limits.pdu_bytes
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = config.limits.peer_s
    entity.add_supported_context(Verification)
    for sop_class in IMAGES:
        entity.add_supported_context(sop_class, SYNTAXES)
    if archives:
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    return entity


def _identity(content: bytes) -> tuple[dict[str, str], str]:
    """The UIDs of an object, empty where they are none or it cannot be read, and its manufacturer."""
    try:
        with pydicom_at_work(Path("object"), "reading a received object"):
            tags = [*UIDS.values(), "Manufacturer"]
            header = dcmread(BytesIO(content), specific_tags=list(tags), stop_before_pixels=True)
            uids = {name: str(header.get(tag, "")) for name, tag in UIDS.items()}
            manufacturer = str(header.get("Manufacturer", ""))
    except ImageError:
        return dict.fromkeys(UIDS, ""), ""
    return {
        name: uid if re.fullmatch(r"[0-9.]{1,64}", uid, re.ASCII) else "" for name, uid in uids.items()
    }, manufacturer


class _Unhurried(ssl.SSLContext):
    """Shakes hands in a connection's own thread: a peer that says nothing does not keep the others waiting."""

    peer_s: float = 30

    def wrap_socket(self, sock: Any, server_side: bool = False, **_: Any) -> ssl.SSLSocket:  # type: ignore[override]
        """As the base, without a handshake yet."""
        sock.settimeout(self.peer_s)
        return super().wrap_socket(sock, server_side, do_handshake_on_connect=False)


def server_context(tls: Tls, peer_s: float) -> ssl.SSLContext:
    """TLS 1.2 or newer with the node's certificate; with ``ca`` a peer without a certificate of it is refused."""
    context = _Unhurried(ssl.PROTOCOL_TLS_SERVER)
    context.peer_s = peer_s
    return _with_certificates(context, tls, check=tls.ca is not None)


def client_context(tls: Tls) -> ssl.SSLContext:
    """TLS towards a destination, whose certificate and name are always checked."""
    return _with_certificates(ssl.create_default_context(), tls, check=True)


def _with_certificates(context: ssl.SSLContext, tls: Tls, *, check: bool) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        where = ", ".join(str(one) for one in (tls.certificate, tls.key, tls.ca) if one)
        raise InputError(
            "The certificates cannot be used.", where=where, expected="PEM files", got=type(error).__name__
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED if check else ssl.CERT_NONE
    return context
