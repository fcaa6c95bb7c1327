import pytest

from medprompt.core.errors import PromptError
from medprompt.generation.lexicon import SHIPPED, lexicon_from_yaml
from medprompt.prompts.attributes import ATTRIBUTES

LEXICON = lexicon_from_yaml()


def test_the_shipped_lexicon_has_every_known_attribute():
    assert set(LEXICON.attributes) == set(ATTRIBUTES)
    assert set(LEXICON.questions.mlm) == set(LEXICON.questions.vqa) == set(ATTRIBUTES)
    assert all("{name}" in question and "[MASK]" in question for question in LEXICON.questions.mlm.values())
    for entry in LEXICON.attributes.values():
        assert len(set(entry.words)) == len(entry.words)
        assert set(entry.synonyms) <= set(entry.words)


def test_unfit_locations_of_the_paper_are_not_words():
    assert not {"right", "left", "base", "site"} & set(LEXICON.words("location"))


@pytest.mark.parametrize(
    ("attribute", "answer", "word"),
    [
        ("color", "Red.", "red"),
        ("color", "It is dark red", "dark red"),
        ("color", "grey", "gray"),
        ("color", "red and white", "red"),
        ("color", "not red but white", "white"),
        ("color", "infrared", None),
        ("color", "", None),
        ("color", "bicycle", None),
        ("shape", "a circle", "round"),
        ("location", "in the right lung", "right lung"),
        ("modality", "X-ray", "x-ray"),
        ("margin", "Sharp, clear!", "sharp clear"),
        ("margin", " ", None),
    ],
)
def test_answers_become_words(attribute, answer, word):
    assert LEXICON.normalised(attribute, answer) == word


def test_an_edited_copy(tmp_path):
    copy = tmp_path / "mine.yaml"
    copy.write_text(SHIPPED.read_text().replace("words: [red,", "words: [salmon, red,"))
    assert lexicon_from_yaml(copy).normalised("color", "salmon") == "salmon"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attributes: {color: {words: []}}", ["attributes.color.words"]),
        ("attributes: {color: {words: [red], aliases: {rot: rouge}}}", ["rouge"]),
        ("colours: {}", ["colours"]),
        ("[", ["cannot be read"]),
    ],
)
def test_a_bad_lexicon(tmp_path, text, words):
    (tmp_path / "l.yaml").write_text(text)
    with pytest.raises(PromptError) as caught:
        lexicon_from_yaml(tmp_path / "l.yaml")
    for word in words:
        assert word in str(caught.value)
