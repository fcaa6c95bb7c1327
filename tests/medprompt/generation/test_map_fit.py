"""Which entry of a map is whose: by whole paths first, by the most last parts else, and never by guessing."""

from __future__ import annotations

from pathlib import Path

import pytest

from medprompt.core.errors import BankError, PromptError
from medprompt.generation.map_fit import fit_prompt_map
from medprompt.prompts.bank import PromptBank
from tests.runtime.bundles import make_bank

A, B, W = "red cell", "pale disc", "white cell"
ONE, TWO = (A, W), (B, W)


@pytest.fixture
def bank() -> PromptBank:
    return make_bank()


@pytest.mark.parametrize(
    ("chosen", "images", "phrases", "warned"),
    [
        ({"1.png": ONE, "2.png": TWO}, ["/d/2.png", "/d/1.png"], [TWO, ONE], []),
        ({"s/1.png": ONE, "t/1.png": TWO}, ["/d/t/1.png", "/d/s/1.png"], [TWO, ONE], []),
        ({"1.png": ONE, "t/1.png": TWO}, ["/d/t/1.png"], [TWO], ["1 of 2 entries of the prompt map fit no image"]),
        ({"/d/1.png": ONE}, ["/d/1.png"], [ONE], []),
        ({"./1.png": ONE}, ["/d/x/../1.png"], [ONE], []),
        ({"s\\1.png": ONE}, ["/d/s/1.png"], [ONE], []),
        ({"DATA/val/s/1.png": ONE, "DATA/val/t/1.png": TWO}, ["/d/t/1.png"], [TWO],
         ["1 of 2 entries", "1 images were found in the prompt map by the end of their path only: /d/t/1.png by DATA"]),
        ({"old/1.png": ONE}, ["/d/1.png"], [ONE], ["by the end of their path only"]),
        ({"old/1.png": ONE, "older/1.png": ONE}, ["/d/1.png"], [ONE], ["1 of 2 entries", "by the end"]),
        ({"1.png": (W, A, A)}, ["/d/1.png"], [ONE], []),
        ({"1.png": ONE}, [], [], ["1 of 1 entries"]),
    ],
    ids=["names", "folders", "the longest whole path", "absolute", "dots", "backslashes", "other root", "moved",
         "alike", "doubles", "no image"],
)  # fmt: skip
def test_fits(
    bank: PromptBank, chosen: dict[str, tuple[str, ...]], images: list[str], phrases: list[object], warned: list[str]
) -> None:
    fitted = fit_prompt_map(chosen, [Path(image) for image in images], bank)
    assert list(fitted.phrases) == [Path(image) for image in images]
    assert list(fitted.phrases.values()) == phrases
    assert len(fitted.warnings) == len(warned)
    assert all(words in text for words, text in zip(warned, fitted.warnings, strict=True))


def test_relative_images_are_found_from_the_working_folder(
    bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path / "s")
    fitted = fit_prompt_map({"s/1.png": ONE, "t/1.png": TWO}, [Path("1.png")], bank)
    assert fitted.phrases == {Path("1.png"): ONE}


@pytest.mark.parametrize(
    ("chosen", "images", "problem", "words"),
    [
        ({"1.png": ONE}, ["1.png", "2.png", "s/3.png"], "missing from", ["2 missing: 2.png, s/3.png"]),
        ({}, ["1.png"], "missing from", ["1 missing: 1.png", "the map has none"]),
        ({"png": ONE, "": ONE}, ["1.png"], "missing from", ["1 missing"]),
        ({"1.png": ("blue cell", W)}, ["1.png"], "do not have", ["blue cell"]),
        ({"1.png": ONE, "2.png": ("blue cell", W)}, ["1.png"], "do not have", ["blue cell"]),
        ({"1.png": (A,)}, ["1.png"], "left without a phrase", ["1.png", "none of WBC"]),
        ({"a/1.png": ONE, "b/1.png": TWO}, ["c/1.png"], "Several entries", ["a/1.png, b/1.png"]),
        ({"1.png": ONE, "./1.png": TWO}, ["1.png"], "Several entries", ["./1.png"]),
        ({"1.png": ONE}, ["a/1.png", "b/1.png"], "fits several images", ["a/1.png, b/1.png"]),
    ],
    ids=["all that are missing", "empty map", "odd keys", "unknown phrase", "unknown phrase of no image",
         "silent class", "a tie", "two spellings", "one entry, two files"],
)  # fmt: skip
def test_what_does_not_fit(
    bank: PromptBank, chosen: dict[str, tuple[str, ...]], images: list[str], problem: str, words: list[str]
) -> None:
    with pytest.raises((PromptError, BankError), match=problem) as caught:
        fit_prompt_map(chosen, [Path(image) for image in images], bank)
    assert caught.value.exit_code == 2
    assert all(word in str(caught.value) for word in words)


def test_every_missing_image_is_listed(bank: PromptBank) -> None:
    with pytest.raises(PromptError) as caught:
        fit_prompt_map({"x.png": ONE}, [Path(f"{n}.png") for n in range(30)], bank)
    assert all(f" {n}.png" in caught.value.got for n in range(30))


def test_classes_that_are_not_served_are_passed_over(bank: PromptBank) -> None:
    chosen = {"1.png": ONE}
    assert fit_prompt_map(chosen, [Path("1.png")], bank, ["WBC"]).phrases == {Path("1.png"): (W,)}
    with pytest.raises(BankError, match="left without") as caught:
        fit_prompt_map({"1.png": (W,)}, [Path("1.png")], bank, ["RBC"])
    assert "none of RBC" in caught.value.got


def test_phrases_are_written_as_in_the_bank(bank: PromptBank) -> None:
    assert fit_prompt_map({"1.png": (W, "RED  cell")}, [Path("1.png")], bank).phrases == {Path("1.png"): ONE}
