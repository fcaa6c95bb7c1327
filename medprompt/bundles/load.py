"""The bundle: a folder that is verified byte by byte before anything in it is parsed.

``manifest.sha256`` vouches for ``manifest.json``, which vouches for every other file. This protects against
damage and mixed-up files. It does not prove who made the bundle: who can change a file can change its hash;
sign the bundle's hash for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from medprompt.bundles.external_data import external_locations
from medprompt.bundles.golden import GoldenImage as GoldenImage
from medprompt.bundles.golden import load_golden as load_golden
from medprompt.bundles.golden import save_golden as save_golden
from medprompt.core.errors import BundleError
from medprompt.core.files import atomic_write, sha256_of_file
from medprompt.core.manifest import SCHEMA_VERSION, BundleManifest, FileEntry, Manifest
from medprompt.core.models import SHORT, validate
from medprompt.core.output_kinds import ATTACHED_FOLDER
from medprompt.core.segmenter import SegmenterManifest
from medprompt.prompts.bank import PromptBank, check_encoder, load_bank

MANIFEST_FILE = "manifest.json"
HASH_FILE = "manifest.sha256"
MODEL_FILE = "model.onnx"
BANK_FILE = "prompts.safetensors"
GOLDEN_FILE = "golden.safetensors"
PARTS = ("image", "phrases")
"""Models whose phrases never meet lie there in two parts besides, see ``part_names``."""

DETECT = "detect"
TASKS = {DETECT: "a bundle that detects", "segment": "a bundle that segments boxes"}
"""What bundles are for; a detector's manifest states nothing of it."""

M = TypeVar("M", bound=BundleManifest)

MODEL_SUFFIXES = frozenset(
    {".onnx", ".data", ".safetensors", ".engine", ".plan", ".trt", ".bin", ".xml", ".pb", ".blob"}
)
"""Files of these kinds must be in the manifest, since an engine could read them; a note may stay out."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its folder, what it says about itself, the prompts it was exported with.

    Attributes:
        sha256: SHA-256 of ``manifest.json``, which names the whole bundle.
    """

    path: Path
    manifest: Manifest
    bank: PromptBank
    sha256: str

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE


def load_bundle(bundle: Bundle | Path | str) -> Bundle:
    """Verify a bundle and read its manifest and prompts.

    Args:
        bundle: The folder that ``medprompt export`` made; what is loaded already comes back as it is.

    Raises:
        BundleError: Not a bundle, a newer schema, a changed, missing or unlisted file, a link, or a path that
            leaves the folder.
        BankError: The prompts were made by another text encoder than the manifest names.
    """
    if isinstance(bundle, Bundle):
        return bundle
    folder = Path(bundle)
    manifest, digest = verified_folder(folder, Manifest, DETECT)
    need_files(folder, manifest.files, (MODEL_FILE, BANK_FILE))
    bank = load_bank(folder / BANK_FILE)
    check_encoder(bank, manifest.encoder, str(folder / BANK_FILE))
    return Bundle(folder, manifest, bank, digest)


def part_names(model: str) -> tuple[str, str]:
    """Names of the parts of an ONNX file of a bundle: ``model-auto.onnx`` has ``image-auto.onnx``, and so on."""
    image, phrases = (model.replace("model", part, 1) for part in PARTS)
    return image, phrases


def verified_folder(folder: Path, model: type[M], task: str) -> tuple[M, str]:
    """Verify every file of a bundle of this task.

    Returns:
        Its manifest, and the manifest's SHA-256.

    Raises:
        BundleError: See ``load_bundle``.
    """
    content, digest = _verified_manifest_bytes(folder)
    manifest = _manifest_from_bytes(content, folder, model, task)
    _check_links_and_extra_files(folder, manifest.files)
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    _check_external_data(folder, manifest.files)
    return manifest, digest


def need_files(folder: Path, files: Mapping[str, FileEntry], names: Iterable[str]) -> None:
    """Refuse a bundle that does not list one of the files that make it."""
    for name in names:
        if name not in files:
            raise BundleError(
                "The bundle lists no such file.",
                where=str(folder / MANIFEST_FILE),
                expected=name,
                got=", ".join(sorted(files)) or "no file",
                fix="export the bundle again",
            )


def task_of(folder: Path) -> str:
    """What a bundle is for, from its manifest as it stands, which nothing has verified; ``detect`` where it is none."""
    try:
        return str(json.loads((folder / MANIFEST_FILE).read_bytes()).get("task", DETECT))
    except (OSError, ValueError, AttributeError):
        return DETECT


def write_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Hash every file of a folder, then write ``manifest.json``, ``files`` filled in, and ``manifest.sha256``.

    Reports that are attached to a bundle are no part of it.

    Raises:
        BundleError: The folder holds a link.
    """
    files = {}
    for path in _files_of(folder):
        name = path.relative_to(folder).as_posix()
        if name not in (MANIFEST_FILE, HASH_FILE) and not name.startswith(f"{ATTACHED_FOLDER}/"):
            files[name] = FileEntry(sha256=sha256_of_file(path), bytes=path.stat().st_size)
    complete = manifest.model_copy(update={"files": files})
    text = json.dumps(complete.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    for name, content in ((MANIFEST_FILE, text), (HASH_FILE, f"{digest}  {MANIFEST_FILE}\n")):
        with atomic_write(folder / name) as aside:
            aside.write_bytes(content.encode())


def bundle_hash(path: Path | str) -> str:
    """SHA-256 of ``manifest.json``: since that holds every file's hash, it names the whole bundle."""
    return sha256_of_file(Path(path) / MANIFEST_FILE)


