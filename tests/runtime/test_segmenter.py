"""A segmenter makes masks of a detector's boxes, is proven as a detector is, and is told from one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprompt.bundles.load import load_any_bundle, load_bundle, load_segmenter
from medprompt.bundles.signing import make_key_pair, sign_bundle
from medprompt.cli import main
from medprompt.core.errors import BundleError, EngineError, InputError, ParityError
from medprompt.core.manifest import TensorSpec
from medprompt.core.masks import Masks
from medprompt.runtime.detector import Detector
from medprompt.runtime.engines.encoder_decoder import ROWS_AT_ONCE
from medprompt.runtime.infer import infer
from medprompt.runtime.segmenter import Segmenter
from medprompt.runtime.strategies import detect_by_best
from medprompt.runtime.verify import verify_segmenter
from tests.medprompt.dicom.made import write_dicom
from tests.medprompt.reports.reported import WHOLE
from tests.runtime.bundles import make_folder, record
from tests.runtime.segmenters import DARK, golden, make_segmenter

BRIGHT = np.full((40, 64, 3), 80, dtype=np.uint8)
"""Over ``DARK``; brighter, and the small detector's scores would be over 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_segmenter(tmp_path_factory.mktemp("segmenter") / "bundle")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("detector") / "bundle", engines=(record("ort-cpu"),))


