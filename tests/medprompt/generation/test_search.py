"""The search itself, on scores that are known."""

import pytest

from medprompt.generation.lexicon import Lexicon
from medprompt.generation.search import SearchRules, coordinate_ascent
from medprompt.prompts.schema import Prompts

LEXICON = Lexicon.model_validate(
    {"attributes": {"color": {"words": ["red", "blue", "pink"]}, "size": {"words": ["big", "tiny"]}}}
)
PROMPTS = Prompts.model_validate(
    {"classes": [{"label": "a", "phrases": ["red big cell", "cell", "thing"]}, {"label": "b", "phrases": ["blue dot"]}]}
)


class Points:
    """Scores a wording by points a phrase: a class has the sum over its phrases."""

    def __init__(self, points, fail_after=None):
        self.points, self.asked, self.prepared, self.fail_after = points, [], set(), fail_after

    def prepare(self, texts):
        self.prepared |= set(texts)

    def score(self, prompts):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.append(tuple(sorted(text.casefold() for text in prompts.texts)))
        return sum(self.points.get(text, 0.0) for text in prompts.texts)


def found(points, rules=None, **kwargs):
    scorer = Points(points)
    return coordinate_ascent(PROMPTS, scorer, LEXICON, rules or SearchRules(), **kwargs), scorer


def phrases(ascent):
    return {entry.label: sorted(phrase.text for phrase in entry.phrases) for entry in ascent.prompts.classes}


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ({}, {"a": ["a"], "b": ["b"]}),  # all alike: one phrase, the shortest
        ({"red big cell": 1, "thing": 1}, {"a": ["red big cell", "thing"], "b": ["b"]}),  # a subset
        ({"pink big cell": 1, "pink tiny cell": 2}, {"a": ["pink big cell", "pink tiny cell"], "b": ["b"]}),
        ({"red big cell": -1, "red dot": 1}, {"a": ["a"], "b": ["red dot"]}),  # both classes
        ({"red big cell": 9, "cell": 8, "thing": 7, "blue dot": 6}, {"a": ["cell", "red big cell", "thing"],
                                                                     "b": ["blue dot"]}),  # the start is best
    ],
)  # fmt: skip
@pytest.mark.parametrize("beam", [1, 4])
def test_the_best_wording_is_found(points, best, beam):
    ascent, scorer = found(points, SearchRules(beam=beam))
    assert phrases(ascent) == best
    assert ascent.best == sum(points.get(text, 0) for text in ascent.prompts.texts)
    assert ascent.best >= ascent.start
    assert ascent.candidates == len(scorer.asked) == len(set(scorer.asked))  # none is scored twice
    assert {text for one in scorer.asked[1:] for text in one} <= {t.casefold() for t in scorer.prepared} | {
        text.casefold() for text in PROMPTS.texts
    }
    assert not ascent.interrupted


@pytest.mark.parametrize("budget", [1, 2, 5, 17])
def test_the_budget_is_kept_and_the_result_the_same_each_time(budget):
    points = {"pink big cell": 1, "tiny dot": 2, "cell": -1}
    first, scorer = found(points, SearchRules(budget=budget))
    again, _ = found(points, SearchRules(budget=budget))
    assert len(scorer.asked) == first.candidates <= budget
    assert first.prompts == again.prompts
    assert first.best >= first.start == -1


def test_sets_have_at_most_so_many_phrases():
    points = {text: 1.0 for text in ("red big cell", "cell", "thing", "a", "red cell")}
    ascent, _ = found(points, SearchRules(max_phrases=2))
    assert ascent.best == 3  # the start has three phrases and stays the best
    ascent, _ = found({**points, "a": 3.0}, SearchRules(max_phrases=2))
    assert len(phrases(ascent)["a"]) == 2
    assert ascent.best == 4


def test_a_phrase_speaks_for_one_class_alone():
    ascent, scorer = found({"blue dot": 5, "b": 0, "thing": 1})
    assert all(len(set(one)) == len(one) for one in scorer.asked)
    assert phrases(ascent) == {"a": ["thing"], "b": ["blue dot"]}


def test_found_phrases_say_where_they_come_from():
    ascent, _ = found({"pink tiny cell": 2, "pink big cell": 1, "red big cell": 0.5}, SearchRules(date="2026-01-02"))
    phrase = next(one for one in ascent.prompts.classes[0].phrases if one.text == "pink tiny cell")
    assert (phrase.source, phrase.origin.parent, phrase.origin.date) == ("search", "pink big cell", "2026-01-02")


def test_texts_that_the_model_would_cut_are_passed_over():
    _, scorer = found({}, usable=lambda text: len(text) < 6)
    assert all(len(text) < 6 for one in scorer.asked for text in set(one) - {t.casefold() for t in PROMPTS.texts})


@pytest.mark.parametrize("after", [1, 6, 12])
def test_an_interrupted_search_keeps_the_best_so_far(after):
    scorer = Points({"cell": 1, "thing": 2, "red big cell": -4, "pink cell": 3}, fail_after=after)
    ascent = coordinate_ascent(PROMPTS, scorer, LEXICON, SearchRules())
    assert ascent.interrupted
    assert ascent.candidates == after
    assert ascent.best >= ascent.start == -1
    if after > 5:
        assert ascent.best >= 2


def test_classes_without_attribute_words_are_named():
    bare = Prompts.model_validate({"classes": [{"label": "a", "phrases": ["cell", "thing"]}]})
    ascent = coordinate_ascent(bare, Points({"thing": 1}), LEXICON, SearchRules())
    assert ascent.fixed == ("a",)
    assert phrases(ascent) == {"a": ["thing"]}
