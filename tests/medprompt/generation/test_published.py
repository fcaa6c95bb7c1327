import json

import pytest

from medprompt.core.errors import PromptError
from medprompt.generation.answers import Answer, AnswerCache, AskedImage
from medprompt.generation.prompt_map import check_prompt_map, load_prompt_map, save_prompt_map
from medprompt.generation.published import (
    caption_from_phrases,
    load_published,
    prompts_from_published,
    save_published,
)

ONE = {"caption": "gray round lump in gut", "prefix": [""], "suffix": [" in gut"], "name": ["gray round lump"]}
TWO = {
    "caption": "gray flat lump. tiny dot",
    "prefix": ["gray flat ", "tiny "],
    "suffix": ["", ""],
    "name": ["lump", "dot"],
}
EXTRA = {**ONE, "color": "gray", "cls": "lump"}


@pytest.mark.parametrize("entry", [ONE, TWO, EXTRA])
def test_a_round_trip_keeps_every_byte(tmp_path, entry):
    content = json.dumps({f"DATA/images/{n} ü.png": entry for n in range(3)})
    (tmp_path / "a.json").write_text(content)
    save_published(load_published(tmp_path / "a.json"), tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(content)
    if entry is not EXTRA:
        assert (tmp_path / "b.json").read_text() == content


@pytest.mark.parametrize(
    ("phrases", "names", "expected"),
    [
        (["gray flat lump"], ["lump"], (["gray flat "], ["lump"], [""])),
        (["lump in gut", "tiny dot"], ["lump", "dot"], (["", "tiny "], ["lump", "dot"], [" in gut", ""])),
        (["lumpy lump here"], ["lump"], (["lumpy "], ["lump"], [" here"])),
        (["something else"], ["lump"], ([""], ["something else"], [""])),
    ],
)
def test_captions_are_split_around_the_name(phrases, names, expected):
    caption = caption_from_phrases(phrases, names)
    assert tuple(map(list, (caption.prefix, caption.name, caption.suffix))) == expected
    assert list(caption.phrases) == phrases
    assert caption.caption == ". ".join(phrases)


def test_distinct_phrases_collapse(tmp_path):
    other = {**ONE, "caption": "pink lump in gut", "name": ["pink lump"]}
    (tmp_path / "a.json").write_text(json.dumps({"1.png": ONE, "2.png": other, "3.png": ONE}))
    prompts, chosen = prompts_from_published(load_published(tmp_path / "a.json"), ["polyp"])
    assert prompts.texts == ("gray round lump in gut", "pink lump in gut")
    assert [phrase.origin.images for phrase in prompts.classes[0].phrases] == [2, 1]
    assert chosen == {"1.png": (prompts.texts[0],), "2.png": (prompts.texts[1],), "3.png": (prompts.texts[0],)}
    check_prompt_map(chosen, prompts, ["2.png"])
    save_prompt_map(chosen, tmp_path / "map.json")
    assert load_prompt_map(tmp_path / "map.json") == chosen
    with pytest.raises(PromptError, match="another number of classes"):
        prompts_from_published(load_published(tmp_path / "a.json"), ["polyp", "ulcer"])
    with pytest.raises(PromptError, match="missing"):
        check_prompt_map(chosen, prompts, ["4.png"])
    with pytest.raises(PromptError, match="do not have"):
        check_prompt_map({"1.png": ("blue lump",)}, prompts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "no images"),
        ("[]", "no images"),
        ({"a": {**ONE, "name": [""]}}, "empty"),
        ({"a": {**ONE, "name": []}}, "one length"),
        ({"a": {**ONE, "caption": ""}}, "does not hold"),
        ({"a": {**ONE, "caption": "other"}}, "does not hold"),
        ({"a": {"location": ["gut"]}}, "caption"),
        ({"a": 3}, "a.json: a"),
    ],
)
def test_bad_per_image_files(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PromptError, match=words):
        load_published(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["[", "[]", '{"a": []}', '{"a": [""]}', '{"a": [3]}', '{"a": "x"}'])
def test_bad_maps(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(PromptError):
        load_prompt_map(tmp_path / "m.json")


def test_answers_are_kept_and_a_torn_line_is_dropped(tmp_path):
    path, asked = tmp_path / "deep" / "a.jsonl", AskedImage("sha", "What?", "m")
    cache = AnswerCache(path)
    cache.add([(asked, Answer("red", 0.25)), (AskedImage("sha", "Where?", "m"), Answer("foot"))])
    with path.open("a") as handle:
        handle.write('{"ima')
    again = AnswerCache(path)
    assert len(again) == 2
    assert again.get(asked) == Answer("red", 0.25)
    assert again.get(AskedImage("sha", "What?", "other")) is None
    again.add([(AskedImage("b", "What?", "m"), Answer("blue", 0.5))])
    assert len(AnswerCache(path)) == 3


def test_a_damaged_cache_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": 1}\n{}\n')
    with pytest.raises(PromptError, match="line 1"):
        AnswerCache(tmp_path / "a.jsonl")
