"""``medprompt keys`` and ``sign``: who made a bundle, provable offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands.common import BundlePath
from medprompt.errors import InputError


def keys(
    private: Annotated[Path, typer.Option(help="Where the private key goes (PEM); keep it on the build server.")],
    public: Annotated[Path, typer.Option(help="Where the public key goes (PEM); copy it to the devices.")],
) -> None:
    """Make an Ed25519 key pair for signing bundles.

    Example: `medprompt keys --private release.pem --public release.pub.pem`
    """
    from medprompt.signing import make_key_pair

    print(f"key {make_key_pair(private, public)}: {private} (keep it secret), {public}")


def sign(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option(help="Private key (PEM, Ed25519).")],
    password_file: Annotated[Path | None, typer.Option(help="File with the password of an encrypted key.")] = None,
) -> None:
    """Verify a bundle's hashes, then sign it. Compiling an engine afterwards changes the bundle: sign again.

    Example: `medprompt sign polyp.bundle --key release.pem`

    On the device: `medprompt verify polyp.bundle --key release.pub.pem`
    """
    from medprompt.bundle import load_bundle
    from medprompt.signing import sign_bundle

    signed = sign_bundle(load_bundle(bundle), key, _password(password_file))
    print(f"{bundle}: sha256 {signed.bundle_sha256}, signed with key {signed.key}")


def _password(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError("The password cannot be read.", where=str(path), got=error.strerror or "") from error
