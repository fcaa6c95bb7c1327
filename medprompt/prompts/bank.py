"""The prompt bank: each phrase's tensors, computed once, with its text and the fingerprint of its encoder.

A bank is one safetensors file. Its header carries a JSON text (classes, phrases, layout, fingerprint), its body the
tensors. Subsetting and merging need numpy alone: no tokenizer, no text encoder, no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StrictInt, StrictStr

from medprompt.core.errors import BankError
from medprompt.core.files import atomic_write
from medprompt.core.models import FrozenModel, validate
from medprompt.core.output_kinds import file_kind
from medprompt.core.text import read_text, reason
from medprompt.prompts.file import is_bank
from medprompt.prompts.names import label_identity, nearest_label, phrase_identity
from medprompt.prompts.schema import STORED, PromptClass, Prompts

Layout = Literal["phrase", "token", "shared", "caption"]
METADATA_KEY = "medprompt.bank"
BANK = file_kind("a prompt bank", rf'.{{8}}\{{"__metadata__":\{{"{METADATA_KEY}":')
BANK_VERSION = 1
MAX_TOKENS = 1 << 20
"""Of one phrase: far more than any text encoder reads."""
SEAL = "sha256"
"""Key of a header: see ``_seal``. Banks of version 0.2.0 and before have none."""
MAKE_AGAIN = "copy the bank again, or make it with medprompt prompts embed"
NOTES: dict[str, Any] = {
    "about": True,
    "calibration": True,
    "template": True,
    "free_attributes": True,
    "questions": True,
    "classes": {
        "__all__": {"names": True, "template": True, "questions": True, "phrases": {"__all__": {"origin": True}}}
    },
}
"""Fields of ``Prompts`` that say how phrases came about, and change no decision."""


class _Header(FrozenModel):
    """What a bank's file says of its tensors; a later medprompt may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompts: Prompts
    encoder: StrictStr = Field(min_length=1)
    layouts: dict[StrictStr, Layout]
    token_counts: tuple[Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)], ...]
    separator_tokens: StrictInt = Field(ge=0)


