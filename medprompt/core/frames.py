"""Which frames of a file of many are analysed: said by the user, never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medprompt.core.errors import InputError


@dataclass(frozen=True)
class FramePolicy:
    """A choice of frames, counted from 1.

    Attributes:
        first: First frame taken.
        last: Last frame that may be taken; None for the file's last.
        step: Every how many frames one is taken.
    """

    first: int = 1
    last: int | None = None
    step: int = 1

    def of(self, count: int) -> range:
        """Numbers of the frames taken from a file of ``count``; empty where it ends before ``first``."""
        last = count if self.last is None else min(count, self.last)
        return range(self.first, last + 1, self.step)


ALL_FRAMES = FramePolicy()


def frame_policy_from_text(text: str) -> FramePolicy:
    """Read ``all``, ``first``, ``every:N`` (the frames 1, 1+N, …) or ``i-j`` (both included).

    Raises:
        InputError: Anything else.
    """
    if text in ("all", "first"):
        return FramePolicy(last=None if text == "all" else 1)
    if match := re.fullmatch(r"every:([1-9]\d{0,8})", text, re.ASCII):
        return FramePolicy(step=int(match[1]))
    if match := re.fullmatch(r"([1-9]\d{0,8})-([1-9]\d{0,8})", text, re.ASCII):
        first, last = int(match[1]), int(match[2])
        if first <= last:
            return FramePolicy(first, last)
    raise InputError(
        "The choice of frames cannot be read.",
        where="frames",
        expected="all, first, every:N or i-j (such as 10-20), counted from 1",
        got=repr(text),
    )
