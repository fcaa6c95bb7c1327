import pytest

from medprompt.core.errors import PromptError
from medprompt.prompts.file import prompts_from_yaml

GOOD = """
classes:
  - label: polyp
    code: {scheme: SCT, value: "41329004", meaning: Polyp of colon}
    threshold: 0.3
    phrases: [pink oval bump in rectum, {text: "round  bump", weight: 0.5}]
  - label: ulcer
    phrases: [yellow flat ulcer]
pooling: mean
"""


def test_a_good_file(tmp_path):
    (tmp_path / "p.yaml").write_text(GOOD)
    prompts = prompts_from_yaml(tmp_path / "p.yaml")
    assert prompts.texts == ("pink oval bump in rectum", "round bump", "yellow flat ulcer")
    assert prompts.classes[0].phrases[1].weight == 0.5
    assert prompts.classes[0].code.value == "41329004"
    assert (prompts.classes[0].threshold, prompts.classes[1].threshold) == (0.3, None)
    assert prompts.pooling == "mean"


def check_refusal(folder, text, words):
    """A prompts file is refused with exit code 2 and a text that has the file's path and these words."""
    path = folder / "p.yaml"
    path.write_text(text)
    with pytest.raises(PromptError) as caught:
        prompts_from_yaml(path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["not valid", "medprompt prompts packs"]),
        ("# nothing", ["not valid", "medprompt prompts packs"]),
        ("red cell . white cell .", ["line 1", "write each class as a label"]),
        ("- {label: a, phrases: [x]}", ["'classes:' on a line above"]),
        ("RBC: [red cell]\nWBC: [x]", ["write each class as an entry", "{label: RBC,"]),
        ("classes: {RBC: [red cell]}", ["write each class as an entry", "{label: RBC,"]),
        ("classes: {RBC: red cell}", ["write each class as an entry", "{label: RBC,"]),
        ("classes: [RBC, WBC]", ["write each class as a label"]),
        ("classes: []", ["classes"]),
        ("classes: [{label: a, phrases: []}]", ["classes.phrases"]),
        ("classes: [{label: a}]", ["classes.phrases"]),
        ("classes: [{label: a, phrases: ['']}]", ["must not be empty"]),
        ("classes: [{label: a, phrases: [' . ']}]", ["must not be empty"]),
        (
            "classes: [{label: a, phrases: [3]}]",
            ["classes.phrases.text", "line 1", "got 3, which YAML reads as a number: put it in quotes"],
        ),
        ("classes: [{label: a, phrases: cell}]", ["expected a list of phrases"]),
        ("classes: [{label: a, phrases: [x, X]}]", ["duplicate phrase", "'x'"]),
        ("classes: [{label: a, phrases: [x]}, {label: a, phrases: [y]}]", ["duplicate label", "'a'"]),
        ("classes: [{label: a, phrases: [x], color: red}]", ["classes.color"]),
        ("classes: [{label: a, phrases: [{text: x, weight: 0}]}]", ["weight"]),
        ("classes: [{label: a, phrases: [x], threshold: 2}]", ["threshold"]),
        ("classes: [{label: a, phrases: [x], code: {scheme: '', value: '1'}}]", ["classes.code.scheme"]),
        (f"classes: [{{label: a, phrases: [x], code: {{scheme: {'S' * 17}, value: '1'}}}}]", ["classes.code.scheme"]),
        ("classes: [{label: a, phrases: [x], code: {scheme: SCT, value: '1\\2'}}]", ["classes.code.value"]),
        ("classes: [", ["cannot be read"]),
        ("classes:\n- label: a\n  phrases: [x]\n  label: b\n  phrases: [y]", ["line 4", "'label' is given twice"]),
        ("classes:\n- {label: a, phrases: [x]}\nclasses:\n- {label: b, phrases: [y]}", ["line 3", "'classes'"]),
        ("classes: [{label: a, phrases: [x], threshold: 0.9, threshold: 0.1}]", ["'threshold' is given twice"]),
        ("classes:\n- {label: a, phrases: [x]}\n---\nclasses: []", ["another document"]),
        ("classes:\n\t- {label: a, phrases: [x]}", ["line 2", "a tab"]),
        ("classes:\n- {label: a, phrases: [x]}\ntreshold: 0.3", ["line 3", "treshold", "is it 'threshold'?"]),
        ("classes: [{label: a, phrases: ['pink\\tbump']}]", ["backslash"]),
        ("classes: [{label: a, phrases: ['!!!']}]", ["must hold a word"]),
        ("classes:\n- label: a\n  phrases:\n  - note: pink", ["line 4", "in quotes"]),
        ("classes: [{label: a, attributes: {color: [red, no]}}]", ["classes.attributes.color", "got no", "in quotes"]),
        ("classes:\n- {label: a, attributes: {colour: red}}", ["line 2", "attribute is not known", "got colour"]),
        ("classes:\n- {label: a, phrases: [x], template: '{hue} {name}'}", ["line 2", "classes.template", "{hue}"]),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path, text, words):
    check_refusal(tmp_path, text, words)