@dataclass(frozen=True)
class PromptBank:
    """Phrases and their tensors.

    Attributes:
        encoder: Fingerprint of the text encoder that made them.
        tensors: By name. ``phrase`` tensors are ``[P, …]``; ``token`` tensors ``[sum(token_counts), …]``, phrase by
            phrase; ``caption`` tensors are like these, but made of all phrases in one text, of which no part can be
            taken; ``shared`` tensors belong to the bank as a whole (``NAME.before`` and ``NAME.after`` are the tokens
            around the phrases of token tensor ``NAME``, such as [CLS] and [SEP]).
        token_counts: int64 ``[P]``, tokens of each phrase, the separator included; empty where no tensor is by token.
        separator_tokens: How many of a phrase's last tokens are its separator, which never scores.

    Raises:
        BankError: Shapes that do not fit the phrases, or a value that is not finite.
    """

    prompts: Prompts
    encoder: str
    tensors: Mapping[str, NDArray[Any]]
    layouts: Mapping[str, Layout]
    token_counts: NDArray[np.int64]
    separator_tokens: int = 0

    def __post_init__(self) -> None:
        tokens = int(self.token_counts.sum())
        rows = {"phrase": len(self.prompts.texts), "token": tokens, "caption": tokens}
        if len(self.token_counts) not in (0, rows["phrase"]):
            raise BankError(
                "The bank's token counts do not fit its phrases.",
                expected=f"{rows['phrase']} counts",
                got=f"{len(self.token_counts)}",
                fix="embed the prompts again",
            )
        if len(self.token_counts) and self.token_counts.min() <= self.separator_tokens:
            raise BankError(
                "A phrase of the bank has no token but its separator.",
                where="token_counts",
                expected=f"more than {self.separator_tokens} a phrase",
                got=f"{self.token_counts.min()}",
                fix="embed the prompts again",
            )
        for name, tensor in self.tensors.items():
            layout = self.layouts[name]
            if layout in rows and len(tensor) != rows[layout]:
                raise BankError(
                    "A tensor of the bank does not fit its phrases.",
                    where=name,
                    expected=f"{rows[layout]} rows (one a {layout})",
                    got=f"{len(tensor)}",
                    fix="embed the prompts again",
                )
            if not np.isfinite(tensor).all():
                raise BankError("The bank holds NaN or Inf.", where=name, fix="embed the prompts again")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Class labels in the order of their ids."""
        return tuple(entry.label for entry in self.prompts.classes)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All phrase texts in the order of their ids: read for every image, and so made once."""
        return self.prompts.texts

    @property
    def phrase_classes(self) -> NDArray[np.int64]:
        """int64 ``[P]``: class id of each phrase."""
        counts = [len(entry.phrases) for entry in self.prompts.classes]
        return np.repeat(np.arange(len(counts)), counts).astype(np.int64)

    @property
    def pooling_matters(self) -> bool:
        """Whether max and mean pooling decide otherwise: not where each class has one phrase of weight 1."""
        return any([phrase.weight for phrase in entry.phrases] != [1.0] for entry in self.prompts.classes)

    def least_threshold(self, default: float) -> float:
        """The least score that may be reported; ``default`` is that of classes without a threshold, and counts."""
        return min([default, *(entry.threshold for entry in self.prompts.classes if entry.threshold is not None)])

    def content_hash(self) -> str:
        """SHA-256 over texts, weights, thresholds, layout, fingerprint and tensor bytes.

        Equal banks have equal hashes. Notes that change no decision (a phrase's origin, templates, questions) are
        left out, so that a generator's second run gives the same hash.
        """
        digest = hashlib.sha256(_header(self, NOTES).encode())
        for name in sorted(self.tensors):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).tobytes())
        return digest.hexdigest()

    def subset(self, labels: Iterable[str]) -> PromptBank:
        """Keep the named classes, in the given order, each once; a text that is no label may list several, by commas.

        Raises:
            BankError: A label that the bank does not have.
        """
        lists = ([text] if text in self.labels else text.split(",") for text in labels)
        wanted = list(dict.fromkeys(word if word in self.labels else word.strip() for words in lists for word in words))
        wanted = [label for label in wanted if label]
        unknown = [label for label in wanted if label not in self.labels]
        if unknown or not wanted:
            raise BankError(
                "The bank does not have these classes.",
                where="labels",
                expected=", ".join(self.labels),
                got=", ".join(unknown) or "no class",
                fix="; ".join(filter(None, (nearest_label(label, self.labels) for label in unknown)))
                or "repeat labels= for each class: so one may hold a comma; case counts",
            )
        class_ids = [self.labels.index(label) for label in wanted]
        rows = np.concatenate([np.flatnonzero(self.phrase_classes == class_id) for class_id in class_ids])
        return self.at(rows, [self.prompts.classes[class_id] for class_id in class_ids])

    def merge(self, other: PromptBank) -> PromptBank:
        """Append the classes of ``other``; phrases of a class that both have are joined.

        Raises:
            BankError: Another encoder, another task, or a phrase that both have.
        """
        check_encoder(other, self.encoder, "the other bank")
        self._check_parts("merged")
        if self.prompts.pooling != other.prompts.pooling:
            raise BankError(
                "The banks differ in pooling.",
                expected=self.prompts.pooling,
                got=other.prompts.pooling,
                fix="set pooling alike in both prompts files and embed them again",
            )
        for name in (n for n, layout in self.layouts.items() if layout == "shared"):
            if not _close(self.tensors[name], other.tensors[name]):
                raise BankError(
                    "The banks were embedded under different task sentences.",
                    where=name,
                    fix="set the same 'task:' in both prompts files and embed again",
                )
        joined = _joined_classes(self.prompts.classes, other.prompts.classes)
        both = replace(
            self,
            prompts=self.prompts.with_classes(self.prompts.classes + other.prompts.classes),
            tensors={
                name: tensor if self.layouts[name] == "shared" else np.concatenate([tensor, other.tensors[name]])
                for name, tensor in self.tensors.items()
            },
            token_counts=np.concatenate([self.token_counts, other.token_counts]),
        )
        labels = np.array(both.labels)[both.phrase_classes]
        return both.at(np.concatenate([np.flatnonzero(labels == entry.label) for entry in joined]), joined)

    def at(self, rows: NDArray[np.int64], classes: Iterable[PromptClass]) -> PromptBank:
        """The phrases at ``rows`` (int64 ``[S]``), in that order, as those of ``classes``.

        Raises:
            BankError: A part, or another order, of phrases that were encoded as one text.
        """
        if not np.array_equal(rows, np.arange(len(self.prompts.texts))):
            self._check_parts("taken apart")
        tensors = {}
        for name, tensor in self.tensors.items():
            pieces = [] if self.layouts[name] == "shared" else self.pieces(name)
            tensors[name] = np.concatenate([pieces[row] for row in rows]) if pieces else tensor
        counts = self.token_counts[rows] if len(self.token_counts) else self.token_counts
        return replace(self, prompts=self.prompts.with_classes(classes), tensors=tensors, token_counts=counts)

    def _check_parts(self, done: str) -> None:
        """Refuse what would show the model another text than the one that was encoded."""
        if "caption" in self.layouts.values():
            raise BankError(
                f"This model reads all phrases as one text, so a bank cannot be {done}: each word's features depend on "
                "every other phrase.",
                expected=f"the whole bank: {', '.join(map(repr, self.prompts.texts))}",
                fix="write a prompts file of the wanted phrases: medprompt prompts embed CHECKPOINT --prompts P.yaml "
                "--out BANK",
            )

    def with_prompts(self, prompts: Prompts) -> PromptBank:
        """The same tensors under other thresholds or notes; classes, phrases and their order must be the same."""
        return replace(self, prompts=prompts)

    def save(self, path: Path | str) -> None:
        """Write the bank as safetensors, see ``save_bank``."""
        save_bank(self, Path(path))

    def pieces(self, name: str) -> list[NDArray[Any]]:
        """A tensor cut into one array ``[rows, …]`` a phrase."""
        if self.layouts[name] == "phrase":
            return list(self.tensors[name][:, None])
        return np.split(self.tensors[name], np.cumsum(self.token_counts)[:-1])


