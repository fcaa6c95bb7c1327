"""TLS, STOW-RS, C-ECHO and C-FIND on loopback, and what a configuration may say."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from pydicom import dcmread
from pydicom.dataset import Dataset

from medprompt.core.errors import InputError
from medprompt.runtime.dicom_node.config import Destination, Tls, node_config
from medprompt.runtime.dicom_node.deliver import DeliveryError, echo, find_series, send_objects
from medprompt.runtime.dicom_node.receive import client_context, server_context
from tests.runtime.dicom_node.nodes import Archive, content, image, modality, sent, trial

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom leaves the sockets of associations that did not come about to the garbage collector."""

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate of 127.0.0.1 that is its own authority."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "node.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "node.key").write_bytes(key.private_bytes(*private))
    return Tls(certificate=folder / "node.pem", key=folder / "node.key", ca=folder / "node.pem")


def test_with_an_authority_only_a_peer_with_a_certificate_is_heard(tmp_path: Path, tls: Tls) -> None:
    with trial(tmp_path, tls=tls.model_dump()) as one:
        port = one.receiver.port
        with modality(port, tls_args=(client_context(tls), "127.0.0.1")) as peer:
            assert peer.send_c_store(image(1)).Status == 0
        stranger = ssl.create_default_context(cafile=str(tls.ca))
        with modality(port, tls_args=(stranger, "127.0.0.1")) as peer:
            assert not peer.is_established
        with modality(port) as peer:
            assert not peer.is_established
        node = Destination(name="node", ae_title="MEDPROMPT", port=port, tls=tls)
        echo(node, "CT1")


def test_without_a_certificate_that_can_be_read_nothing_listens(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    wrong = {"certificate": tmp_path / "no.pem", "key": tmp_path / "no.pem"}
    node = Destination(name="node", ae_title="A", tls=Tls.model_validate(wrong))
    with pytest.raises(InputError, match="certificates"):
        server_context(Tls.model_validate(wrong), 1)
    with pytest.raises(InputError, match="certificates"):
        echo(node, "CT1")


class Web:
    """A DICOMweb service that keeps what it is sent, or answers with a status."""

    def __init__(self) -> None:
        self.status, self.bodies, self.tokens = 200, [], []  # type: ignore[var-annotated]
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.body()
                web.bodies.append(body)
                web.tokens.append(self.headers.get("Authorization"))
                self.answer("application/dicom+json", web.stored(body))

            def body(self) -> bytes:
                """Of a stated length, or in chunks, as large objects come."""
                if "Content-Length" in self.headers:
                    return self.rfile.read(int(self.headers["Content-Length"]))
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

            def do_GET(self) -> None:
                self.answer("application/dicom+json", b'[{"0020000D": {"vr": "UI", "Value": ["1.2.1"]}}]')

            def answer(self, kind: str, body: bytes) -> None:
                self.send_response(web.status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"

    def stored(self, body: bytes) -> bytes:
        """The answer to STOW-RS: each object of the body."""
        answer = Dataset()
        answer.ReferencedSOPSequence = []
        for part in body.split(b"\r\n\r\n")[1:]:
            one = dcmread(BytesIO(part), stop_before_pixels=True)
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
            answer.ReferencedSOPSequence.append(item)
        return answer.to_json().encode()


@pytest.fixture
def web() -> Iterator[Web]:
    one = Web()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_results_go_by_stow_too(tmp_path: Path, web: Web) -> None:
    (tmp_path / "token").write_text("secret\n")
    with trial(tmp_path / "queue", to={"ae_title": None, "url": web.url, "token_file": tmp_path / "token"}) as one:
        sent(one.receiver.port, image(1))
        web.status = 503
        one.pass_s(61)
        assert [event["why"] for event in one.events("delivery failed")] == ["HTTPError 503"]
        web.status = 200
        one.pass_s(10)
        assert one.queue.counts()["cleared"] == 1
    assert web.tokens[-1] == "Bearer secret"
    assert [body.count(b"DICM") for body in web.bodies] == [3, 3]


def test_an_archive_is_asked_over_the_web(web: Web) -> None:
    rows = find_series(Destination(name="a", url=web.url), "CT1")
    assert rows == [{"StudyInstanceUID": "1.2.1", "ModalitiesInStudy": ""}]


def test_an_archive_is_asked_by_find() -> None:
    from pynetdicom import AE, evt

    def answer(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        found = Dataset()
        found.StudyInstanceUID, found.ModalitiesInStudy = "1.2.1", ["CR", "SR"]
        yield 0xFF00, found

    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context(FIND)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    assert server
    archive = Destination(name="a", ae_title="ARCHIVE", port=server.server_address[1])
    assert find_series(archive, "CT1") == [{"StudyInstanceUID": "1.2.1", "ModalitiesInStudy": "CR\\SR"}]
    with pytest.raises(DeliveryError, match=r"AttributeError|ValueError|refused|not there"):
        echo(archive, "CT1")
    server.shutdown()


def test_files_are_sent_by_hand_or_it_is_said_why_not(tmp_path: Path) -> None:
    archive = Archive()
    (tmp_path / "a.dcm").write_bytes(content(image(1)))
    here = Destination(name="a", ae_title="ARCHIVE", port=archive.port)
    send_objects(here, "CT1", [tmp_path / "a.dcm"])
    assert [str(one.SOPInstanceUID) for one in archive.objects] == ["1.2.1.1.1"]
    archive.status = 0xA700
    with pytest.raises(DeliveryError, match="A700"):
        send_objects(here, "CT1", [tmp_path / "a.dcm"])
    archive.close()


GOOD = 'queue = "q"\ncalling = ["CT1"]\n[[destination]]\nname = "a"\nae_title = "ARCHIVE"\n'


def test_a_file_and_options_make_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(GOOD + 'tls = {ca = "ca.pem"}\n')
    node = node_config(tmp_path / "node.toml", {"port": 4242, "host": None})
    assert (node.queue, node.port, node.host) == (tmp_path / "q", 4242, "127.0.0.1")
    assert node.destination[0].tls == Tls(ca=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("CT1", "A NAME THAT IS TOO LONG"), "calling"),
        (GOOD.replace('"CT1"', ""), "calling"),
        (GOOD.replace("queue", "qeue"), "queue"),
        (GOOD + 'url = "http://127.0.0.1/"\n', "either"),
        (GOOD.replace("ARCHIVE", " "), "ae_title"),
        (GOOD + '[[destination]]\nname = "a"\nae_title = "B"\n', "different names"),
        (GOOD + '[tls]\nca = "ca.pem"\n', "certificate"),
        (GOOD + "[limits]\nassociations = 0\n", "associations"),
        ("queue = ", "read"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        node_config(tmp_path / "node.toml", {})
