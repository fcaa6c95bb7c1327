"""Coordinate ascent over classes: one class's phrases change, the others stay, until nothing betters the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from medprompt.core.progress import Progress, Silent
from medprompt.generation.candidates import ClassWords, class_words
from medprompt.generation.lexicon import Lexicon
from medprompt.prompts.schema import Phrase, Prompts

PhraseSet = tuple[Phrase, ...]
Rank = tuple[float, int, int, tuple[str, ...]]
"""Best first: higher score, then fewer phrases, then shorter ones, then the alphabet."""

TRIED_WITH_A_SET = 10
"""The phrases, best alone first, that are added to a set or exchanged for one of it."""
SHARE_ALONE = 0.6
"""Share of a turn's candidates that are single phrases; the rest are sets."""


class Scorer(Protocol):
    """Says how good prompts are."""

    def prepare(self, texts: Sequence[str]) -> None:
        """Learn phrases that will be asked about, many at once, where that is cheaper."""

    def score(self, prompts: Prompts) -> float:
        """Return the figure that is to grow, such as AP."""


@dataclass(frozen=True)
class SearchRules:
    """How far a search goes.

    Attributes:
        beam: How many of the best are developed further; 1 is greedy.
        max_phrases: Maximum number of phrases of a class; the start may have more.
        budget: Maximum number of prompt sets that are scored, the start included.
        date: Recorded with each new phrase, as YYYY-MM-DD.
    """

    beam: int = 1
    max_phrases: int = 3
    budget: int = 300
    date: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """Where a search ended.

    Attributes:
        prompts: The best prompts; new phrases have the source ``search`` and name their parent.
        start, best: Score of the first and of the best prompts.
        candidates, seconds: Prompt sets scored, in how much wall time.
        rounds: Rounds over the classes that were begun.
        interrupted: Whether Ctrl-C ended it.
        fixed: Classes in whose phrases no attribute word was found, so that only names and subsets were tried.
    """

    prompts: Prompts
    start: float
    best: float
    candidates: int
    seconds: float
    rounds: int
    interrupted: bool
    fixed: tuple[str, ...]

    @property
    def per_minute(self) -> float:
        """Candidates a minute."""
        return 60 * self.candidates / self.seconds if self.seconds else 0.0


def coordinate_ascent(
    prompts: Prompts,
    scorer: Scorer,
    lexicon: Lexicon,
    rules: SearchRules,
    *,
    usable: Callable[[str], bool] = lambda _: True,
    progress: Progress | None = None,
) -> SearchResult:
    """Search for the prompts of best score; the start is one of the candidates, so the end is never worse.

    Each class in turn first tries single phrases, then sets of the best of them. Rounds go on until one betters
    nothing, or the budget is spent. There is no chance in it: the same input gives the same result. ``usable`` says
    whether the model reads a text whole; others are passed over.
    """
    return _Search(prompts, scorer, class_words(prompts, lexicon, rules.date), rules, usable).run(progress or Silent())


Key = tuple[str, ...]


def _key(phrases: Iterable[Phrase]) -> Key:
    """What makes two sets one: their texts, in any order and case."""
    return tuple(sorted(phrase.text.casefold() for phrase in phrases))


@dataclass
class _PhraseByPhrase:
    """What is known of one class's phrases when each speaks alone; it outlives a turn."""

    words: ClassWords
    phrases: dict[str, Phrase] = field(default_factory=dict)
    ranks: dict[str, Rank] = field(default_factory=dict)
    developed: set[str] = field(default_factory=set)
    known_variants: dict[str, tuple[Phrase, ...]] = field(default_factory=dict)

    def best(self, count: int) -> list[str]:
        return sorted(self.ranks, key=self.ranks.__getitem__)[:count]

    def leading(self, count: int) -> list[str]:
        """The best phrases that have variants: a name that leads must not keep attributes from being tried."""
        return list(islice((text for text in self.best(len(self.ranks)) if self.variants(text)), count))

    def variants(self, text: str) -> tuple[Phrase, ...]:
        if text not in self.known_variants:
            self.known_variants[text] = self.words.variants(self.phrases[text])
        return self.known_variants[text]


