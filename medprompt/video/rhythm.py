"""How far pictures lie apart: where it is always the same, lost ones are counted by it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from medprompt.video.picture import Picture

STEADY = 12
"""Even intervals after which another one is a gap; of the stated rate a quarter of them suffices."""

JUMP_S = 60
"""A clock that leaves out more than this jumped; it does not say how many pictures are lost."""

REGULAR = 0.1
"""Frames whose intervals differ by at most this share are of one rate; containers round times to milliseconds."""


class Rhythm:
    """How far frames lie apart, where it is always the same: lost ones are counted by it."""

    def __init__(self, stream: Any, paced: bool = False) -> None:
        self.paced = paced
        rate = stream.average_rate or stream.guessed_rate
        self.stated = 1 / Fraction(rate) / stream.time_base if rate else None
        self.longest = JUMP_S / stream.time_base
        self.least = self.most = self.total = self.count = 0

    def filled(self, before: Picture | None, gone: list[Picture], after: Picture | None, hole: bool) -> list[Picture]:
        """The pictures that are lost between two that are not, by their number and times."""
        shown = [one.order for one in (before, after) if one]
        known = list({one.order: one for one in gone if not one.guessed and one.order not in shown}.values())
        gone = known + [one for one in gone if one.guessed]  # a parser may take a torn packet for two
        start = before or (known[0] if known else None)
        end = after or (known[-1] if known else None)
        if start is None or end is None or start.epoch != end.epoch:
            return gone
        span = (end.pts or 0) - (start.pts or 0)
        if not gone and not hole and not self._skips(span):
            self._note(span)
            return gone
        step = self._step()
        if step is None or not step / 2 <= span <= self.longest:
            return gone
        places = range(0 if start is not before else 1, round(span / step) + (end is not after))
        if len(places) < len(known):
            return known
        reason = gone[0].lost if gone else "packets are missing"
        return [Picture(0, start.epoch, round((start.pts or 0) + place * step), lost=reason) for place in places]

    def _note(self, span: int) -> None:
        self.least, self.most = min(self.least or span, span), max(self.most, span)
        self.total, self.count = self.total + span, self.count + 1

    def _skips(self, span: int) -> bool:
        """Whether pictures that came evenly leave one out: a picture that nothing refers to goes without an error."""
        step = self._step() if self.paced and self.count else None
        return step is not None and self.count >= STEADY / (4 if step == self.stated else 1) and span > 1.5 * step

    def _step(self) -> Fraction | None:
        if not self.count:
            return self.stated
        mean = Fraction(self.total, self.count)
        if self.most - self.least > max(min(Fraction(2), mean / 2), mean * Fraction(REGULAR)):
            return None
        near = self.stated and abs(self.stated - mean) < mean * Fraction(REGULAR) / 2
        return self.stated if near else mean
