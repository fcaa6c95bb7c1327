"""A compressed frame against the header of its file: another size is refused, other colours are the data's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid

from medprompt.core.errors import ImageError
from medprompt.core.picture import Picture
from medprompt.dicom.codestream import Codestream, codestream_of
from medprompt.images.read import load_picture
from tests.medprompt.dicom.compressed import CODECS, SIZE_HW, grey_frames, items, jpeg, streams_of, write_compressed
from tests.medprompt.dicom.made import write_dicom

Y, X = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
RGB = np.stack([3 * X + 40, 5 * Y + 60, 2 * (X + Y)], axis=2).astype(np.uint8)
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


@pytest.mark.parametrize("codec", ["JPEG", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({}, ""),
        ({"Rows": SIZE_HW[1], "Columns": SIZE_HW[0]}, "48 x 32"),
        ({"Rows": SIZE_HW[0] * 2, "Columns": SIZE_HW[1] // 2}, "48 x 32"),
        ({"Rows": SIZE_HW[0] - 1}, "48 x 32"),
        ({"Columns": SIZE_HW[1] + 1}, "48 x 32"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}, "1 samples"),
        ({"BitsStored": 7, "HighBit": 6}, ""),
        ({"BitsStored": 9, "BitsAllocated": 16, "HighBit": 8, "WindowCenter": 128, "WindowWidth": 256}, "bits"),
    ],
)
def test_what_a_frame_says_of_itself(tmp_path: Path, codec: str, elements: dict[str, Any], says: str) -> None:
    streams, syntax = streams_of(tmp_path, grey_frames(1), codec)
    path = write_compressed(tmp_path / "x.dcm", syntax, items(streams), **elements)
    try:
        picture = load_picture(path)
    except ImageError as error:
        assert error.code == "damaged" and says
        assert says in error.got or codec == "JPEG"  # of which Pillow makes 8 bits where 16 are allocated
    else:
        assert picture.pixels.shape == (*SIZE_HW, 3)
        assert (says in "".join(picture.warnings), bool(picture.warnings)) == (True, bool(says))


@pytest.mark.parametrize(("stored", "allocated", "coded"), [(8, 8, 12), (10, 16, 12)])
def test_more_bits_than_the_file_states(tmp_path: Path, stored: int, allocated: int, coded: int) -> None:
    """Of the larger values the low bytes would be shown."""
    frames = grey_frames(1).astype(np.uint16) * 16
    elements = {"BitsStored": coded, "HighBit": coded - 1, "WindowCenter": 2048, "WindowWidth": 4096}
    for name, syntax in (("JPEG-LS", uid.JPEGLSLossless), ("JPEG 2000", uid.JPEG2000Lossless)):
        path = write_dicom(tmp_path / "plain.dcm", frames, NumberOfFrames=1, **elements)
        stream = _compressed(path, syntax)
        stated = {"BitsStored": stored, "HighBit": stored - 1, "BitsAllocated": allocated}
        with pytest.raises(ImageError, match=f"samples of {coded} bits") as caught:
            load_picture(write_compressed(tmp_path / f"{name}.dcm", syntax, items([stream]), **stated))
        assert caught.value.code == "damaged"


def _compressed(path: Path, syntax: uid.UID) -> bytes:
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    dataset = dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def with_marker(stream: bytes, marker: bytes) -> bytes:
    return stream[:2] + marker + stream[2:]


YBR = jpeg(RGB, subsampling=0)
SUBSAMPLED = jpeg(RGB, subsampling=2)
PLAIN = jpeg(RGB, keep_rgb=True)  # with the component names R, G, B
NUMBERED = PLAIN.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0").replace(b"R\0G\0B\0", b"\1\0\2\0\3\0")
MARKED: dict[str, tuple[bytes, str]] = {
    "no mark": (YBR, ""),
    "subsampled": (SUBSAMPLED, "YBR"),
    "JFIF": (with_marker(YBR, JFIF), "YBR"),
    "JFIF, subsampled": (with_marker(SUBSAMPLED, JFIF), "YBR"),
    "Adobe, YCC": (with_marker(YBR, ADOBE + b"\1"), "YBR"),
    "Adobe, YCC, subsampled": (with_marker(SUBSAMPLED, ADOBE + b"\1"), "YBR"),
    "JFIF and Adobe": (with_marker(YBR, JFIF + ADOBE + b"\1"), "YBR"),
    "names": (PLAIN, "RGB"),
    "Adobe, RGB": (with_marker(NUMBERED, ADOBE + b"\0"), "RGB"),
    "Adobe, RGB, names": (with_marker(PLAIN, ADOBE + b"\0"), "RGB"),
    "small names": (
        PLAIN.replace(b"R\x11\0G\x11\0B\x11\0", b"r\x11\0g\x11\0b\x11\0").replace(b"R\0G\0B\0", b"r\0g\0b\0"),
        "RGB",
    ),
}


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("case", MARKED)
def test_colours_are_those_that_the_data_names(tmp_path: Path, case: str, label: str, syntax: uid.UID) -> None:
    stream, colours = MARKED[case]
    if case == "no mark" and label == "RGB":
        stream = NUMBERED
    picture = _colour(tmp_path, stream, label, syntax)
    assert np.abs(picture.pixels.astype(int) - RGB).max() <= 16
    assert np.abs(picture.pixels.astype(int) - RGB).mean() < 1.5
    assert [("another colour space" in note) for note in picture.warnings] == [True] * (colours not in ("", label[:3]))


def _colour(folder: Path, stream: bytes, label: str, syntax: uid.UID) -> Picture:
    elements = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": label}
    return load_picture(write_compressed(folder / "x.dcm", syntax, items([stream]), **elements))


def jpeg_with_segment_behind_the_frame(stream: bytes, segment: bytes) -> bytes:
    scan = stream.index(b"\xff\xda")
    return stream[:scan] + segment + stream[scan:]


def test_the_header_of_a_jpeg() -> None:
    frame_at = SUBSAMPLED.index(b"\xff\xc0")
    assert codestream_of(SUBSAMPLED) == Codestream(SIZE_HW, 3, 8, frame_at, (), "YBR")
    filled = with_marker(YBR, b"\xff\xff\xff\xfe\0\4ab")  # fill bytes before a comment
    assert codestream_of(filled).size_hw == SIZE_HW
    late = jpeg_with_segment_behind_the_frame(YBR, ADOBE + b"\0")
    assert (codestream_of(late).colours, codestream_of(late).settled) == ("RGB", True)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", YBR[:40], b"\xff\xd8\0\0\0\0", b"GIF89a", b"\xff\x4f\xff\x51\0\1"]
)
def test_no_header(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        load_picture(write_compressed(tmp_path / "x.dcm", uid.JPEGBaseline8Bit, items([content])))
    assert caught.value.code == "damaged"


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_under_the_name_of_another(tmp_path: Path, codec: str) -> None:
    streams, syntax = streams_of(tmp_path, grey_frames(1), codec)
    for other in {uid.JPEGBaseline8Bit, *CODECS.values()} - {syntax}:
        with pytest.raises(ImageError) as caught:
            load_picture(write_compressed(tmp_path / "x.dcm", other, items(streams)))
        assert caught.value.code == "damaged"


ENCODINGS = {
    "1.2.840.10008.1.2.1.98": "Encapsulated Uncompressed",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame",
    "1.2.840.10008.1.2.4.110": "JPEG XL",
    "1.2.840.10008.1.2.4.111": "JPEG XL",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.53": "Spectral Selection",
    "1.2.840.10008.1.2.4.55": "Full Progression",
    "1.2.840.10008.1.2.4.94": "JPIP",
    "1.2.840.10008.1.2.7.1": "SMPTE",
    "1.2.826.0.1.3680043.8.498.9": "a private encoding",
    "1.2.840.10008.5.1.4.1.1.2": "a private encoding",
}


@pytest.mark.filterwarnings("ignore")  # pydicom's, when such files are written
@pytest.mark.parametrize("syntax", ENCODINGS)
def test_an_encoding_is_named(tmp_path: Path, syntax: str) -> None:
    path = write_compressed(tmp_path / "x.dcm", uid.JPEGBaseline8Bit, items([YBR]))
    content = path.read_bytes()
    named, given = uid.JPEGBaseline8Bit.encode(), syntax.encode() + b"\0" * (len(syntax) % 2)
    at = content.index(named) - 2
    value = len(given).to_bytes(2, "little") + given
    length = int.from_bytes(content[140:144], "little") + len(value) - 2 - len(named) - len(named) % 2
    rest = content[at + 2 + len(named) + len(named) % 2 :]
    path.write_bytes(content[:140] + length.to_bytes(4, "little") + content[144:at] + value + rest)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert (caught.value.code, ENCODINGS[syntax] in caught.value.got) == ("unsupported_encoding", True)
    assert caught.value.fix


SIZ = b"\xff\x4f\xff\x51"


def jpeg2000(pixels: np.ndarray, **options: Any) -> bytes:
    imagecodecs = pytest.importorskip("imagecodecs")
    stream: bytes = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", **options)
    return stream + b"\0" * (len(stream) % 2)


def with_bytes(stream: bytes, behind: int, new: bytes) -> bytes:
    """A codestream with other bytes behind the start of its SIZ segment."""
    at = stream.index(SIZ) + 2 + behind
    return stream[:at] + new + stream[at + len(new) :]


@pytest.mark.parametrize(
    ("behind", "new", "says"),
    [
        (41, b"\2\2", "several resolutions"),  # XRsiz and YRsiz of the second component (15444-1, A.5.1)
        (44, b"\2\1", "several resolutions"),
        (6, bytes((0, 0, 0, SIZE_HW[1] + 8, 0, 0, 0, SIZE_HW[0], 0, 0, 0, 8)), "begin at 0"),
    ],
)
@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_RCT"])
def test_what_the_plug_in_for_jpeg_2000_shows_wrong_is_refused(
    tmp_path: Path, behind: int, new: bytes, says: str, label: str
) -> None:
    """Of YCbCr with coarser colours OpenJPEG's plug-in makes RGB, which pydicom would take for YCbCr."""
    stream = with_bytes(jpeg2000(RGB), behind, new)
    with pytest.raises(ImageError, match=says) as caught:
        _colour(tmp_path, stream, label, uid.JPEG2000Lossless)
    assert caught.value.code == "unsupported_encoding"


