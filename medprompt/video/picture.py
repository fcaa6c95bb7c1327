"""What a packet of a video promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Picture:
    """What a packet promised.

    Attributes:
        index: Its place in the order of decoding.
        epoch: How often the container's clock had jumped back.
        pts: When it is shown, in ticks of the stream; None where nobody says.
        guessed: Whether the container left the time out.
        silent: Whether it may rightly be without a frame.
        headless: Whether its first bytes are not as they should be: damage may have begun in the packet before.
        key: Whether a group begins here: nothing after it needs what was before.
        frame: The decoded frame.
        lost: Why there is none.
    """

    index: int
    epoch: int = 0
    pts: int | None = None
    guessed: bool = False
    silent: bool = False
    headless: bool = False
    key: bool = False
    frame: Any = None
    lost: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Where it is shown."""
        return self.epoch, self.pts or 0

    @property
    def suspect(self) -> int:
        """The index from which on pictures may be damaged where this one is."""
        return self.index - self.headless

    @property
    def size(self) -> int:
        """Bytes of its frame."""
        frame = self.frame
        return frame.width * frame.height * frame.format.bits_per_pixel // 8 if frame else 0
