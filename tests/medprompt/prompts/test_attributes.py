import pytest

from medprompt.core.errors import PromptError
from medprompt.prompts.attributes import DEFAULT_TEMPLATE, phrases_from_attributes, template_fields
from medprompt.prompts.file import prompts_from_yaml, save_prompts, yaml_from_prompts
from medprompt.prompts.schema import Prompts
from tests.medprompt.prompts.test_file import check_refusal

ISSUE = "{color}, {shape} {name} {location}"


@pytest.mark.parametrize(
    ("attributes", "template", "expected"),
    [
        ({"color": "pink", "shape": "oval", "location": "in rectum"}, ISSUE, ["pink, oval bump in rectum"]),
        ({"color": "pink"}, ISSUE, ["pink, bump"]),
        ({"shape": "oval"}, ISSUE, ["oval bump"]),
        ({"location": "in rectum"}, ISSUE, ["bump in rectum"]),
        ({}, ISSUE, ["bump"]),
        ({"color": None, "shape": "", "location": []}, ISSUE, ["bump"]),
        ({"color": ["pink", "red"], "shape": ["oval", "flat"]}, "{color} {shape} {name}",
         ["pink oval bump", "pink flat bump", "red oval bump", "red flat bump"]),
        ({"color": ["pink", ""]}, "{color} {name}", ["pink bump", "bump"]),
        ({"color": ["pink", "Pink"]}, "{color} {name}", ["pink bump"]),
        ({"location": "rectum"}, "{name}[ in {location}]", ["bump in rectum"]),
        ({}, "{name}[ in {location}], seen", ["bump, seen"]),
        ({"color": "  dark   red "}, "{color} {name}", ["dark red bump"]),
        ({"size": "small", "modality": "endoscopy"}, DEFAULT_TEMPLATE, ["small bump, endoscopy"]),
    ],
)  # fmt: skip
def test_phrases(attributes, template, expected):
    assert [wording.text for wording in phrases_from_attributes("bump", attributes, template)] == expected


def test_a_phrase_knows_its_words():
    (first, second) = phrases_from_attributes("bump", {"color": ["", "red"], "shape": "flat"}, "{color} {shape} {name}")
    assert (first.attributes, first.ranks) == ({"shape": "flat"}, {"shape": 0})
    assert (second.attributes, second.ranks) == ({"color": "red", "shape": "flat"}, {"color": 1, "shape": 0})


def test_aligned_keeps_the_last_word_of_a_shorter_list():
    words = {"color": ["pink", "red", "white"], "shape": ["oval", "flat"]}
    made = phrases_from_attributes("bump", words, "{color} {shape} {name}", combine="aligned")
    assert [wording.text for wording in made] == ["pink oval bump", "red flat bump", "white flat bump"]


@pytest.mark.parametrize(
    ("attributes", "template", "words"),
    [
        ({"colour": "red"}, ISSUE, ["not known", "colour", "color, shape, texture, size, location, modality"]),
        ({}, "{colour} {name}", ["field", "{colour}", "{name}, {color}"]),
        ({}, "{color!r} {name}", ["format"]),
        ({}, "{color:>9} {name}", ["format"]),
        ({}, "{0} {name}", ["{0}"]),
        ({}, "{color.x} {name}", ["{color.x}"]),
        ({}, "{color", ["cannot be read"]),
        ({}, "{color} thing", ["does not name the class"]),
        ({"texture": "soft"}, ISSUE, ["does not use", "texture"]),
        ({"color": 3}, ISSUE, ["word or a list", "3"]),
        ({"color": [3]}, ISSUE, ["word or a list"]),
        ({"color": ["x"] * 20, "shape": ["y"] * 20}, ISSUE, ["too many", "20 x 20 = 400", "200"]),
    ],
)
def test_what_cannot_be_used(attributes, template, words):
    with pytest.raises(PromptError) as caught:
        phrases_from_attributes("bump", attributes, template)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 2


def test_free_attributes_are_declared():
    made = phrases_from_attributes("bump", {"margin": "sharp"}, "{name}[ with a {margin} margin]", free=["margin"])
    assert made[0].text == "bump with a sharp margin"
    assert template_fields("{margin} {name}", ["margin"]) == ("margin",)


FILE = """
free_attributes: [margin]
template: "{color}, {shape} {name}[ in {location}][ with a {margin} margin]"
classes:
  - label: polyp
    names: {mlm: polyp, vqa: growth, prompt: bump}
    attributes: {color: [pink, red], shape: oval, location: rectum, margin: sharp}
    phrases: [{text: "red, oval bump in rectum with a sharp margin", weight: 0.5}]
  - label: mole
    attributes: {color: brown}
"""


def test_a_file_with_attributes(tmp_path):
    (tmp_path / "p.yaml").write_text(FILE)
    prompts = prompts_from_yaml(tmp_path / "p.yaml")
    assert prompts.texts == (
        "red, oval bump in rectum with a sharp margin",
        "pink, oval bump in rectum with a sharp margin",
        "brown, mole",
    )
    assert prompts.classes[0].phrases[0].weight == 0.5
    assert prompts.classes[0].phrases[1].origin.attributes["color"].value == "pink"
    assert [prompts.classes[0].name_for(use) for use in ("mlm", "vqa", "prompt")] == ["polyp", "growth", "bump"]
    assert prompts.classes[1].name_for("vqa") == "mole"


def test_writing_and_reading_again(tmp_path):
    (tmp_path / "p.yaml").write_text(FILE)
    prompts = prompts_from_yaml(tmp_path / "p.yaml")
    save_prompts(prompts, tmp_path / "q.yaml")
    assert prompts_from_yaml(tmp_path / "q.yaml") == prompts
    assert Prompts.model_validate(prompts.model_dump(mode="json")) == prompts
    plain = Prompts.model_validate({"classes": [{"label": "a", "phrases": ["x"]}]})
    assert yaml_from_prompts(plain) == "classes:\n- label: a\n  phrases:\n  - x\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: [{label: a, attributes: {hue: red}}]", ["hue", "color"]),
        ("classes: [{label: a, template: '{hue} {name}', phrases: [x]}]", ["{hue}"]),
        ("template: '{hue} {name}'\nclasses: [{label: a, phrases: [x]}]", ["{hue}"]),
        ("classes: [{label: a, attributes: [red]}]", ["classes.attributes", "expected attributes"]),
        ("classes: [{label: a, attributes: {color: red}, phrases: x}]", ["expected attributes"]),
        ("classes: [{label: a, names: {other: b}, phrases: [x]}]", ["names.other"]),
        ("classes: [{label: a, phrases: [{text: x, origin: {date: today}}]}]", ["date"]),
        ("classes: [{label: a, phrases: [{text: x, origin: {probability: 2}}]}]", ["probability"]),
        ("classes: [{label: a, phrases: [{text: x, source: guessed}]}]", ["source"]),
    ],
)
def test_bad_files(tmp_path, text, words):
    check_refusal(tmp_path, text, words)
