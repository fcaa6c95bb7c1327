"""Who made a bundle: an Ed25519 signature of its hash, made and checked offline with keys in PEM files.

The hashes in a bundle protect against damage and mix-ups; who changes a file can change them too. A signature cannot be
made without the private key, which stays on the build server; devices hold the public one.

Ed25519 (RFC 8032) by the library ``cryptography``. Keys of ``openssl genpkey -algorithm ed25519`` serve as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medprompt.bundles.load import Bundle, SegmenterBundle
from medprompt.core.errors import BundleError, InputError, missing_extra
from medprompt.core.files import atomic_write, sha256_of_file, write_text
from medprompt.core.models import FrozenModel
from medprompt.core.outputs import lock_outputs, place_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = "manifest.sig"
PURPOSE = b"medprompt bundle\n"
"""Stands before what is signed, so that a signature for something else never fits a bundle."""

FILE_PURPOSE = b"medprompt file\n"


class Signature(FrozenModel):
    """The content of ``manifest.sig``.

    Attributes:
        algorithm: The only one.
        key: SHA-256 (16 hex digits) of the public key's 32 bytes, to say which key is requested.
        bundle_sha256: What was signed.
        signature: Base64.
    """

    algorithm: str = "Ed25519"
    key: str
    bundle_sha256: str
    signature: str


class FileSignature(FrozenModel):
    """The content of ``NAME.sig`` beside a file: see ``Signature``; ``sha256`` is the file's."""

    algorithm: str = "Ed25519"
    key: str
    file: str
    sha256: str
    signature: str


def make_key_pair(private: Path, public: Path) -> str:
    """Write a new key pair as PEM (PKCS #8 and SubjectPublicKeyInfo); only its owner may read the private one.

    Returns:
        The key's name, see ``Signature.key``.

    Raises:
        InputError: A file exists, both are one, or the path cannot be written to.
        EngineError: ``cryptography`` is not installed.
    """
    serialization, keys = _cryptography()
    if place_of(private) == place_of(public):
        raise InputError(
            "Two outputs are one.",
            where="private_key, public_key",
            got=str(public),
            fix="give each a path of its own",
        )
    for path in (private, public):
        if path.exists():
            raise InputError("An existing key is never overwritten.", where=str(path), fix="choose another path")
    key = keys.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    contents = {
        private: key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        public: key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    }
    for path, content in contents.items():
        with atomic_write(path, mode=0o600 if path == private else 0o644) as aside:
            aside.write_bytes(content)
    return _name(key.public_key())


def sign_bundle(bundle: Bundle | SegmenterBundle, private: Path, password: bytes | None = None) -> Signature:
    """Sign a verified bundle; an earlier signature is replaced.

    Raises:
        InputError: The key cannot be read, or is none of Ed25519.
        EngineError: ``cryptography`` is not installed.
    """
    key: Ed25519PrivateKey = _read_key(private, "private", password)
    made = base64.b64encode(key.sign(_message(bundle))).decode()
    signature = Signature(key=_name(key.public_key()), bundle_sha256=bundle.sha256, signature=made)
    with lock_outputs([bundle.path]):  # a compile may be at it
        write_text(bundle.path / SIGNATURE_FILE, signature.model_dump_json(indent=2) + "\n")
    return signature


def check_signature(bundle: Bundle | SegmenterBundle, public: Path) -> Signature:
    """Check that the holder of a key signed exactly this bundle.

    Raises:
        BundleError: Not signed, by another key, or signed before the bundle was changed.
        InputError: The key cannot be read, or is none of Ed25519.
        EngineError: ``cryptography`` is not installed.
    """
    key: Ed25519PublicKey = _read_key(public, "public")
    found = _read_signature(bundle.path / SIGNATURE_FILE)
    if found.key != _name(key):
        raise _refused(bundle, "The bundle was signed with another key.", f"key {_name(key)}", f"key {found.key}")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(found.signature, validate=True), _message(bundle))
    except (InvalidSignature, binascii.Error) as error:
        changed = found.bundle_sha256 != bundle.sha256
        what = "The bundle was changed after it was signed." if changed else "The signature is not this key's."
        raise _refused(bundle, what, f"bundle {found.bundle_sha256[:16]}", f"bundle {bundle.sha256[:16]}") from error
    return found