@dataclass
class _Search:
    prompts: Prompts
    scorer: Scorer
    words: tuple[ClassWords, ...]
    rules: SearchRules
    usable: Callable[[str], bool]
    scores: dict[tuple[Key, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sets: list[PhraseSet] = [entry.phrases for entry in self.prompts.classes]
        self.single = [_PhraseByPhrase(words) for words in self.words]
        self.progress: Progress = Silent()
        self.began = time.perf_counter()

    def run(self, progress: Progress) -> SearchResult:
        self.progress = progress
        start = self.score(0, self.sets[0])
        rounds, interrupted, better = 0, False, True
        try:
            while better and self._left():
                rounds += 1
                better = self._round(rounds)
        except KeyboardInterrupt:
            interrupted = True
        return SearchResult(
            prompts=self._whole(0, self.sets[0]),
            start=start,
            best=self.score(0, self.sets[0]),
            candidates=len(self.scores),
            seconds=time.perf_counter() - self.began,
            rounds=rounds,
            interrupted=interrupted,
            fixed=tuple(words.entry.label for words in self.words if not words.values),
        )

    def _round(self, number: int) -> bool:
        """Give every class a turn, and say whether another round could better something."""
        went_on = False
        # At most half of what is left goes into one round, so that classes meet each other's gains.
        share = max(1, -(-self._left() // (2 * len(self.sets))))
        for index, words in enumerate(self.words):
            if not self._left():
                break
            best = self.score(index, self.sets[index])
            rate = 60 * len(self.scores) / max(time.perf_counter() - self.began, 1e-9)
            spent = f"{len(self.scores)} candidates, {rate:.0f} a minute"
            self.progress.step(f"round {number}, {words.entry.label}: best {best:.4f} after {spent}", share)
            before, turn = self.sets[index], _Sweep(self, index, min(share, self._left()))
            try:
                turn.take()
            finally:  # what an interrupted turn found is kept
                self.sets[index] = turn.best()
            went_on = went_on or turn.left == 0 or _key(before) != _key(self.sets[index])
        return went_on

    def _left(self) -> int:
        return max(0, self.rules.budget - len(self.scores))

    def score(self, index: int, phrases: PhraseSet) -> float:
        """Score with one class's phrases exchanged; what was scored once is not scored again."""
        key = self._whole_key(index, phrases)
        if key not in self.scores:
            self.scores[key] = self.scorer.score(self._whole(index, phrases))
            self.progress.advance()
        return self.scores[key]

    def is_scored(self, index: int, phrases: PhraseSet) -> bool:
        return self._whole_key(index, phrases) in self.scores

    def rank(self, index: int, phrases: PhraseSet) -> Rank:
        key = _key(phrases)
        # Rounded: the last bits depend on which phrases were computed together.
        return (-round(self.score(index, phrases), 9), len(key), sum(map(len, key)), key)

    def _whole_key(self, index: int, phrases: PhraseSet) -> tuple[Key, ...]:
        return tuple(map(_key, self._sets_with(index, phrases)))

    def _whole(self, index: int, phrases: PhraseSet) -> Prompts:
        pairs = zip(self.prompts.classes, self._sets_with(index, phrases), strict=True)
        return self.prompts.with_classes(entry.with_phrases(one) for entry, one in pairs)

    def _sets_with(self, index: int, phrases: PhraseSet) -> list[PhraseSet]:
        return [*self.sets[:index], phrases, *self.sets[index + 1 :]]


class _Sweep:
    """One class's turn: ``left`` counts the candidates that it may still score."""

    def __init__(self, search: _Search, index: int, share: int) -> None:
        self.search, self.index, self.left = search, index, share
        self.single = search.single[index]
        others = [one for n, one in enumerate(search.sets) if n != index]
        self.taken = {phrase.text.casefold() for one in others for phrase in one}
        self.start = search.sets[index]
        self.ranks: dict[Key, Rank] = {}
        self.sets: dict[Key, PhraseSet] = {}

    def best(self) -> PhraseSet:
        return self.sets[self._best(1)[0]] if self.ranks else self.start

    def take(self) -> None:
        self._judge([self.start])
        for_sets = self.left - int(self.left * SHARE_ALONE)
        self.left -= for_sets
        self._score_single_phrases()
        self.left += for_sets
        self._sets_of_phrases()
        self._score_single_phrases()  # with what sets left over

    def _score_single_phrases(self) -> None:
        """Score phrases alone that were not so far, and the variants of the best ones."""
        single = self.single
        self._score_each((*self.start, *single.words.starting_phrases()))
        while self.left > 0:
            fresh = [text for text in single.leading(self.search.rules.beam) if text not in single.developed]
            if not fresh:
                return
            self._score_each(single.variants(fresh[0]))
            if self.left > 0:  # else its last variants wait for the next turn
                single.developed.add(fresh[0])

    def _score_each(self, phrases: Iterable[Phrase]) -> None:
        fresh = [p for p in self._allowed(phrases) if p.text.casefold() not in self.single.ranks]
        self._judge([(phrase,) for phrase in fresh])
        for phrase in fresh:
            if _key([phrase]) in self.ranks:
                self.single.phrases.setdefault(phrase.text.casefold(), phrase)
                self.single.ranks[phrase.text.casefold()] = self.ranks[_key([phrase])]

    def _sets_of_phrases(self) -> None:
        """Develop the best sets as long as they are among the ``beam`` best."""
        done: set[Key] = set()
        while self.left > 0:
            fresh = [key for key in self._best(self.search.rules.beam) if key not in done]
            if not fresh:
                return
            done.add(fresh[0])
            self._judge(self._neighbours(self.sets[fresh[0]]))

    def _neighbours(self, phrases: PhraseSet) -> list[PhraseSet]:
        """One phrase less, one more, or one exchanged."""
        others = [self.single.phrases[text] for text in self.single.best(TRIED_WITH_A_SET)]
        fresh = [phrase for phrase in self._allowed(others) if phrase.text.casefold() not in _key(phrases)]
        fewer = [(*phrases[:n], *phrases[n + 1 :]) for n in range(len(phrases))]
        sets = [*fewer, *((*phrases, new) for new in fresh), *((*less, new) for new in fresh for less in fewer)]
        return [one for one in sets if 0 < len(one) <= self.search.rules.max_phrases]

    def _judge(self, sets: Iterable[PhraseSet]) -> None:
        """Rank sets in their order; once the share is spent, only those whose score is known."""
        waiting = {_key(one): one for one in reversed(list(sets)) if _key(one) not in self.ranks}
        fresh = [one for one in reversed(waiting.values()) if not self.search.is_scored(self.index, one)]
        chosen = fresh[: self.left]
        self.search.scorer.prepare([phrase.text for one in chosen for phrase in one])
        known = [one for one in waiting.values() if self.search.is_scored(self.index, one)]
        for one in (*known, *chosen):
            self.left -= not self.search.is_scored(self.index, one)
            self.sets[_key(one)] = one
            self.ranks[_key(one)] = self.search.rank(self.index, one)

    def _best(self, count: int) -> list[Key]:
        return sorted(self.ranks, key=self.ranks.__getitem__)[:count]

    def _allowed(self, phrases: Iterable[Phrase]) -> list[Phrase]:
        free = [phrase for phrase in phrases if phrase.text.casefold() not in self.taken]
        return [phrase for phrase in free if self.search.usable(phrase.text)]
