"""Answers of visual question answering, kept as JSON lines: a killed run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from medprompt.core.errors import InputError, PromptError


@dataclass(frozen=True)
class Answer:
    """What a model answered, and the probability it gave that answer (0 … 1; None where it gives none)."""

    text: str
    probability: float | None = None


@dataclass(frozen=True)
class AskedImage:
    """What an answer belongs to: SHA-256 of the image file, the question, and the model's fingerprint."""

    image: str
    question: str
    model: str


LINE_BEGINS = b'{"image": "'
"""Of a line that a killed run left unfinished: nothing else is cut off."""


class AnswerCache:
    """Answers by image, question and model; without a path they are kept in memory only.

    Args:
        path: JSON-lines file, made where it does not exist. A last line that a killed run left unfinished is dropped.

    Raises:
        PromptError: A line that is not one of ours.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._answers: dict[AskedImage, Answer] = {}
        if path is not None and path.exists():
            self._read(path)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, asked: AskedImage) -> Answer | None:
        """The answer, where there is one."""
        return self._answers.get(asked)

    def add(self, answers: Iterable[tuple[AskedImage, Answer]]) -> None:
        """Keep answers, on disk before this returns.

        Raises:
            InputError: The file cannot be written.
        """
        pairs = list(answers)
        self._answers.update(pairs)
        if self.path is None:
            return
        lines = "".join(json.dumps({**asdict(asked), **asdict(answer)}) + "\n" for asked, answer in pairs)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(lines)
        except OSError as error:
            raise InputError(
                "The cache cannot be written.",
                where=str(self.path),
                got=str(error),
                fix="free space on the disk, or check who may write there",
            ) from error

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PromptError(
                "The cache cannot be read.",
                where=str(path),
                got=str(error),
                fix="move the cache away; its questions are then asked again",
            ) from error
        whole, _, torn = content.rpartition(b"\n")
        if torn and not torn.startswith(LINE_BEGINS[: len(torn)]):
            raise PromptError(
                "The cache ends with a line that is not an answer.",
                where=str(path),
                fix="name another file: this one is none of ours, or was changed",
            )
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                asked = AskedImage(row["image"], row["question"], row["model"])
                self._answers[asked] = Answer(row["text"], row["probability"])
            except (ValueError, KeyError, TypeError) as error:
                raise PromptError(
                    "The cache has a line that is not an answer.",
                    where=f"{path}, line {number}",
                    got=f"{line[:60]!r}",
                    fix="delete the line or the file",
                ) from error
        if torn:
            with path.open("r+b") as handle:
                handle.truncate(len(content) - len(torn))
