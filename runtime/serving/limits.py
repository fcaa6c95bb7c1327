"""What a server takes on at once: how many images, how many bytes, how large a request, and for how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from medprompt.core.errors import InputError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server refuses beyond.

    Attributes:
        queue: Images that are accepted and not yet answered.
        max_bytes: Bytes of a request's body.
        max_pixels: Pixels of an image.
        max_images: Images of a request.
        body_s: Seconds for a request's body to arrive.
        send_s: Seconds for the client to take a piece of the answer.
        answer_s: Seconds from the last byte of a request to its answer.

    Raises:
        InputError: One under 1.
    """

    queue: int = 256
    max_bytes: int = 64 * MIB
    max_pixels: int = 64_000_000
    max_images: int = 64
    body_s: float = 60.0
    send_s: float = 60.0
    answer_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("queue", "max_bytes", "max_pixels", "max_images"):
            if getattr(self, name) < 1:
                got = str(getattr(self, name))
                raise InputError("The limit is out of range.", where=name, expected="1 or more", got=got)

    @property
    def held_bytes(self) -> int:
        """Bytes of all bodies together that are held at once."""
        return max(self.max_bytes, 512 * MIB)


class Places:
    """So many of something may be in use; whoever wants more is refused, and does not wait. Threads may share it."""

    def __init__(self, most: int) -> None:
        self.most, self.used, self._lock = most, 0, Lock()

    def take(self, count: int) -> bool:
        """Whether there is room for so many, which are then in use."""
        with self._lock:
            fits = self.used + count <= self.most
            self.used += count if fits else 0
            return fits

    def give(self, count: int) -> None:
        """Give so many back."""
        with self._lock:
            self.used -= count
