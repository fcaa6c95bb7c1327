import pytest

from medprompt.core.errors import PromptError
from medprompt.prompts.file import Prompts, prompts_from_yaml

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
        ("", ["not valid"]),
        ("classes: []", ["classes"]),
        ("classes: [{label: a, phrases: []}]", ["classes.0.phrases"]),
        ("classes: [{label: a}]", ["classes.0.phrases"]),
        ("classes: [{label: a, phrases: ['']}]", ["must not be empty"]),
        ("classes: [{label: a, phrases: [' . ']}]", ["must not be empty"]),
        ("classes: [{label: a, phrases: [3]}]", ["classes.0.phrases.0.text", "string"]),
        ("classes: [{label: a, phrases: cell}]", ["expected a list of phrases"]),
        ("classes: [{label: a, phrases: [x, X]}]", ["duplicate phrase", "'x'"]),
        ("classes: [{label: a, phrases: [x]}, {label: a, phrases: [y]}]", ["duplicate label", "'a'"]),
        ("classes: [{label: a, phrases: [x], color: red}]", ["classes.0.color"]),
        ("classes: [{label: a, phrases: [{text: x, weight: 0}]}]", ["weight"]),
        ("classes: [{label: a, phrases: [x], threshold: 2}]", ["threshold"]),
        ("classes: [{label: a, phrases: [x], code: {scheme: '', value: '1'}}]", ["classes.0.code.scheme"]),
        (f"classes: [{{label: a, phrases: [x], code: {{scheme: {'S' * 17}, value: '1'}}}}]", ["classes.0.code.scheme"]),
        ("classes: [{label: a, phrases: [x], code: {scheme: SCT, value: '1\\2'}}]", ["classes.0.code.value"]),
        ("classes: [", ["cannot be read"]),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path, text, words):
    check_refusal(tmp_path, text, words)


def test_a_missing_file(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        prompts_from_yaml(tmp_path / "none.yaml")


def test_a_round_trip_through_json_values():
    prompts = Prompts.model_validate({"classes": [{"label": "a", "phrases": ["x", {"text": "y", "source": "mlm"}]}]})
    assert Prompts.model_validate(prompts.model_dump(mode="json")) == prompts
