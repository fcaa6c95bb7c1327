"""What a node did, a line of JSON an event. UIDs are hashed; no patient, no file content, no file name."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Self


class Audit:
    """Appends to a private file; a context manager. Safe for threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", buffering=1)

    def __call__(self, event: str, **about: str | int | float) -> None:
        """Write an event; a full disk must not stop the node, which then refuses objects itself."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **about})
        with self._lock:
            try:
                self._file.write(line + "\n")
            except (OSError, ValueError):
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; later events are dropped."""
        with self._lock:
            self._file.close()