@pytest.mark.parametrize(
    ("label", "transformed", "said"),
    [
        ("RGB", False, False),
        ("RGB", True, False),
        ("YBR_RCT", True, False),
        ("YBR_RCT", False, True),
        ("YBR_FULL", False, False),
        ("YBR_FULL", True, True),
    ],
)
def test_colours_that_a_jpeg_2000_transforms_otherwise(
    tmp_path: Path, label: str, transformed: bool, said: bool
) -> None:
    picture = _colour(tmp_path, jpeg2000(RGB, mct=transformed), label, uid.JPEG2000Lossless)
    assert ["transforms" in note for note in picture.warnings] == [True] * said


@pytest.mark.parametrize("coded", [np.uint16, np.int16])
@pytest.mark.parametrize("stated", [0, 1])
def test_a_sign_that_data_and_file_disagree_on_is_said(tmp_path: Path, coded: type, stated: int) -> None:
    stream = jpeg2000((grey_frames(1)[0] * 16).astype(coded))
    elements = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "WindowCenter": 2048, "WindowWidth": 4096}
    path = write_compressed(
        tmp_path / "x.dcm", uid.JPEG2000Lossless, items([stream]), PixelRepresentation=stated, **elements
    )
    assert ["signed" in note for note in load_picture(path).warnings] == [True] * (stated != (coded is np.int16))


def test_signed_colours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="signed colours") as caught:
        load_picture(write_dicom(tmp_path / "x.dcm", RGB, PixelRepresentation=1))
    assert caught.value.code == "unsupported_pixels"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.7.1"])
def test_pixels_on_a_server_are_not_damage(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "x.dcm", grey_frames(1)[0], uid.HTJ2KLosslessRPCL, PixelData=None)
    content = path.read_bytes()
    stated = uid.HTJ2KLosslessRPCL.ljust(24, "\0").encode()
    path.write_bytes(content.replace(stated, syntax.ljust(24, "\0").encode()))
    with pytest.raises(ImageError, match="on a server") as caught:
        load_picture(path)
    assert caught.value.code == "unsupported_encoding"
