"""What a bundle is, whether it works here, who made it, what was measured of it: ``inspect``, ``verify``, ``sign``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands import common
from medprompt.commands.base import Command, Group
from medprompt.core.errors import InputError, MedpromptError

if TYPE_CHECKING:
    from medprompt.bundles.load import Bundle


def inspect(bundle: common.BundlePath, as_json: common.AsJson = False) -> None:
    """Show what a bundle contains: model family, classes and phrases, engines and parity.

    The hashes of its files are verified first.

    Example: `medprompt inspect polyp.bundle`
    """
    from medprompt.bundles.load import bundle_hash, load_bundle
    from medprompt.prompts.summary import threshold_warnings
    from medprompt.runtime.thresholds import threshold_report

    loaded = load_bundle(bundle)
    if as_json:
        prompts = loaded.bank.prompts.model_dump(mode="json", exclude_none=True)
        common.print_json({"bundle_sha256": bundle_hash(bundle), "prompts": prompts, **loaded.manifest.summary()})
        return
    manifest = loaded.manifest
    print(f"{bundle}  {manifest.family} ({manifest.architecture}), checkpoint {manifest.checkpoint_sha256[:16]}")
    print(f"bundle sha256 {bundle_hash(bundle)}, schema {manifest.schema_version}, opset {manifest.opset}")
    preprocess = manifest.preprocess
    resample = f"{preprocess.resample} as {preprocess.backend} does"
    size = (
        f"{preprocess.size_hw}" if preprocess.sizes == "one" else f"of the processor's own size ({preprocess.own_size})"
    )
    print(f"image {size}, {resample}, resized in the {preprocess.placement}")
    common.print_prompts(loaded.bank)
    common.print_engines(manifest.engines)
    for warning in (*manifest.warnings, *threshold_warnings(loaded.bank.prompts, manifest)):
        print(f"warning: {warning}")
    if report := threshold_report(loaded):
        print(f"thresholds set on {report.date} in bundle {report.source_bundle_sha256[:16]}")
    print(manifest.intended_use)


def verify(
    bundle: common.BundlePath,
    device: common.Device = "auto",
    threads: common.Threads = None,
    key: common.PublicKey = None,
    url: Annotated[
        str | None, typer.Option(help="Prove the server at this address, and not the engine here: http://HOST:PORT.")
    ] = None,
    token_file: common.TokenFile = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Check the papers too: signed, complete, nothing blank, every report about this very bundle. Needs "
            "--key.",
        ),
    ] = False,
    as_json: common.AsJson = False,
) -> None:
    """Check a bundle's hashes, then prove that it decides on this machine as PyTorch did at export.

    The exit code is 3 where it decides otherwise, and 1 where --strict finds something missing in its papers; with
    --url, 2 where the server cannot be reached or serves another bundle, and 4 where there is no verdict. Of a change
    record (`medprompt release`) the hashes and the signature are checked.

    Example: `medprompt verify polyp.bundle --device openvino`

    With a signature: `medprompt verify polyp.bundle --key release.pub.pem`

    A server (medprompt serve, Triton): `medprompt verify polyp.bundle --url http://localhost:8000`
    """
    from medprompt.bundles.load import SegmenterBundle, load_any_bundle
    from medprompt.bundles.records import is_record
    from medprompt.bundles.signing import check_signature
    from medprompt.core.errors import ParityError
    from medprompt.runtime.verify import verify_on_device, verify_segmenter

    if is_record(bundle):
        _verify_record(bundle, key, strict)
        return
    loaded = load_any_bundle(bundle)
    signed = check_signature(loaded, key) if key else None
    if isinstance(loaded, SegmenterBundle):
        if strict or url is not None:
            raise InputError("Not for a segmenter.", where="strict" if strict else "url", fix="leave it out")
        found = verify_segmenter(loaded, device=device, threads=threads)
    else:
        if strict:
            _check_papers(loaded, key)
        if url is not None:
            _verify_endpoint(loaded, url, token_file, as_json)
            return
        found = verify_on_device(loaded, device=device, threads=threads)
    record, choice = found.parity, found.choice
    passed = "; ".join(f"{name} ({why})" for name, why in choice.rejected)
    common.print_warnings([*([f"passed over: {passed}"] if passed else []), *choice.warnings])
    if as_json:
        signer = {"signed_with": signed.key} if signed else {}
        common.print_json(
            {"device": choice.device, "rejected": choice.rejected, **signer, **record.model_dump(mode="json")}
        )
    else:
        said = f", signed with key {signed.key}" if signed else ""
        print(f"hashes ok{said}; {choice.device}: {common.describe_parity(record)}")
    if not record.passed:
        raise ParityError(
            "This machine's engine decides otherwise than PyTorch did at export.",
            where=f"engine {choice.device}",
            expected=f"{record.tolerance.min_kept:.1%} of decisions kept",
            got=common.describe_parity(record),
            fix="choose another device=, or export again",
        )


def _verify_endpoint(bundle: Bundle, url: str, token_file: Path | None, as_json: bool) -> None:
    from medprompt.core.errors import ParityError
    from medprompt.runtime.serving.token import token_from
    from medprompt.runtime.serving.verify import verify_endpoint

    found = verify_endpoint(bundle, url, token_from(token_file))
    if as_json:
        common.print_json(found.as_json())
    else:
        print(f"{found.served.name} on {found.served.engine}, medprompt {found.served.version}")
        for _, parity in found.parities:
            print(common.describe_parity(parity))
    if not found.passed:
        raise ParityError(
            "The server decides otherwise than PyTorch did at export.",
            where=url,
            expected="the decisions of the golden images, whichever way it is asked",
            got="; ".join(common.describe_parity(parity) for _, parity in found.parities if not parity.passed),
            fix="medprompt verify BUNDLE on its machine tells whether the engine or the way to it is at fault",
        )


def _check_papers(bundle: Bundle, key: Path | None) -> None:
    from medprompt.bundles.attached import attached_index, index_of
    from medprompt.bundles.papers import paper_faults
    from medprompt.bundles.signing import check_file_signature

    key = _needed_key(key)
    if attached_index(bundle.path).reports:
        check_file_signature(index_of(bundle.path), key)
    if faults := paper_faults(bundle):
        raise MedpromptError(
            "The bundle's papers are not complete.",
            where=str(bundle.path),
            got="; ".join(faults),
            fix="see `medprompt docs reviewer`",
        )
    print("papers complete: signed, nothing blank, reports about this bundle", file=sys.stderr)


def _needed_key(key: Path | None) -> Path:
    if key is None:
        raise InputError("Strict verification checks the signature.", where="key", fix="pass key=PUBLIC_KEY.pem")
    return key


def _verify_record(folder: Path, key: Path | None, strict: bool) -> None:
    from medprompt.bundles.records import check_record

    record = check_record(folder, _needed_key(key) if strict else key)
    signed = f", signed with key {record.key}" if record.key else ", not signed"
    print(f"change record, hashes ok{signed}: {record.outcome}")


def attach(
    bundle: common.BundlePath,
    reports: Annotated[list[Path], typer.Argument(help="Reports about this very bundle (JSON).")],
) -> None:
    """Keep reports with the bundle that they are about.

    Its hash and its signature stay what they are. A report that names another bundle is refused. Sign the bundle
    again afterwards: `medprompt sign` signs the list of what is attached as well.

    Example: `medprompt bundle attach polyp.bundle accuracy.json`

    Made by: `medprompt bench accuracy polyp.bundle --data val.json --json > accuracy.json`
    """
    from medprompt.bundles.attached import attach_report
    from medprompt.bundles.load import load_bundle

    loaded = load_bundle(bundle)
    for path in reports:
        entry = attach_report(loaded, path)
        print(f"{bundle}: {entry.kind} report attached, sha256 {entry.sha256[:16]}")


bundle_app = typer.Typer(cls=Group, no_args_is_help=True, help="Keep reports with a bundle.")
bundle_app.command("attach", cls=Command)(attach)


def set_thresholds(
    bundle: common.BundlePath,
    prompts: Annotated[
        Path, typer.Option("--from", help="The prompts file that `medprompt prompts calibrate` wrote (YAML).")
    ],
    out: Annotated[Path, typer.Option(help="The bundle folder to make.")],
    by: Annotated[str | None, typer.Option(help="Who is responsible for the thresholds; kept in the bundle.")] = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Make a bundle with other thresholds, and prove it on the golden images.

    The prompts file must have the bundle's classes, phrases and weights. The new bundle has another hash and no
    signature. The exit code is 3 where it decides otherwise than PyTorch at these thresholds.

    Example: `medprompt set-thresholds polyp.bundle --from calibrated.yaml --out polyp-site-a.bundle`
    """
    from medprompt.bundles.load import bundle_hash
    from medprompt.core.output_kinds import folder_kind
    from medprompt.core.outputs import Output, check_places
    from medprompt.prompts.file import prompts_from_yaml
    from medprompt.runtime.thresholds import set_thresholds as write_bundle

    check_places({"out": Output(out, folder_kind("a bundle"))}, [prompts])
    report = write_bundle(bundle, prompts_from_yaml(prompts), out, by=by, device=device, threads=threads, force=force)
    if as_json:
        common.print_json({"bundle_sha256": bundle_hash(out), **report.model_dump(mode="json")})
        return
    chosen = ", ".join(
        f"{label} {'default' if one is None else f'{one:g}'}" for label, one in report.thresholds.items()
    )
    print(f"{out}: {chosen}; bundle sha256 {bundle_hash(out)}")
    print(f"{report.device}: {common.describe_parity(report.parity)}")