def _close(mine: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Whether two are the same but for rounding, which differs between machines; other sentences differ in shape."""
    return mine.shape == theirs.shape and np.allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def _joined_classes(first: tuple[PromptClass, ...], second: tuple[PromptClass, ...]) -> tuple[PromptClass, ...]:
    joined = {entry.label: entry for entry in first}
    named = {label_identity(label): label for label in joined}
    seen = {phrase_identity(phrase.text) for entry in first for phrase in entry.phrases}
    for entry in second:
        if named.get(label_identity(entry.label), entry.label) != entry.label:
            raise BankError(
                "The banks spell a label differently: it would count as two classes.",
                where=entry.label,
                expected=named[label_identity(entry.label)],
                got=entry.label,
                fix="spell it alike in both prompts files and embed them again",
            )
        doubles = [phrase.text for phrase in entry.phrases if phrase_identity(phrase.text) in seen]
        if doubles:
            raise BankError(
                "Both banks have the same phrase.",
                where=entry.label,
                got=", ".join(doubles),
                fix="take the phrase out of one of the prompts files",
            )
        mine = joined.get(entry.label)
        joined[entry.label] = mine.with_phrases(mine.phrases + entry.phrases) if mine else entry
    return tuple(joined.values())


def check_encoder(bank: PromptBank, encoder: str, where: str) -> None:
    """Refuse a bank that another text encoder made.

    Raises:
        BankError: The fingerprints differ.
    """
    if bank.encoder != encoder:
        raise BankError(
            "The prompt bank was made by another text encoder.",
            where=where,
            expected=f"encoder {encoder}",
            got=f"encoder {bank.encoder}",
            fix="medprompt prompts embed CHECKPOINT --prompts P.yaml --out BANK, with the bundle's own checkpoint",
        )


def _header(bank: PromptBank, without: Any = None) -> str:
    return json.dumps(
        {
            "version": BANK_VERSION,
            "encoder": bank.encoder,
            "prompts": bank.prompts.model_dump(mode="json", exclude_none=True, exclude=without),
            "layouts": dict(bank.layouts),
            "token_counts": bank.token_counts.tolist(),
            "separator_tokens": bank.separator_tokens,
        },
        sort_keys=True,
    )


def _seal(header: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over a header and the bytes of all tensors: a row or a label that changed since is found by it."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def save_bank(bank: PromptBank, path: Path) -> None:
    """Write a bank as safetensors, whole or not at all; its header seals header and tensors."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in bank.tensors.items()}
    header = _header(bank)
    sealed = json.dumps({**json.loads(header), SEAL: _seal(header, arrays)}, sort_keys=True)
    with atomic_write(Path(path)) as aside:
        aside.write_bytes(save(arrays, metadata={METADATA_KEY: sealed}))


def load_bank(path: Path | str) -> PromptBank:
    """Read a bank.

    Raises:
        BankError: The file is missing, damaged, changed since it was written, or not a bank of this version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if _is_prompts_file(path):
        raise BankError(
            "This is a prompts file, and a prompt bank is needed here.",
            where=str(path),
            expected="a prompt bank (safetensors)",
            fix=f"medprompt prompts embed CHECKPOINT --prompts {path} --out BANK, then pass BANK",
        )
    try:
        with safe_open(str(path), framework="numpy") as handle:
            header = (handle.metadata() or {}).get(METADATA_KEY)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise BankError("The prompt bank cannot be read.", where=str(path), got=str(error), fix=MAKE_AGAIN) from error
    if header is None:
        raise BankError(
            "The file is safetensors, but not a prompt bank.",
            where=str(path),
            fix="medprompt prompts embed CHECKPOINT --prompts P.yaml --out BANK",
        )
    return _bank_from_header(header, tensors, str(path))


def _is_prompts_file(path: Path) -> bool:
    """Whether a file is text with classes; the JSON header of a bank that was cut short is none."""
    try:
        text = "" if not path.is_file() or is_bank(path) else read_text(path)
    except (OSError, UnicodeDecodeError):
        return False
    return "classes" in text and "\0" not in text


def _bank_from_header(header: str, tensors: dict[str, NDArray[Any]], where: str) -> PromptBank:
    failure = BankError("The bank's header is damaged.", where=where, fix=MAKE_AGAIN)
    fields = _fields_of(header, failure)
    seal = fields.pop(SEAL, None)
    if seal not in (None, _seal(json.dumps(fields, sort_keys=True), tensors)):
        raise BankError(
            "The bank is not as it was written: its header or a tensor changed.", where=where, fix=MAKE_AGAIN
        )
    read = validate(_Header, fields, failure, context=STORED)
    if set(read.layouts) != set(tensors):
        raise BankError("The bank's tensors are not those its header names.", where=where, fix=MAKE_AGAIN)
    _refuse_other_types(tensors, where)
    labels = [entry.label for entry in read.prompts.classes]
    if len(set(labels)) < len(labels):
        raise BankError("Two classes of the bank have one label.", where=where, got=", ".join(labels), fix=MAKE_AGAIN)
    counts = np.array(read.token_counts, dtype=np.int64)
    try:
        return PromptBank(read.prompts, read.encoder, tensors, read.layouts, counts, read.separator_tokens)
    except BankError as error:
        error.where = f"{where}: {error.where}" if error.where else where
        raise


def _refuse_other_types(tensors: Mapping[str, NDArray[Any]], where: str) -> None:
    """Text features are floating point: of integers or complex numbers a cast would make other ones."""
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            raise BankError(
                "A tensor of the bank is of another type than text features are.",
                where=f"{where}: {name}",
                expected="float32",
                got=str(tensor.dtype),
                fix=MAKE_AGAIN,
            )


def _fields_of(header: str, failure: BankError) -> dict[str, Any]:
    try:
        fields = dict(json.loads(header))
        version = fields["version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BankError(failure.problem, where=failure.where, got=reason(error), fix=failure.fix) from error
    if version != BANK_VERSION:
        raise BankError(
            "The bank has another version.",
            where=failure.where,
            expected=str(BANK_VERSION),
            got=repr(version)[:40],
            fix="embed the prompts again with this medprompt, or read it with the medprompt that wrote it",
        )
    return fields