def sign_file(path: Path, private: Path, password: bytes | None = None) -> FileSignature:
    """Sign a file, into ``NAME.sig`` beside it.

    Raises:
        InputError: The key cannot be read, or is none of Ed25519.
        EngineError: ``cryptography`` is not installed.
    """
    key: Ed25519PrivateKey = _read_key(private, "private", password)
    digest = sha256_of_file(path)
    made = base64.b64encode(key.sign(_file_message(path, digest))).decode()
    signature = FileSignature(key=_name(key.public_key()), file=path.name, sha256=digest, signature=made)
    write_text(signature_of(path), signature.model_dump_json(indent=2) + "\n")
    return signature


def check_file_signature(path: Path, public: Path) -> FileSignature:
    """Check that the holder of a key signed exactly this file.

    Raises:
        BundleError: Not signed, by another key, or the file was changed since.
        InputError: The key cannot be read, or is none of Ed25519.
        EngineError: ``cryptography`` is not installed.
    """
    key: Ed25519PublicKey = _read_key(public, "public")
    from cryptography.exceptions import InvalidSignature

    failure = BundleError(
        "The signature of the file does not hold.",
        where=str(path),
        expected=f"signed with key {_name(key)}, unchanged since",
        got="no signature, another key's, or another content",
        fix="fetch the file again, or sign it if it is yours",
    )
    try:
        found = FileSignature.model_validate_json(signature_of(path).read_bytes())
        message = _file_message(path, sha256_of_file(path))
        key.verify(base64.b64decode(found.signature, validate=True), message)
    except (OSError, ValidationError, InvalidSignature, binascii.Error) as error:
        raise failure from error
    return found


def signature_of(path: Path) -> Path:
    """Where a file's signature lies."""
    return path.with_name(f"{path.name}.sig")


def _file_message(path: Path, digest: str) -> bytes:
    return FILE_PURPOSE + f"{path.name}\n{digest}".encode()


def _message(bundle: Bundle | SegmenterBundle) -> bytes:
    return PURPOSE + bundle.sha256.encode()


def _read_signature(path: Path) -> Signature:
    try:
        return Signature.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(
            "The bundle is not signed.",
            where=str(path),
            expected="a signature",
            fix="medprompt sign BUNDLE --private-key KEY",
        ) from error
    except (OSError, ValidationError) as error:
        raise BundleError(
            "The signature cannot be read.", where=str(path), got=str(error), fix="sign the bundle again"
        ) from error


def _refused(bundle: Bundle | SegmenterBundle, what: str, expected: str, got: str) -> BundleError:
    return BundleError(
        what,
        where=str(bundle.path),
        expected=expected,
        got=got,
        fix="fetch the bundle again, or sign it if it is yours",
    )


def _read_key(path: Path, side: str, password: bytes | None = None) -> Any:
    serialization, keys = _cryptography()
    try:
        content = path.read_bytes()
        if side == "private":
            key = serialization.load_pem_private_key(content, password)
        else:
            key = serialization.load_pem_public_key(content)
    except (OSError, ValueError, TypeError) as error:  # TypeError: a password is missing, or is not requested
        raise InputError(
            f"The {side} key cannot be read.",
            where=str(path),
            expected=f"a PEM file with an Ed25519 {side} key",
            got=str(error) or type(error).__name__,
            fix="medprompt keys makes a pair",
        ) from error
    wanted = keys.Ed25519PrivateKey if side == "private" else keys.Ed25519PublicKey
    if not isinstance(key, wanted):
        raise InputError("The key is not Ed25519.", where=str(path), got=type(key).__name__, fix="medprompt keys")
    return key


def _name(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise missing_extra("Signing", "cryptography", "sign") from error
    return serialization, ed25519
