import pytest

from medprompt.core.errors import PromptError
from medprompt.generation.augment import Augmentation, augmented_prompts
from medprompt.generation.lexicon import Lexicon
from medprompt.prompts.schema import Prompts

LEXICON = Lexicon.model_validate(
    {
        "attributes": {
            "color": {"words": ["red", "purple"], "synonyms": {"red": ["crimson"]}, "degrees": ["pale"]},
            "size": {"words": ["small"], "synonyms": {"small": ["little"]}},
        },
        "pairs": {"normal": ["healthy {name}"], "abnormal": ["damaged {name}"]},
        "experts": {"bump": ["raised growth"]},
    }
)


def make(*phrases, **more):
    return Prompts.model_validate({"classes": [{"label": "polyp", "phrases": list(phrases), **more}]})


@pytest.mark.parametrize(
    ("phrase", "rules", "expected"),
    [
        ("small red bump", {}, ["small crimson bump", "small pale red bump", "little red bump"]),
        ("small red bump", {"degrees": False}, ["small crimson bump", "little red bump"]),
        ("small red bump", {"synonyms": False}, ["small pale red bump"]),
        ("small red bump", {"max_new": 1}, ["small crimson bump"]),
        ("pale red bump", {}, ["pale crimson bump"]),
        ("reddish Purple bump", {}, ["reddish pale purple bump"]),
        ("bump", {}, ["raised growth"]),
    ],
)
def test_new_phrases(phrase, rules, expected):
    made = augmented_prompts(make(phrase), LEXICON, Augmentation(**rules, date="2026-02-01"))
    assert list(made.texts) == [phrase, *expected]
    new = made.classes[0].phrases[1]
    assert (new.source, new.origin.date) == ("augmented", "2026-02-01")
    assert new.origin.parent == ("bump" if expected == ["raised growth"] else phrase)


def test_weights_are_inherited_and_every_phrase_gets_its_turn():
    prompts = make({"text": "red bump", "weight": 0.5}, "small spot")
    made = augmented_prompts(prompts, LEXICON, Augmentation(max_new=2))
    assert made.texts[2:] == ("crimson bump", "little spot")
    assert [phrase.weight for phrase in made.classes[0].phrases] == [0.5, 1, 0.5, 1]


def test_named_attributes_are_used_where_there_are_any():
    phrase = {"text": "small red bump", "origin": {"attributes": {"size": {"value": "small"}}}}
    assert augmented_prompts(make(phrase), LEXICON, Augmentation()).texts[1:] == ("little red bump",)


def test_experts_are_found_by_any_name():
    made = augmented_prompts(make("x", names={"prompt": "bump"}), LEXICON, Augmentation())
    assert made.texts == ("x", "raised growth")


def test_pairs_are_classes_of_their_own():
    made = augmented_prompts(make("x"), LEXICON, Augmentation(pairs_of="tissue"))
    assert [entry.label for entry in made.classes] == ["polyp", "abnormal", "normal"]
    assert made.texts[1:] == ("damaged tissue", "healthy tissue")
    with pytest.raises(PromptError, match="duplicate label"):
        augmented_prompts(made, LEXICON, Augmentation(pairs_of="skin"))


def test_nothing_to_add():
    with pytest.raises(PromptError, match="nothing to add"):
        augmented_prompts(make("x"), LEXICON, Augmentation())
