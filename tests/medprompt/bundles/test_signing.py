"""Signatures: what its holder signed and nothing else passes, and every refusal says why."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medprompt.bundles.load import Bundle, load_bundle, write_manifest
from medprompt.bundles.signing import SIGNATURE_FILE, check_signature, make_key_pair, sign_bundle
from medprompt.cli import main
from medprompt.core.errors import BundleError, InputError
from tests.runtime.bundles import make_folder, record


@dataclass(frozen=True)
class Pair:
    private: Path
    public: Path
    name: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "key.pem", folder / "key.pub.pem"
    return Pair(private, public, make_key_pair(private, public))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(make_folder(tmp_path / "bundle", engines=(record("fake"),)))


def test_a_signed_bundle_passes_and_stays_a_bundle(bundle: Bundle, pair: Pair) -> None:
    made = sign_bundle(bundle, pair.private)
    again = load_bundle(bundle.path)
    assert again.sha256 == bundle.sha256 == made.bundle_sha256
    assert check_signature(again, pair.public) == made
    assert made.key == pair.name


def test_keys_are_for_their_owner_and_never_replaced(pair: Pair, tmp_path: Path) -> None:
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    before = pair.private.read_bytes()
    for private, public in ((pair.private, tmp_path / "p"), (tmp_path / "p", pair.public)):
        with pytest.raises(InputError, match="never overwritten"):
            make_key_pair(private, public)
    assert pair.private.read_bytes() == before and not (tmp_path / "p").exists()


def changed_manifest(bundle: Bundle) -> Bundle:
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"intended_use": "Anything."}))
    return load_bundle(bundle.path)


def edited(**fields: str) -> Callable[[Bundle], Bundle]:
    def edit(bundle: Bundle) -> Bundle:
        path = bundle.path / SIGNATURE_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return bundle

    return edit


def unsigned(bundle: Bundle) -> Bundle:
    (bundle.path / SIGNATURE_FILE).unlink()
    return bundle


def torn(bundle: Bundle) -> Bundle:
    path = bundle.path / SIGNATURE_FILE
    path.write_bytes(path.read_bytes()[:40])
    return bundle


CASES: dict[str, tuple[Callable[[Bundle], Bundle], str]] = {
    "not signed": (unsigned, "not signed"),
    "changed and hashed anew": (changed_manifest, "changed after it was signed"),
    "the signature of nothing": (edited(signature="AAAA"), "not this key's"),
    "no base64": (edited(signature="?"), "not this key's"),
    "another key's name": (edited(key="0" * 16), "another key"),
    "a field too many": (edited(note="trust me"), "cannot be read"),
    "torn": (torn, "cannot be read"),
}


@pytest.mark.parametrize("case", CASES)
def test_refusals(bundle: Bundle, pair: Pair, case: str) -> None:
    change, message = CASES[case]
    sign_bundle(bundle, pair.private)
    with pytest.raises(BundleError, match=message):
        check_signature(change(bundle), pair.public)


def test_a_signature_of_another_bundle_does_not_fit(bundle: Bundle, pair: Pair) -> None:
    sign_bundle(bundle, pair.private)
    with pytest.raises(BundleError, match="changed after"):
        check_signature(replace(bundle, sha256="0" * 64), pair.public)


def test_keys_that_cannot_sign(bundle: Bundle, pair: Pair, tmp_path: Path) -> None:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (tmp_path / "text.pem").write_text("no key")
    locked = Ed25519PrivateKey.generate()
    secret = serialization.BestAvailableEncryption(b"pass word")
    (tmp_path / "locked.pem").write_bytes(locked.private_bytes(pem, pkcs8, secret))
    for name, message in (
        ("ec.pem", "not Ed25519"),
        ("text.pem", "cannot be read"),
        ("none.pem", "cannot be read"),
        ("locked.pem", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            sign_bundle(bundle, tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        check_signature(bundle, pair.private)
    assert not (bundle.path / SIGNATURE_FILE).exists()
    sign_bundle(bundle, tmp_path / "locked.pem", b"pass word")


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["medprompt", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    folder = make_folder(tmp_path / "bundle", engines=(record("ort-cpu"),))
    private, public, word = tmp_path / "k.pem", tmp_path / "k.pub.pem", tmp_path / "word"
    from PIL import Image

    Image.new("RGB", (30, 20), "pink").save(tmp_path / "x.png")
    infer = ("infer", folder, tmp_path / "x.png", "--key", public, "--out", tmp_path / "results.json")
    assert run("keygen", "--private-key", private, "--public-key", public) == 0
    assert run("keygen", "--private-key", private, "--public-key", public) == 2
    assert run(*infer) == 2
    assert "not signed" in capsys.readouterr().err and not (tmp_path / "results.json").exists()
    word.write_text("of no use\n")
    assert run("sign", folder, "--private-key", private, "--password-file", word) == 2
    assert run("sign", folder, "--private-key", private) == 0
    assert run(*infer) == 0
    assert (tmp_path / "results.json").exists()