@pytest.mark.parametrize(
    ("written", "reading"),
    [
        ("no", "a yes or no"),
        ("on", "a yes or no"),
        ("True", "a yes or no"),
        ("3.5", "a number"),
        ("007", "a number"),
        ("1e3", None),
        ("12:30:00", "a number"),
        (".inf", "a number"),
        ("2024-01-01", "a date"),
        ("2024-01-01 10:00:00", "a datetime"),
        ("null", "nothing"),
        ("~", "nothing"),
    ],
)
@pytest.mark.parametrize("place", ["label", "phrase", "text", "code", "attribute", "name", "template"])
def test_text_that_yaml_reads_as_something_else(tmp_path, place, written, reading):
    fields = {
        "label": f"label: {written}\n  phrases: [x]",
        "phrase": f"label: a\n  phrases: [{written}]",
        "text": f"label: a\n  phrases: [{{text: {written}}}]",
        "code": f"label: a\n  phrases: [x]\n  code: {{scheme: SCT, value: {written}}}",
        "attribute": f"label: a\n  attributes: {{color: [{written}]}}",
        "name": f"label: a\n  phrases: [x]\n  names: {{vqa: {written}}}",
        "template": f"label: a\n  phrases: [x]\n  template: {written}",
    }
    text = f"classes:\n- {fields[place]}\n"
    optional = reading == "nothing" and place in ("attribute", "name", "template")
    if optional or (reading is None and place != "template"):  # a template without {name} is refused as such
        (tmp_path / "p.yaml").write_text(text)
        prompts_from_yaml(tmp_path / "p.yaml")
    elif reading:
        check_refusal(tmp_path, text, ["line ", f"got {written}, which YAML reads as {reading}: put it in quotes"])
    quoted = text.replace(written, f"'{written}'")
    if place != "template":
        (tmp_path / "p.yaml").write_text(quoted)
        prompts_from_yaml(tmp_path / "p.yaml")


@pytest.mark.parametrize("field", ["threshold: {}, phrases: [x]", "phrases: [{{text: x, weight: {}}}]"])
@pytest.mark.parametrize("value", ["true", "yes", "30", "-1", ".nan", ".inf", "30%", "'0,3'", "[0.3]", "''"])
def test_numbers_that_are_none(tmp_path, field, value):
    check_refusal(tmp_path, f"classes:\n- {{label: a, {field.format(value)}}}", ["line 2"])


@pytest.mark.parametrize("value", ["0.3", "'0.3'", "3.0e-1", ".3"])
def test_numbers(tmp_path, value):
    (tmp_path / "p.yaml").write_text(f"classes: [{{label: a, threshold: {value}, phrases: [x]}}]")
    assert prompts_from_yaml(tmp_path / "p.yaml").classes[0].threshold == 0.3


@pytest.mark.parametrize(
    ("first", "second"),
    [("RBC", "rbc"), ("RBC", "R\u200bBC"), ("straße", "STRASSE"), ("pólyp", "po\u0301lyp"), ("№ 1", "no 1")],
)
def test_labels_that_read_alike(tmp_path, first, second):
    text = f"classes:\n- {{label: {first}, phrases: [x]}}\n- {{label: {second}, phrases: [y]}}\n"
    check_refusal(tmp_path, text, ["line 3, classes.label"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("red cell", "Red  Cell"), ("red cell", "red cell."), ("red cell", "red cell . "), ("pólyp", "PO\u0301LYP.")],
)
@pytest.mark.parametrize(
    "layout", ["- {{label: a, phrases: [{}, {}]}}", "- {{label: a, phrases: [{}]}}\n- {{label: b, phrases: [{}]}}"]
)
def test_phrases_that_read_alike(tmp_path, layout, first, second):
    text = "classes:\n" + layout.format(f'"{first}"', f'"{second}"')
    check_refusal(tmp_path, text, [f"line {text.count(chr(10)) + 1}, classes.phrases", "duplicate phrase"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings(tmp_path, encoding, newline):
    (tmp_path / "p.yaml").write_bytes(GOOD.replace("\n", newline).encode(encoding))
    assert len(prompts_from_yaml(tmp_path / "p.yaml").texts) == 3


def test_many_aliases_are_refused_in_few_words(tmp_path):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "p.yaml").write_text("\n".join([*lines, "classes: *i"]))
    with pytest.raises(PromptError) as caught:
        prompts_from_yaml(tmp_path / "p.yaml")
    assert len(str(caught.value)) < 4000


def test_a_fault_has_no_noise(tmp_path):
    (tmp_path / "p.yaml").write_text("classes: [{label: a, phrases: [no]}]")
    with pytest.raises(PromptError) as caught:
        prompts_from_yaml(tmp_path / "p.yaml")
    assert caught.value.got == (
        "line 1, classes.phrases.text: expected text (got no, which YAML reads as a yes or no: put it in quotes)"
    )


def test_a_missing_file(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        prompts_from_yaml(tmp_path / "none.yaml")
