"""Real files of every kind that is read, and ways to damage them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprompt.benchmarks.demo import IMAGES, PROMPTS
from medprompt.bundles.load import BANK_FILE, MANIFEST_FILE

DICOM = (
    "MR_small.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "CT_small.dcm",
)
"""Of the files that pydicom installs for its own tests: uncompressed, JPEG, RLE, JPEG 2000."""

Random = np.random.Generator


@dataclass(frozen=True)
class Original:
    """A whole file.

    Attributes:
        name: For tables; its suffix is the file's.
        kind: How it is read: ``image``, ``prompts``, ``bank`` or ``bundle``.
        content: Its bytes.
        among: The files beside it, where it is part of a bundle.
    """

    name: str
    kind: str
    content: bytes
    among: tuple[Path, ...] = ()

    def placed(self, content: bytes, folder: Path) -> Path:
        """Write ``content`` in the original's place; what was there before is gone."""
        for path in folder.iterdir():
            path.unlink()
        for path in self.among:
            (folder / path.name).write_bytes(path.read_bytes())
        path = folder / (self.name if self.among else f"file{Path(self.name).suffix}")
        path.write_bytes(content)
        return path


def originals(bundle: Path) -> list[Original]:
    """One file of each kind, small ones.

    Args:
        bundle: A bundle's folder.
    """
    from pydicom.data import get_testdata_file

    smear = Image.open(sorted((IMAGES / "bccd").glob("*.jpg"))[0]).convert("RGB").resize((320, 240))
    found = [
        Original(f"{name}{suffix}", "image", _saved(picture, suffix, options))
        for name, picture, suffix, options in _pictures(smear)
    ]
    found += [Original(name, "image", Path(str(get_testdata_file(name))).read_bytes()) for name in DICOM]
    found.append(Original("prompts.yaml", "prompts", PROMPTS.read_bytes()))
    found.append(Original("bank.safetensors", "bank", (bundle / BANK_FILE).read_bytes()))
    files = tuple(path for path in bundle.iterdir() if path.is_file())
    found += [Original(name, "bundle", (bundle / name).read_bytes(), files) for name in (MANIFEST_FILE, BANK_FILE)]
    return found


def _pictures(smear: Image.Image) -> Iterator[tuple[str, Image.Image, str, dict[str, Any]]]:
    grey = smear.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "colour", smear, ".jpg", {"quality": 90}
    yield "progressive", smear, ".jpg", {"progressive": True}
    yield "cmyk", smear.convert("CMYK"), ".jpg", {}
    yield "colour", smear, ".png", {}
    yield "deep", deep, ".png", {}
    yield "palette", smear.quantize(64), ".png", {}
    yield "transparent", smear.convert("RGBA"), ".png", {}
    yield "plain", grey, ".tif", {}
    yield "lzw", smear, ".tif", {"compression": "tiff_lzw"}
    yield "deflate", smear, ".tif", {"compression": "tiff_adobe_deflate"}
    yield "pages", grey, ".tif", {"save_all": True, "append_images": [grey, grey]}
    yield "lossy", smear, ".webp", {}
    yield "plain", smear, ".bmp", {}


def _saved(picture: Image.Image, suffix: str, options: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **options)
    return stream.getvalue()


def mutated(content: bytes, rng: Random) -> tuple[bytes, str]:
    """Do one to three of ``CHANGES`` to a file; half of them in its first kilobyte, where headers are."""
    data = np.frombuffer(content, dtype=np.uint8)
    done = []
    for _ in range(rng.integers(1, 4)):
        change = CHANGES[rng.integers(len(CHANGES))]
        reach = min(len(data), 1024) if rng.random() < 0.5 else len(data)
        data = change(data, int(rng.integers(max(1, reach))), rng)
        done.append(change.__name__)
    return data.tobytes(), ", ".join(done)


Bytes = NDArray[np.uint8]


def set_byte(data: Bytes, position: int, rng: Random) -> Bytes:
    """Another value."""
    changed = data.copy()
    changed[position : position + 1] = rng.integers(256)
    return changed


def flip_bit(data: Bytes, position: int, rng: Random) -> Bytes:
    """One bit."""
    changed = data.copy()
    changed[position : position + 1] ^= np.uint8(1 << rng.integers(8))
    return changed


def set_number(data: Bytes, position: int, rng: Random) -> Bytes:
    """Four bytes of a number that sizes and offsets go wrong with."""
    changed = data.copy()
    value = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF])
    part = np.frombuffer(int(value).to_bytes(4, str(rng.choice(["little", "big"]))), np.uint8)  # type: ignore[arg-type]
    changed[position : position + 4] = part[: len(changed[position : position + 4])]
    return changed


def cut_off(data: Bytes, position: int, rng: Random) -> Bytes:
    """The rest is missing."""
    return data[:position]


def drop(data: Bytes, position: int, rng: Random) -> Bytes:
    """Up to 64 bytes are missing."""
    return np.concatenate([data[:position], data[position + int(rng.integers(1, 65)) :]])


def repeat(data: Bytes, position: int, rng: Random) -> Bytes:
    """Up to 64 bytes come twice."""
    return np.concatenate([data[: position + int(rng.integers(1, 65))], data[position:]])


def insert(data: Bytes, position: int, rng: Random) -> Bytes:
    """Up to 64 random bytes more."""
    return np.concatenate(
        [data[:position], rng.integers(256, size=rng.integers(1, 65), dtype=np.uint8), data[position:]]
    )


def zero(data: Bytes, position: int, rng: Random) -> Bytes:
    """Up to 512 zeros, as of a lost disk block."""
    changed = data.copy()
    changed[position : position + int(rng.integers(1, 513))] = 0
    return changed


CHANGES: tuple[Callable[[Bytes, int, Random], Bytes], ...] = (
    set_byte,
    flip_bit,
    set_number,
    cut_off,
    drop,
    repeat,
    insert,
    zero,
)
