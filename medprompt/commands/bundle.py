"""``medprompt inspect``, ``verify``, ``keys`` and ``sign``: what a bundle is, whether it works here, who made it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands.common import (
    AsJson,
    BundlePath,
    Device,
    PublicKey,
    Threads,
    describe_parity,
    print_engines,
    print_json,
    print_prompts,
    print_warnings,
)
from medprompt.core.errors import InputError


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds: family, classes and phrases, graph, engines, parity. Hashes are verified first."""
    from medprompt.bundles.load import bundle_hash, load_bundle

    loaded = load_bundle(bundle)
    if as_json:
        prompts = loaded.bank.prompts.model_dump(mode="json", exclude_none=True)
        print_json({"bundle_sha256": bundle_hash(bundle), "prompts": prompts, **loaded.manifest.summary()})
        return
    manifest = loaded.manifest
    print(f"{bundle}  {manifest.family} ({manifest.architecture}), checkpoint {manifest.checkpoint_sha256[:16]}")
    print(f"bundle sha256 {bundle_hash(bundle)}, schema {manifest.schema_version}, opset {manifest.opset}")
    preprocess = manifest.preprocess
    print(f"image {preprocess.size_hw}, {preprocess.resample}, resized in the {preprocess.placement}")
    print_prompts(loaded.bank)
    print_engines(manifest.engines)
    for warning in manifest.warnings:
        print(f"warning: {warning}")
    print(manifest.intended_use)


def verify(
    bundle: BundlePath,
    device: Device = "auto",
    threads: Threads = None,
    key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Check every hash, then run the golden images on this machine against PyTorch's stored decisions.

    Example: `medprompt verify polyp.bundle --device openvino`

    Who made it, too: `medprompt verify polyp.bundle --key release.pub.pem`
    """
    from medprompt.bundles.load import load_bundle
    from medprompt.bundles.signing import check_signature
    from medprompt.core.errors import ParityError
    from medprompt.runtime.verify import verify_on_device

    loaded = load_bundle(bundle)
    signed = check_signature(loaded, key) if key else None
    found = verify_on_device(loaded, device=device, threads=threads)
    record, choice = found.parity, found.choice
    print_warnings([*(f"{name} was passed over: {why}" for name, why in choice.rejected), *choice.warnings])
    if as_json:
        signer = {"signed_with": signed.key} if signed else {}
        print_json({"device": choice.device, "rejected": choice.rejected, **signer, **record.model_dump(mode="json")})
    else:
        said = f", signed with key {signed.key}" if signed else ""
        print(f"hashes ok{said}; {choice.device}: {describe_parity(record)}")
    if not record.passed:
        raise ParityError(
            "This machine's engine decides otherwise than PyTorch did at export.",
            where=choice.device,
            expected=f"{record.tolerance.min_kept:.1%} of decisions kept",
            got=describe_parity(record),
            fix="try another --device, or export again",
        )


def keys(
    private: Annotated[Path, typer.Option(help="Where the private key goes (PEM); keep it on the build server.")],
    public: Annotated[Path, typer.Option(help="Where the public key goes (PEM); copy it to the devices.")],
) -> None:
    """Make an Ed25519 key pair for signing bundles.

    Example: `medprompt keys --private release.pem --public release.pub.pem`
    """
    from medprompt.bundles.signing import make_key_pair

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
    from medprompt.bundles.load import load_bundle
    from medprompt.bundles.signing import sign_bundle

    signed = sign_bundle(load_bundle(bundle), key, _password(password_file))
    print(f"{bundle}: sha256 {signed.bundle_sha256}, signed with key {signed.key}")


def _password(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError("The password cannot be read.", where=str(path), got=error.strerror or "") from error