def _manifest_from_bytes(content: bytes, folder: Path, model: type[M], task: str) -> M:
    where = str(folder / MANIFEST_FILE)
    try:
        fields = json.loads(content)
        version = fields["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError("The manifest is not valid.", where=where, got=str(error)) from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BundleError(
            "The bundle was made by a newer medprompt.",
            where=where,
            expected=f"schema version {SCHEMA_VERSION} or older",
            got=f"schema version {version}",
            fix="install a newer medprompt",
        )
    found = fields.get("task", DETECT)
    if found != task:
        raise BundleError(
            "The bundle is for another task.",
            where=str(folder),
            expected=TASKS[task],
            got=TASKS.get(str(found), SHORT.repr(found)),
            fix="pass a detector as the bundle, and a segmenter as segment=",
        )
    return validate(model, fields, BundleError("The manifest is not valid.", where=where))


def _verified_manifest_bytes(folder: Path) -> tuple[bytes, str]:
    """Read ``manifest.json``; return its bytes and their SHA-256, which ``manifest.sha256`` confirms."""
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
        line = (folder / HASH_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            "The folder is not a bundle.",
            where=str(folder),
            expected=f"{MANIFEST_FILE} and {HASH_FILE}",
            got=str(error) if folder.is_dir() else "no such folder",
            fix="medprompt export CHECKPOINT --prompts P.yaml --out BUNDLE",
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if not re.fullmatch(rf"[0-9a-f]{{64}} [ *]{re.escape(MANIFEST_FILE)}\n?", line) or line[:64] != digest:
        raise _changed(folder / MANIFEST_FILE, f"sha256 {line[:64]} (from {HASH_FILE})", f"sha256 {digest}")
    return content, digest


def _changed(path: Path, expected: str, got: str) -> BundleError:
    return BundleError(
        "A file of the bundle has changed since the export.",
        where=str(path),
        expected=expected,
        got=got,
        fix="copy the bundle again from its source, or export it again",
    )


def _files_of(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, sorted.

    Raises:
        BundleError: A link, to a file or a folder, or something that is neither.
    """
    for root, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(root, name) for name in sorted([*folders, *names])):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(
                    "The bundle holds a link.",
                    where=str(path),
                    expected="files and folders",
                    got="a symbolic link" if path.is_symlink() else "a special file",
                    fix="copy the bundle with its links resolved (cp -rL)",
                )
            if path.is_file():
                yield path


def _check_links_and_extra_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    for path in _files_of(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in MODEL_SUFFIXES and name not in files:
            raise BundleError(
                "The bundle holds a model file that its manifest does not list.",
                where=str(path),
                expected=", ".join(sorted(files)),
                got=name,
                fix="remove the file, or export the bundle again",
            )


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    _check_name(folder, name)
    path = folder / name
    if not path.is_file():
        raise BundleError(
            "A file of the bundle is missing.",
            where=str(path),
            expected=f"{entry.bytes} bytes, sha256 {entry.sha256}",
            fix="copy the bundle again from its source, or export it again",
        )
    size = path.stat().st_size
    if size != entry.bytes:
        raise _changed(path, f"{entry.bytes} bytes", f"{size} bytes")
    digest = sha256_of_file(path)
    if digest != entry.sha256:
        raise _changed(path, f"sha256 {entry.sha256}", f"sha256 {digest}")


def _check_name(folder: Path, name: str) -> None:
    """Refuse names that are not plain relative paths: absolute, with ``..``, a drive or a backslash."""
    pure = PurePosixPath(name)
    plain = pure.as_posix() == name and not pure.is_absolute() and ".." not in pure.parts
    if not plain or name in ("", ".") or any(mark in name for mark in "\\:\0"):
        raise BundleError(
            "A path in the bundle leaves its folder.",
            where=str(folder / MANIFEST_FILE),
            expected="a plain path below the bundle",
            got=repr(name),
            fix="do not use this bundle; export it again",
        )


def _check_external_data(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Weights outside the ONNX file must lie in a listed, so verified, file of the bundle."""
    for model in (name for name in files if name.endswith(".onnx")):
        beside = PurePosixPath(model).parent
        for location in external_locations(folder / model):
            _check_name(folder, location)
            if (beside / location).as_posix() not in files:
                raise BundleError(
                    "The model keeps weights in a file that the manifest does not list.",
                    where=str(folder / model),
                    expected=", ".join(sorted(files)),
                    got=repr(location),
                    fix="do not use this bundle; export it again",
                )


ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
SEGMENT = "segment"


@dataclass(frozen=True)
class SegmenterBundle:
    """A verified segmenter; see ``medprompt.bundles.load.Bundle``."""

    path: Path
    manifest: SegmenterManifest
    sha256: str


def load_segmenter(bundle: SegmenterBundle | Path | str) -> SegmenterBundle:
    """Verify a segmenter and read its manifest; what is loaded already comes back as it is.

    Raises:
        BundleError: See ``load_bundle``; also a detector's bundle.
    """
    if isinstance(bundle, SegmenterBundle):
        return bundle
    folder = Path(bundle)
    manifest, digest = verified_folder(folder, SegmenterManifest, SEGMENT)
    need_files(folder, manifest.files, (ENCODER_FILE, DECODER_FILE))
    return SegmenterBundle(folder, manifest, digest)


def load_any_bundle(bundle: Path | str) -> Bundle | SegmenterBundle:
    """Verify a detector or a segmenter, whichever it says it is.

    Raises:
        BundleError: See ``load_bundle``.
    """
    return load_segmenter(bundle) if task_of(Path(bundle)) == SEGMENT else load_bundle(bundle)