def test_a_mask_is_of_its_box_at_the_sources_size(folder: Path) -> None:
    boxes = np.array([[8, 10, 40, 25], [0, 0, 64, 40], [60, 30, 90, 70]], dtype=np.float32)
    with Segmenter.load(folder) as segmenter:
        masks = segmenter(BRIGHT, boxes)
        assert segmenter(BRIGHT // 10, boxes).areas.tolist() == [0, 0, 0]  # the image has its part in it
    assert (masks.size_hw, len(masks)) == ((40, 64), 3)
    np.testing.assert_array_equal(masks.boxes_xyxy, [[8, 10, 40, 25], [0, 0, 64, 40], [60, 30, 64, 40]])


@pytest.mark.parametrize("count", [1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
def test_the_image_is_encoded_once_for_any_number_of_boxes(
    folder: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = np.arange(count, dtype=np.float32)[:, None]
    boxes = steps + np.array([[0, 0, 12, 8]], dtype=np.float32)
    with Segmenter.load(folder) as segmenter:
        alone = [segmenter(BRIGHT, box[None])[0] for box in boxes]
        encoded: list[int] = []
        encode = segmenter.engine.encode
        monkeypatch.setattr(segmenter.engine, "encode", lambda feeds: encoded.append(1) or encode(feeds))
        assert segmenter(BRIGHT, boxes) == Masks.of(np.stack(alone))
        assert encoded == [1]
        assert len(segmenter(BRIGHT, boxes[:0])) == 0 and encoded == [1]


def test_each_detection_has_the_mask_of_its_box(bundle: Path, folder: Path) -> None:
    with Detector.load(bundle, segment=folder) as detector, Segmenter.load(folder) as segmenter:
        found = detector(BRIGHT)
        assert len(found) and found.masks == segmenter(BRIGHT, found.boxes_xyxy)
        assert detector.batch([BRIGHT, BRIGHT]) == [found, found]
        assert list(detector.stream([BRIGHT])) == [found]
        assert detect_by_best(detector, BRIGHT, 1).masks is not None
        with detector.share() as other:
            assert other(BRIGHT) == found
        assert detector(BRIGHT) == found  # the one that left has not closed what is shared
    with pytest.raises(EngineError, match="closed"):
        segmenter(BRIGHT, found.boxes_xyxy)
    with Detector.load(bundle) as plain:
        assert plain(BRIGHT) == replace(found, masks=None)


def test_tiles_have_masks_of_the_whole_image(bundle: Path, folder: Path, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "ct.dcm", BRIGHT[..., 0], **WHOLE)
    run = infer(bundle, path, segment=folder, tile=32)
    found = run.items[0].detections
    assert found is not None and found.masks is not None
    assert len(found.masks) == len(found) > 0 and found.masks.size_hw == (40, 64)


def test_one_kind_of_bundle_is_told_from_the_other(bundle: Path, folder: Path) -> None:
    with pytest.raises(BundleError, match="another task"):
        load_bundle(folder)
    with pytest.raises(BundleError, match="another task"):
        load_segmenter(bundle)
    assert [type(load_any_bundle(one)).__name__ for one in (bundle, folder)] == ["Bundle", "SegmenterBundle"]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    changed = make_segmenter(tmp_path / "changed")
    (changed / "decoder.onnx").write_bytes((changed / "decoder.onnx").read_bytes() + b"\0")
    with pytest.raises(BundleError, match="has changed"):
        Segmenter.load(changed)


def test_a_model_that_makes_masks_itself_takes_no_segmenter(tmp_path: Path, folder: Path) -> None:
    masked = make_folder(tmp_path / "masked", masks=True, engines=(record("ort-cpu"),))
    with pytest.raises(InputError, match="makes masks itself"):
        Detector.load(masked, segment=folder)


def test_golden_masks_prove_a_segmenter(folder: Path, tmp_path: Path) -> None:
    parity = verify_segmenter(folder).parity
    assert (parity.passed, parity.decisions, parity.kept, parity.min_mask_iou) == (True, 3, 1.0, 1.0)
    _, found = golden()
    moved = replace(found, masks=Masks.of(np.roll(np.stack(list(found.masks or ())), 1, axis=2)))
    other = make_segmenter(tmp_path / "moved", moved)
    assert not verify_segmenter(other, "ort-cpu").parity.passed
    with pytest.raises(ParityError):
        Segmenter.load(other, self_test=True)
    empty = make_segmenter(tmp_path / "without", replace(found, masks=None))
    with pytest.raises(BundleError, match="no golden images with masks"):
        verify_segmenter(empty)


def test_masks_that_are_none_are_no_masks(tmp_path: Path) -> None:
    """Of another size than the manifest says: it could be another model."""
    other = TensorSpec(name="masks", dtype="float32", shape=("N", 8, 8))
    wrong = make_segmenter(tmp_path / "wrong", outputs=(other,))
    with Segmenter.load(wrong) as segmenter, pytest.raises(EngineError, match="masks are none"):
        segmenter(BRIGHT, np.array([[0, 0, 5, 5]], dtype=np.float32))


def test_devices_without_a_segmenter_of_their_own(folder: Path) -> None:
    with Segmenter.load(folder, device="trt") as segmenter:
        assert segmenter.choice.device == "ort-cpu"
    with pytest.raises(EngineError, match="no engine file for trt"):
        Segmenter.load(folder, device="trt", strict=True)


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medprompt", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out + said.err

    return call


def test_through_the_command(command: Command, bundle: Path, folder: Path, tmp_path: Path) -> None:
    from highdicom.seg import segread

    study = tmp_path / "study"
    study.mkdir()
    write_dicom(study / "bright.dcm", BRIGHT[..., 0], **WHOLE)
    write_dicom(study / "dark.dcm", BRIGHT[..., 0] // 250, **WHOLE)
    out = tmp_path / "results.json"
    words = ("infer", bundle, study, "--out", out, "--seg", tmp_path / "seg")
    code, said = command(*words)
    assert (code, "made of masks" in said, out.exists()) == (2, True, False)
    code, said = command(*words, "--segment", folder)
    assert (code, "1 analysed DICOM images have no segmentation, for nothing was found" in said) == (0, True)
    results = json.loads(out.read_text())
    assert results["segmenter"] == {"bundle_sha256": load_segmenter(folder).sha256, "engine": "ort-cpu"}
    assert [path.name for path in (tmp_path / "seg").iterdir()] == ["bright.dcm"]
    masks = segread(tmp_path / "seg" / "bright.dcm").pixel_array.reshape(-1, 40, 64).astype(bool)
    rows = next(item["detections"] for item in results["items"] if item["detections"])
    assert Masks.of(masks) == Masks.of_rle([row["segmentation"] for row in rows], (40, 64))
    before = (tmp_path / "seg" / "bright.dcm").read_bytes()
    code, said = command(*words, "--segment", folder, "--resume")
    assert code == 0, said
    assert (tmp_path / "seg" / "bright.dcm").read_bytes() == before
    code, said = command("infer", bundle, study, "--out", out, "--resume")
    assert (code, "the earlier results differ in segmenter" in said) == (0, True)


@pytest.mark.parametrize("option", ["--strict", "--url=http://localhost:1"])
def test_the_command_verifies_a_segmenter(command: Command, folder: Path, option: str) -> None:
    code, said = command("verify", folder)
    assert (code, "ort-cpu: kept 100.00% of 3" in said or "100.00% of 3 decisions" in said) == (0, True)
    assert command("verify", folder, option)[0] == 2


def test_both_bundles_must_be_signed(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    detector = make_folder(tmp_path / "detector", engines=(record("ort-cpu"),))
    segmenter = make_segmenter(tmp_path / "segmenter")
    image = write_dicom(tmp_path / "ct.dcm", BRIGHT[..., 0], **WHOLE)
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    make_key_pair(private, public)
    sign_bundle(load_bundle(detector), private)
    words = ("infer", detector, image, "--segment", segmenter, "--key", public)
    assert command(*words)[0] == 2
    assert command("sign", segmenter, "--private-key", private)[0] == 0
    assert command(*words)[0] == 0


def test_the_rule_of_the_small_segmenter() -> None:
    """Doubles are no proof of what they do not see: the golden image is bright, and dark ones have no object."""
    image, found = golden()
    assert image.min() > DARK and found.masks is not None and found.masks.areas.tolist() == [35, 256, 10]
