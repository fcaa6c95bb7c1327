"""What a bundle refuses: every kind of damage is named before anything is parsed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from medprompt.bundles.load import (
    BANK_FILE,
    GOLDEN_FILE,
    HASH_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    bundle_hash,
    load_bundle,
    load_golden,
    save_golden,
    write_manifest,
)
from medprompt.core.detections import Detections
from medprompt.core.errors import BankError, BundleError
from medprompt.core.files import sha256_of_file
from medprompt.core.masks import Masks
from tests.runtime.bundles import ENCODER, make_bank, make_folder, make_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def rehash(folder: Path) -> None:
    """Vouch for a changed manifest, as its author could."""
    (folder / HASH_FILE).write_text(f"{sha256_of_file(folder / MANIFEST_FILE)}  {MANIFEST_FILE}\n")


def change_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    change(fields)
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))
    rehash(folder)


def test_a_whole_bundle_loads(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.manifest.encoder == bundle.bank.encoder == ENCODER
    assert bundle.bank.content_hash() == make_bank().content_hash()
    assert bundle.model == folder / MODEL_FILE
    assert bundle.sha256 == bundle_hash(folder) == sha256_of_file(folder / MANIFEST_FILE)
    assert set(bundle.manifest.files) == {MODEL_FILE, BANK_FILE}
    assert load_bundle(str(folder)).manifest == bundle.manifest


def test_the_hash_file_is_what_sha256sum_checks(folder: Path) -> None:
    digest, name = (folder / HASH_FILE).read_text().split("  ")
    assert (digest, name) == (sha256_of_file(folder / MANIFEST_FILE), f"{MANIFEST_FILE}\n")


def test_a_note_beside_the_model_may_stay(folder: Path) -> None:
    (folder / "reports").mkdir()
    (folder / "reports" / "note.txt").write_text("checked by hand")
    assert load_bundle(folder).sha256


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_to_copy(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    (folder / MODEL_FILE).rename(outside)
    (folder / MODEL_FILE).symlink_to(outside)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the model": (lambda f: flip_byte(f / MODEL_FILE), "has changed since the export"),
    "a byte of the bank": (lambda f: flip_byte(f / BANK_FILE), "has changed since the export"),
    "a byte of the manifest": (lambda f: flip_byte(f / MANIFEST_FILE), "has changed since the export"),
    "a byte of the hash": (lambda f: flip_byte(f / HASH_FILE), "has changed since the export"),
    "a longer model": (
        lambda f: (f / MODEL_FILE).write_bytes((f / MODEL_FILE).read_bytes() + b"x"),
        "has changed since the export",
    ),
    "no model": (lambda f: (f / MODEL_FILE).unlink(), "is missing"),
    "no bank": (lambda f: (f / BANK_FILE).unlink(), "is missing"),
    "no manifest": (lambda f: (f / MANIFEST_FILE).unlink(), "not a bundle"),
    "no hash": (lambda f: (f / HASH_FILE).unlink(), "not a bundle"),
    "no folder": (shutil.rmtree, "not a bundle"),
    "hash of another file": (
        lambda f: (f / HASH_FILE).write_text(f"{sha256_of_file(f / MANIFEST_FILE)}  other.json\n"),
        "has changed since the export",
    ),
    "an unlisted model": (lambda f: shutil.copy(f / MODEL_FILE, f / "other.onnx"), "does not list"),
    "an unlisted engine": (lambda f: (f / "x.ENGINE").write_bytes(b"x"), "does not list"),
    "a linked model": (link_to_copy, "holds a link"),
    "a linked folder": (lambda f: (f / "engines").symlink_to(f.parent), "holds a link"),
    "a dead link": (lambda f: (f / "dead").symlink_to("nowhere"), "holds a link"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused(folder: Path, damage: str) -> None:
    hurt, message = DAMAGES[damage]
    hurt(folder)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert caught.value.exit_code == 2
    assert caught.value.where.startswith(str(folder))
    assert caught.value.fix


FORGERIES: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "newer schema": (lambda m: m.update(schema_version=99, unheard_of=1), "newer medprompt"),
    "schema of text": (lambda m: m.update(schema_version="1"), "newer medprompt"),
    "no schema": (lambda m: m.pop("schema_version"), "not valid"),
    "unknown field": (lambda m: m.update(surprise=1), "not valid"),
    "wrong type": (lambda m: m.update(default_threshold=3), "not valid"),
    "no model listed": (lambda m: m["files"].pop(MODEL_FILE), "does not list"),  # type: ignore[attr-defined]
    "no bank listed": (lambda m: m["files"].pop(BANK_FILE), "does not list"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, forgery: str) -> None:
    change, message = FORGERIES[forgery]
    change_manifest(folder, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_a_list_is_no_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text("[1]")
    rehash(folder)
    with pytest.raises(BundleError, match="not valid"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "name", ["../x.bin", "/etc/hostname", "a/../../x", "a\\b", "C:x", "", ".", "./x", "a//b", "x\0"]
)
def test_a_listed_path_must_stay_inside(folder: Path, name: str) -> None:
    entry = {"sha256": "0" * 64, "bytes": 1}
    change_manifest(folder, lambda m: m["files"].update({name: entry}))  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="leaves its folder"):
        load_bundle(folder)


def externalise(folder: Path, location: str) -> None:
    """Move the model's weights to a data file, then point it elsewhere, and vouch for all of it."""
    model = onnx.load(folder / MODEL_FILE)
    weight = numpy_helper.from_array(np.ones(4, np.float32), "spare")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    model.graph.initializer.append(weight)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())
    (folder / "model.onnx.data").write_bytes(bytes(16))
    write_manifest(folder, make_manifest())


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../model.onnx.data", "leaves its folder"),
        ("/etc/hostname", "leaves its folder"),
        ("*/_ORT_MEM_ADDR_/*", "does not list"),
        ("other.data", "does not list"),
        ("manifest.json", "does not list"),
        ("", "leaves its folder"),
    ],
)
def test_weights_outside_the_bundle_are_refused(folder: Path, location: str, message: str) -> None:
    externalise(folder, location)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_weights_beside_the_model_are_fine(folder: Path) -> None:
    externalise(folder, "model.onnx.data")
    assert "model.onnx.data" in load_bundle(folder).manifest.files


