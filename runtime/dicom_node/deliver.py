"""The client side of a node: C-ECHO, C-STORE, storage commitment, C-FIND; STOW-RS and QIDO-RS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medprompt.core.errors import MedpromptError
from medprompt.runtime.dicom_node.config import Destination
from medprompt.runtime.dicom_node.receive import client_context

COMMIT = 1
"""Action type ID "Request Storage Commitment" (PS3.4, J.3.2.1)."""


class DeliveryError(MedpromptError):
    """A destination that did not take what it was sent; nothing of it may be deleted."""


def send_objects(destination: Destination, calling: str, paths: Sequence[Path], timeout_s: float = 30) -> None:
    """Send files to an archive, by C-STORE or STOW-RS.

    Raises:
        DeliveryError: The archive is not there, or did not take each of them.
    """
    if destination.url:
        _stow(destination, paths, timeout_s)
        return
    contexts = dict.fromkeys(_class_and_syntax(path) for path in paths)
    with association(destination, calling, list(contexts), timeout_s) as peer:
        for path in paths:
            _store(peer, destination, path)


def ask_commitment(
    destination: Destination, calling: str, paths: Sequence[Path], transaction: str, timeout_s: float = 30
) -> None:
    """Ask an archive to answer for objects that it was sent; its answer comes to the node later.

    Raises:
        DeliveryError: It does not take the request.
    """
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )

    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = [_reference(path) for path in paths]
    with association(destination, calling, [(StorageCommitmentPushModel, "")], timeout_s) as peer:
        answer = _tried(
            destination,
            lambda: peer.send_n_action(request, COMMIT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)[
                0
            ],
        )
    _check(answer, destination, "storage commitment")


def echo(destination: Destination, calling: str, timeout_s: float = 30) -> None:
    """C-ECHO.

    Raises:
        DeliveryError: The archive does not answer.
    """
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    with association(destination, calling, [(Verification, "")], timeout_s) as peer:
        _check(_tried(destination, peer.send_c_echo), destination, "C-ECHO")


def find_series(destination: Destination, calling: str, study: str = "", timeout_s: float = 30) -> list[dict[str, str]]:
    """Studies of an archive, or the series of one: UIDs, modalities and counts, and no patient.

    By C-FIND, or by QIDO-RS where the destination has a ``url``.

    Raises:
        DeliveryError: The archive does not answer.
    """
    names = ["SeriesInstanceUID", "Modality", "SeriesNumber"] if study else ["StudyInstanceUID", "ModalitiesInStudy"]
    if destination.url:
        found = _qido(destination, study, timeout_s)
    else:
        found = _find(destination, calling, study, names, timeout_s)
    return [{name: _text(one.get(name)) for name in names} for one in found]


@contextmanager
def association(
    destination: Destination, calling: str, contexts: Sequence[tuple[str, str]], timeout_s: float
) -> Iterator[Any]:
    """An association with SOP classes, each in its transfer syntax or in both uncompressed little-endian ones.

    Raises:
        DeliveryError: None came about.
    """
    from pynetdicom import AE

    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout_s
    for sop_class, syntax in contexts:
        plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        entity.add_requested_context(sop_class, plain if syntax in ("", *plain) else [syntax])
    tls = (client_context(destination.tls), destination.host) if destination.tls else None
    peer = _tried(
        destination,
        lambda: entity.associate(destination.host, destination.port, ae_title=str(destination.ae_title), tls_args=tls),
    )
    if not peer.is_established:
        state = "refused the association" if peer.is_rejected else "is not there, or broke off"
        raise _failed(destination, f"it {state}")
    try:
        yield peer
    finally:
        if peer.is_established:
            peer.release()


def _class_and_syntax(path: Path) -> tuple[str, str]:
    header = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    return str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)


def _reference(path: Path) -> Dataset:
    header = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _store(peer: Any, destination: Destination, path: Path) -> None:
    _check(_tried(destination, lambda: peer.send_c_store(dcmread(path))), destination, "C-STORE")


def _check(answer: Dataset, destination: Destination, what: str) -> None:
    """Success or a warning (Bxxx: it was kept); no answer is a failure."""
    status = answer.get("Status")
    if status is None:
        raise _failed(destination, f"no answer to {what}")
    if status != 0 and status >> 12 != 0xB:
        raise _failed(destination, f"status {status:04X} to {what}")


def _tried(destination: Destination, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise _failed(destination, type(error).__name__) from None


def _failed(destination: Destination, got: str) -> DeliveryError:
    fix = "see whether it answers: medprompt dicom query --to … --echo; and whether it knows our AE title"
    return DeliveryError("The archive did not take it.", where=destination.name, got=got, fix=fix)


def _find(destination: Destination, calling: str, study: str, names: Sequence[str], timeout_s: float) -> list[Dataset]:
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find  # type: ignore[attr-defined]

    query = Dataset()
    query.QueryRetrieveLevel = "SERIES" if study else "STUDY"
    for name in names:
        setattr(query, name, "")
    if study:
        query.StudyInstanceUID = study
    found: list[Dataset] = []
    with association(destination, calling, [(Find, "")], timeout_s) as peer:
        for answer, identifier in _tried(destination, lambda: list(peer.send_c_find(query, Find))):
            if answer.get("Status") in (0xFF00, 0xFF01):
                found.append(identifier)
            else:
                _check(answer, destination, "C-FIND")
    return found


def _client(destination: Destination, timeout_s: float) -> Any:
    """A DICOMweb client that talks to the configured host alone: no proxy or password of the environment."""
    import requests
    from dicomweb_client import DICOMwebClient
    from requests.adapters import HTTPAdapter

    class Timely(HTTPAdapter):
        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
            return super().send(request, **{**options, "timeout": timeout_s})

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Timely())
    session.mount("https://", Timely())
    if destination.tls and destination.tls.ca:
        session.verify = str(destination.tls.ca)
    if destination.tls and destination.tls.certificate:
        session.cert = (str(destination.tls.certificate), str(destination.tls.key))
    token = destination.token_file.read_text().strip() if destination.token_file else ""
    client = DICOMwebClient(
        str(destination.url), session=session, headers={"Authorization": f"Bearer {token}"} if token else None
    )
    client.set_http_retry_params(retry=False)
    return client


def _stow(destination: Destination, paths: Sequence[Path], timeout_s: float) -> None:
    answer = _on_web(destination, lambda: _client(destination, timeout_s).store_instances(list(map(dcmread, paths))))
    kept = {str(one.ReferencedSOPInstanceUID) for one in answer.get("ReferencedSOPSequence") or []}
    missing = {str(_reference(path).ReferencedSOPInstanceUID) for path in paths} - kept
    if missing:
        raise _failed(destination, f"{len(missing)} of {len(paths)} objects are not in its answer to STOW-RS")


def _qido(destination: Destination, study: str, timeout_s: float) -> list[Dataset]:
    client = _client(destination, timeout_s)
    rows = _on_web(destination, lambda: client.search_for_series(study) if study else client.search_for_studies())
    return list(map(Dataset.from_json, rows))


def _on_web(destination: Destination, do: Callable[[], Any]) -> Any:
    """The library's errors have no common base, and their texts may quote an object."""
    try:
        return do()
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        raise _failed(destination, f"{type(error).__name__} {status}".strip()) from None


def _text(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, str | int) else "\\".join(map(str, value))