def keygen(
    private_key: Annotated[
        Path, typer.Option("--private-key", help="The private key to write (PEM). Keep it on the build server.")
    ],
    public_key: Annotated[
        Path, typer.Option("--public-key", help="The public key to write (PEM). Copy it to the devices.")
    ],
) -> None:
    """Make a pair of Ed25519 keys for signing bundles.

    Example: `medprompt keygen --private-key release.pem --public-key release.pub.pem`
    """
    from medprompt.bundles.signing import make_key_pair

    print(f"key {make_key_pair(private_key, public_key)}: {private_key} (keep it secret), {public_key}")


def sign(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the folder of a change record.")],
    private_key: common.PrivateKey,
    password_file: common.PasswordFile = None,
) -> None:
    """Verify the hashes of a bundle or of a change record, then sign it.

    Compiling an engine afterwards changes the bundle: sign it again. The list of attached reports is signed as well.

    Example: `medprompt sign polyp.bundle --private-key release.pem`

    On the device: `medprompt verify polyp.bundle --key release.pub.pem`
    """
    from medprompt.bundles.attached import index_of
    from medprompt.bundles.load import load_any_bundle
    from medprompt.bundles.records import is_record, sign_record
    from medprompt.bundles.signing import sign_bundle, sign_file

    password = common.password(password_file)
    if is_record(bundle):
        print(f"{bundle}: change record signed with key {sign_record(bundle, private_key, password).key}")
        return
    signed = sign_bundle(load_any_bundle(bundle), private_key, password)
    if index_of(bundle).is_file():
        sign_file(index_of(bundle), private_key, password)
    print(f"{bundle}: sha256 {signed.bundle_sha256}, signed with key {signed.key}")
