"""The site check of a run: one warning where images differ, silence where they fit, no second pass."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import medprompt
from medprompt.bundles.load import Bundle, load_bundle, write_manifest
from medprompt.core.errors import BundleError, InputError
from medprompt.core.manifest import Postprocess
from medprompt.images.read import load_image
from medprompt.runtime import site
from medprompt.runtime.engines.fake import Fake
from medprompt.runtime.site import check_site, row_of_image
from medprompt.site.record import SITE_FILE, record_of_rows, write_record
from tests.runtime.bundles import make_bank, make_folder, make_manifest, record
from tests.runtime.scripted import detector, image, script

RECORDED, HERE = 40, 24


def write_images(folder: Path, count: int, seed: int, brighter: int = 0) -> Path:
    """Noise about a level that differs from image to image."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        level = random.normal(120 + brighter, 10)
        noise = np.clip(random.normal(level, 20, (24, 36, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02}.png")
    return folder


def with_record(folder: Path, proven: Path) -> Bundle:
    """A bundle on the fake engine that was proven on these images."""
    bundle = load_bundle(make_folder(folder, engines=(record("fake"),)))
    with medprompt.Detector.load(bundle) as loaded:
        rows = [row_of_image(load_image(path), loaded, 0.2) for path in sorted(proven.iterdir())]
    write_record(folder / SITE_FILE, record_of_rows(rows, bundle.bank, 0.2, "drawn images"))
    write_manifest(folder, make_manifest(engines=(record("fake"),)))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with_record(folder / "bundle", write_images(folder / "proven", RECORDED, 1))
    make_folder(folder / "blank", engines=(record("fake"),))
    make_bank([{"label": "RBC", "phrases": ["a"]}]).save(folder / "bank.safetensors")
    write_images(folder / "alike", HERE, 2)
    write_images(folder / "brighter", HERE, 3, brighter=60)
    write_images(folder / "few", 5, 4, brighter=60)
    (folder / "film.mp4").write_bytes(b"")
    return folder


def told(world: Path, images: str, **options: Any) -> list[str]:
    """The warnings of a run with the check."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        medprompt.infer(world / "bundle", world / images, site_check=True, **options)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        ("alike", {}, []),
        ("brighter", {}, ["site check: differs", "brightness higher", "medprompt docs site"]),
        ("few", {}, ["site check: too few images", "5 images here"]),
        ("brighter", {"threshold": 0.9}, ["brightness higher"]),
        ("brighter", {"select": "top:1"}, ["brightness higher"]),
        ("brighter", {"tile": 16}, ["brightness higher", "left out: large images are cut into tiles"]),
        ("brighter", {"labels": ["RBC"]}, ["brightness higher", "left out: other prompts are served"]),
    ],
)
def test_one_warning_a_run(world: Path, images: str, options: dict[str, Any], said: list[str]) -> None:
    texts = told(world, images, **options)
    assert len(texts) == bool(said)
    assert all(word in text for text in texts for word in said), texts


def test_off_by_default_and_no_other_answer(world: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = medprompt.infer(world / "bundle", world / "brighter")
    with pytest.warns(UserWarning, match="site check"):
        checked = medprompt.infer(world / "bundle", world / "brighter", site_check=True)
    assert checked.as_json() == plain.as_json()


def test_no_image_is_run_twice_and_of_many_some_are_looked_at(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, looked = [], []
    run, row = Fake.run, site.site_row
    monkeypatch.setattr(Fake, "run", lambda self, feeds: runs.append(0) or run(self, feeds))
    monkeypatch.setattr(site, "site_row", lambda *given: looked.append(0) or row(*given))
    monkeypatch.setattr(site, "MAX_IMAGES", 12)
    told(world, "alike")
    assert (len(runs), len(looked)) == (HERE, 12)


def test_what_cannot_be_checked_is_refused_before_the_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "run", lambda *_: pytest.fail("an image was run"))
    with pytest.raises(BundleError, match=r"--record site\.json"):
        medprompt.infer(world / "blank", world / "alike", site_check=True)
    with pytest.raises(InputError, match="Not for videos"):
        medprompt.infer(world / "bundle", world / "film.mp4", site_check=True)


def test_a_record_with_other_figures_is_refused(world: Path) -> None:
    bundle = load_bundle(world / "bundle")
    found = site.record_of_bundle(bundle)
    names = {("sharpness" if name == "edges" else name): unit for name, unit in found.columns.items()}
    with pytest.raises(BundleError, match="edges, sharpness"):
        check_site(bundle, [], record=found.model_copy(update={"columns": names}))


@pytest.mark.parametrize(("images", "outcome"), [("alike", "passed"), ("brighter", "failed"), ("few", "no verdict")])
def test_arrays_can_be_checked_too(world: Path, images: str, outcome: str) -> None:
    arrays = [load_image(path) for path in sorted((world / images).iterdir())]
    assert check_site(world / "bundle", iter(arrays)).outcome == outcome


def test_masks_are_not_made_for_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, boxes = [(0.9, 0, 0), (0.1, 1, 2)], [[0, 0, 0.5, 0.5], [0.1, 0.1, 0.6, 0.6]]
    plain, masked = script(rows, boxes), script(rows, boxes, masks=np.full((2, 4, 6), 0.9, np.float32))
    monkeypatch.setattr("medprompt.runtime.decode.source_masks", lambda *_: pytest.fail("masks were made"))
    post = Postprocess(top_k=2, mask_threshold=0.5)
    found = row_of_image(image(), detector(masked, postprocess=post), 0.2)
    assert np.array_equal(found, row_of_image(image(), detector(plain), 0.2))


def test_the_frames_of_a_file_count_once(world: Path) -> None:
    bundle = load_bundle(world / "bundle")
    with medprompt.Detector.load(bundle) as loaded:
        pixels = load_image(world / "alike" / "00.png")
        watch = site.SiteWatch(site.record_of_bundle(bundle), [Path("a"), Path("a"), Path("b")])
        outputs = loaded.outputs(loaded.image_feeds([pixels]), loaded.prompts.whole)
        for name in ("a", "a", "b", "c"):
            watch.see(Path(name), pixels, loaded, outputs)
    assert watch.check().images == 2