def test_a_bank_of_another_encoder_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bundle", make_bank(encoder="f" * 16))
    with pytest.raises(BankError, match="another text encoder"):
        load_bundle(folder)


def test_writing_a_manifest_over_a_link_is_refused(folder: Path) -> None:
    (folder / "linked").symlink_to(folder / MODEL_FILE)
    with pytest.raises(BundleError, match="holds a link"):
        write_manifest(folder, make_manifest())


def test_writing_lists_nested_files_but_not_itself(folder: Path) -> None:
    (folder / "reports").mkdir()
    (folder / "reports" / "parity.json").write_text("{}")
    write_manifest(folder, make_manifest())
    assert set(load_bundle(folder).manifest.files) == {MODEL_FILE, BANK_FILE, "reports/parity.json"}


def detections(count: int) -> Detections:
    bank = make_bank()
    return Detections(
        np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        np.linspace(0.9, 0.1, count, dtype=np.float32),
        np.arange(count, dtype=np.int64) % 2,
        np.arange(count, dtype=np.int64) % 3,
        bank.labels,
        bank.prompts.texts,
        (5, 7),
    )


def test_golden_images_come_back(tmp_path: Path) -> None:
    images = [np.full((5, 7, 3), level, np.uint8) for level in (3, 4)]
    save_golden(tmp_path / GOLDEN_FILE, images, [detections(3), detections(0)])
    first, second = load_golden(tmp_path / GOLDEN_FILE, make_bank())
    np.testing.assert_array_equal(first.image_rgb, images[0])
    np.testing.assert_array_equal(first.reference.boxes_xyxy, detections(3).boxes_xyxy)
    assert list(first.reference.rows()) == list(detections(3).rows())
    assert len(second.reference) == 0
    assert second.reference.size_hw == (5, 7)


def test_golden_masks_come_back(tmp_path: Path) -> None:
    pixels = np.arange(3 * 5 * 7).reshape(3, 5, 7) % 4 == 0
    references = [replace(detections(n), masks=Masks.of(pixels[:n])) for n in (3, 0)] + [detections(3)]
    save_golden(tmp_path / GOLDEN_FILE, [np.zeros((5, 7, 3), np.uint8)] * 3, references)
    assert [one.reference.masks for one in load_golden(tmp_path / GOLDEN_FILE, make_bank())] == [
        Masks.of(pixels),
        Masks.of(pixels[:0]),
        None,
    ]


def test_golden_masks_that_do_not_fill_the_image_are_refused(tmp_path: Path) -> None:
    whole = replace(detections(1), masks=Masks.of(np.ones((1, 5, 7), bool)))
    save_golden(tmp_path / GOLDEN_FILE, [np.zeros((7, 7, 3), np.uint8)], [whole])
    with pytest.raises(BundleError, match="golden images cannot be read"):
        load_golden(tmp_path / GOLDEN_FILE, make_bank())


def test_golden_images_need_one_reference_each(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        save_golden(tmp_path / GOLDEN_FILE, [np.zeros((1, 1, 3), np.uint8)], [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [["WBC"], ["RBC"]])
def test_golden_images_of_another_bank_are_refused(tmp_path: Path, labels: list[str]) -> None:
    save_golden(tmp_path / GOLDEN_FILE, [np.zeros((5, 7, 3), np.uint8)], [detections(3)])
    with pytest.raises(BundleError, match="golden images cannot be read"):
        load_golden(tmp_path / GOLDEN_FILE, make_bank().subset(labels))


@pytest.mark.parametrize("content", [b"", b"not safetensors"])
def test_a_damaged_golden_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / GOLDEN_FILE).write_bytes(content)
    with pytest.raises(BundleError, match="golden images cannot be read"):
        load_golden(tmp_path / GOLDEN_FILE, make_bank())
