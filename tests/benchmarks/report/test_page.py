"""The report: one file, whatever a label says, and a browser opens it without a complaint or a request."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprompt.benchmarks.accuracy.evaluation import evaluate_bundle
from medprompt.benchmarks.report.page import BROWSERS, BundleReport, measure_report, write_pdf
from medprompt.benchmarks.report.pictures import class_colours
from medprompt.bundles.attached import attach_report
from medprompt.bundles.load import load_bundle
from medprompt.cli import main
from medprompt.core.errors import EngineError, InputError
from medprompt.core.overlay import COLOURS
from medprompt.data import read_detection_set
from medprompt.export.finetune.sets import data_sha256
from tests.benchmarks.conftest import TinyDemo
from tests.benchmarks.fakes import LEVELS, MASKED, fake_bundle, write_set
from tests.runtime.bundles import make_bank, make_folder, record

EVIL = "<script>alert('x')</script> & \"q\""


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> BundleReport:
    """Labels, not PyTorch, beside a bundle whose class has a hostile name."""
    folder = tmp_path_factory.mktemp("evil")
    bank = make_bank([{"label": EVIL, "phrases": ["<b>a</b>"]}, {"label": "WBC", "phrases": ["b"]}])
    bundle = make_folder(folder / "bundle", bank, engines=(record("fake"),))
    data = write_set(folder / "set", LEVELS, names=(EVIL, "WBC"))
    return measure_report(bundle, [read_detection_set(str(data))], devices=["fake"], rounds=3, resamples=10)


@pytest.fixture(scope="module")
def compared(tiny_demo: TinyDemo) -> BundleReport:
    bundle = tiny_demo.report.out / "bundle"
    sets = [read_detection_set(str(tiny_demo.samples / name / "labels.json")) for name in ("smear", "tissue")]
    return measure_report(
        bundle, sets, checkpoint=tiny_demo.checkpoint, devices=["ort-cpu", "openvino"], rounds=2, resamples=10
    )


def test_what_users_write_is_text(evil: BundleReport) -> None:
    page = evil.html()
    assert "<script>alert" not in page and "<b>a</b>" not in page
    assert page.count(html.escape(EVIL, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) > 3
    assert "<script>" not in page


def test_attached_reports_are_on_the_page(evil: BundleReport, tmp_path: Path) -> None:
    assert 'id="attached"' not in evil.html()
    shutil.copytree(evil.bundle.path, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    tables = [{"title": "Verdicts", "columns": ["class", "verdict"], "rows": [["<i>WBC</i>", "reads"]]}]
    about = {
        "kind": "prompts",
        "bundle_sha256": bundle.sha256,
        "outcome": "measured",
        "verdict": "reads",
        "tables": tables,
    }
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(about))
    attach_report(bundle, path)
    page = replace(evil, bundle=bundle).html()
    assert "<h3>prompts: reads</h3>" in page
    assert "&lt;i&gt;WBC&lt;/i&gt;</th><td>reads</td>" in page


def test_a_page_of_one_file(compared: BundleReport) -> None:
    page = compared.html()
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", page) == []
    assert re.findall(r"@import|@font-face|url\((?!#)", page) == []
    ids = re.findall(r"\bid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    assert page.count("<svg role=") == 3 * 2 + 2
    assert page.count('class="pair"') == 3
    assert page.count("data:image/jpeg") == 3  # each picture once, shown on both sides
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert page.index("at the bundle&#39;s own thresholds") < page.index("Parity with PyTorch")
    passed, why = compared.verdict
    assert passed and "of" in why
    for text in (
        "Parity with PyTorch: passed.",
        "labelled boxes",
        "UTC",
        "Parity at export",
        compared.bundle.sha256,
        "bundle on openvino",
    ):
        assert text in page


def test_a_class_has_one_colour_in_all_plots_and_pictures(evil: BundleReport) -> None:
    page = evil.html()
    rects = {
        (colour, tag.rpartition(" ")[0] or tag)
        for colour, tag in re.findall(r'stroke="(#\w+)" style="[^"]*">([^<]+)<', page)
    }
    wbc = {colour for colour, label in rects if label == "WBC"}
    assert wbc <= {class_colours([EVIL, "WBC"])["wbc"]} and rects
    assert f"background:{class_colours([EVIL, 'WBC'])['wbc']}" in page


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((), {}),
        (("a", "B", "b"), {"a": COLOURS[0], "b": COLOURS[1]}),
        (tuple("abcdefgh"), dict(zip("abcdefgh", (*COLOURS, COLOURS[0]), strict=True))),
    ],
)
def test_colours_by_class(labels: tuple[str, ...], expected: dict[str, str]) -> None:
    assert class_colours(labels) == expected


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("", []),
        ("chosen by these figures: the best\n{sha}\n## Training\n", ["chosen by their figures"]),
        ("(not chosen by these figures)\n{sha}\n## Training\n", []),
        ("(not chosen by these figures)\n## Training\n{sha}\n", ["trained on these images"]),
    ],
)
def test_images_that_taught_the_model_are_no_independent_test(
    compared: BundleReport, tmp_path: Path, card: str, said: list[str]
) -> None:
    sha = data_sha256(compared.accuracy.sets[0].predictions.labelled)
    (tmp_path / "README.md").write_text(card.format(sha=sha))
    remarks = replace(compared, checkpoint=tmp_path).remarks
    assert len(remarks) == len(said) and all(text in remark for text, remark in zip(said, remarks, strict=True))


def test_an_engine_that_died_is_on_the_page(compared: BundleReport) -> None:
    assert "failed while it was timed" not in compared.html()
    latency = replace(compared.latency, failures={"bundle on trt": "The engine died."})
    page = replace(compared, latency=latency).html()
    assert "<strong>bundle on trt failed while it was timed;</strong>" in page
    assert "The engine died." in page


def test_masks_lie_on_the_pictures_and_are_measured(evil: BundleReport, tmp_path: Path) -> None:
    bundle = load_bundle(fake_bundle(tmp_path / "bundle", postprocess=MASKED))
    data = write_set(tmp_path / "set", LEVELS, part=0.7)
    page = replace(evil, bundle=bundle, accuracy=evaluate_bundle(bundle, data, device="fake", resamples=5)).html()
    assert page.count("data:image/png") == 3 + 3  # labels, and what is found, of the images that have any
    for text in (">Dice<", "set/labels: masks", "boundary F1 (95 %)", "AP by masks, not boxes"):
        assert text in page
    layers = [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    for layer in layers:
        with Image.open(io.BytesIO(layer)) as picture:
            covers = np.asarray(picture.getchannel("A"))
            assert picture.size == (60, 40) and 0 < (covers > 0).mean() < 0.9 and covers.max() == 255


def test_no_labelled_set_is_refused(compared: BundleReport) -> None:
    with pytest.raises(InputError, match="no labelled set"):
        measure_report(compared.bundle, [])


def test_the_command(
    tiny_demo: TinyDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    words = [
        "medprompt",
        "bench",
        "report",
        str(tiny_demo.report.out / "bundle"),
        "--out",
        str(out),
        "--device",
        "ort-cpu",
    ]
    words += ["--data", str(tiny_demo.samples / "tissue" / "labels.json"), "--rounds", "1", "--resamples", "5"]
    monkeypatch.setattr("sys.argv", words)
    for code, said in ((0, "own figures"), (2, "exists already")):
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        printed = capsys.readouterr()
        assert said in printed.out + printed.err
    assert out.read_text().startswith("<!doctype html>")


def test_no_browser_prints_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EngineError, match="Chromium"):
        write_pdf(tmp_path / "page.html", tmp_path / "page.pdf")
    assert list(tmp_path.iterdir()) == []


BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser(compared: BundleReport, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    page_file = tmp_path / "report.html"
    page_file.write_text(compared.html(), encoding="utf-8")
    said: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page: Any = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        page.goto(page_file.as_uri())
        for link in page.locator("nav a").all():
            link.click()
            assert page.locator(link.get_attribute("href")).bounding_box()["y"] < 400
        tag, pair = page.locator(".tag").first, page.locator(".pair > div").first
        assert tag.is_visible()
        page.uncheck("#tags")
        assert not tag.is_visible()
        low = pair.bounding_box()["height"]
        page.locator(".larger").first.check()
        assert pair.bounding_box()["height"] > 3 * low
        browser.close()
    assert said == []
    assert set(asked) <= {"file", "data"}
    write_pdf(page_file, tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
