"""Pictures wait for the end of their group: damage that is noticed late may have begun early."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from medprompt.video.picture import Picture

HELD_BYTES = 1 << 27
"""Of decoded pictures that wait; of a group that needs more the first are shown before its end."""


class Groups:
    """Pictures in the order shown, on their way through.

    Args:
        most: Bytes of decoded pictures that wait.
    """

    def __init__(self, most: int = HELD_BYTES) -> None:
        self._most = most
        self._waiting: deque[Picture] = deque()
        self._size = 0
        self._keys: list[int] = []

    def begin(self, key: Picture) -> None:
        """A group of pictures begins with this one, in the order of decoding."""
        key.key = True
        self._keys = [*self._keys[-2:], key.index]

    def of(self, picture: Picture) -> Iterator[Picture]:
        """Those that need not wait any longer when this one has come."""
        if picture.key:
            yield from self.rest()
        self._waiting.append(picture)
        self._size += picture.size
        while self._size > self._most:
            yield self._next()

    def spoil(self, index: int, reason: str) -> int:
        """All of the group of this picture are lost, those that wait as well.

        Args:
            index: The picture's place in the order of decoding.
            reason: Why, for the results.

        Returns:
            From which index on all is lost: its key frame's; 0 where no group began before it.
        """
        begun = bisect_right(self._keys, index)
        first = self._keys[begun - 1] if begun else 0
        for one in self._waiting:
            if one.index >= first and one.frame:
                self._size -= one.size
                one.frame, one.lost = None, reason
        return min(first, index)

    def rest(self) -> Iterator[Picture]:
        """All that wait."""
        while self._waiting:
            yield self._next()

    def _next(self) -> Picture:
        first = self._waiting.popleft()
        self._size -= first.size
        return first
