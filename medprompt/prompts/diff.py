"""What differs between two prompts files or banks. In a medical device an edit of a prompt is a change of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprompt.prompts.bank import PromptBank, load_bank
from medprompt.prompts.file import is_bank, prompts_from_yaml
from medprompt.prompts.schema import Phrase, Prompts


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        kind: ``added``, ``removed`` or ``changed``.
        what: ``class``, ``phrase``, ``weight``, ``source``, ``threshold``, ``code``, ``pooling``,
            ``ensemble``, ``task``, ``order``, ``encoder`` or ``tensors``.
        where: The class or phrase concerned; "file" for the whole.
        before, after: Value in the first and in the second; None where it is not there.
    """

    kind: str
    what: str
    where: str
    before: Any = None
    after: Any = None


def read_either(path: Path) -> Prompts | PromptBank:
    """Read a prompts file or a bank, told apart by content.

    Raises:
        PromptError: A prompts file that cannot be used.
        BankError: A bank that cannot be used.
    """
    return load_bank(path) if is_bank(path) else prompts_from_yaml(path)


def prompts_from_either(path: Path) -> Prompts:
    """The classes and phrases of a prompts file or of a bank, see ``read_either``."""
    return _prompts(read_either(path))


def diff_prompts(first: Prompts | PromptBank, second: Prompts | PromptBank) -> tuple[Change, ...]:
    """List what differs in a model's prompts and thresholds: the file's own, then class by class.

    Encoder and tensors are compared where both are banks. Where phrases come from (their ``origin``) changes no
    decision and is not compared, except for the source's name.
    """
    before, after = _prompts(first), _prompts(second)
    changes = [*_file_changes(before, after), *_class_changes(before, after), *_phrase_changes(before, after)]
    if isinstance(first, PromptBank) and isinstance(second, PromptBank):
        changes += _bank_changes(first, second)
    return tuple(changes)


def _prompts(either: Prompts | PromptBank) -> Prompts:
    return either.prompts if isinstance(either, PromptBank) else either


def _file_changes(before: Prompts, after: Prompts) -> Iterator[Change]:
    for what in ("pooling", "ensemble", "task"):
        yield from _changed(what, "file", getattr(before, what), getattr(after, what))
    orders = [[entry.label for entry in prompts.classes] for prompts in (before, after)]
    common = [[label for label in order if label in set(orders[0]) & set(orders[1])] for order in orders]
    if common[0] != common[1]:
        yield Change("changed", "order", "classes", common[0], common[1])


def _class_changes(before: Prompts, after: Prompts) -> Iterator[Change]:
    old, new = ({entry.label: entry for entry in prompts.classes} for prompts in (before, after))
    for label in dict.fromkeys([*old, *new]):
        if label not in new:
            yield Change("removed", "class", label, before=[phrase.text for phrase in old[label].phrases])
        elif label not in old:
            yield Change("added", "class", label, after=[phrase.text for phrase in new[label].phrases])
        else:
            yield from _changed("threshold", label, old[label].threshold, new[label].threshold)
            codes = [entry.code.model_dump() if entry.code else None for entry in (old[label], new[label])]
            yield from _changed("code", label, *codes)


def _phrase_changes(before: Prompts, after: Prompts) -> Iterator[Change]:
    old, new = _by_text(before), _by_text(after)
    for key in dict.fromkeys([*old, *new]):
        if key not in old:
            yield Change("added", "phrase", new[key][0], after=new[key][1].text)
        elif key not in new:
            yield Change("removed", "phrase", old[key][0], before=old[key][1].text)
        else:
            (old_label, was), (label, now) = old[key], new[key]
            yield from _changed("class", now.text, old_label, label)
            for what, field in (("phrase", "text"), ("weight", "weight"), ("source", "source")):
                yield from _changed(what, f"{label}: {now.text}", getattr(was, field), getattr(now, field))


def _by_text(prompts: Prompts) -> dict[str, tuple[str, Phrase]]:
    return {phrase.text.casefold(): (entry.label, phrase) for entry in prompts.classes for phrase in entry.phrases}


def _changed(what: str, where: str, before: Any, after: Any) -> Iterator[Change]:
    if before != after:
        yield Change("changed", what, where, before, after)


def _bank_changes(first: PromptBank, second: PromptBank) -> Iterator[Change]:
    yield from _changed("encoder", "bank", first.encoder, second.encoder)
    old, new = _rows(first), _rows(second)
    shared = [sorted(name for name, layout in bank.layouts.items() if layout == "shared") for bank in (first, second)]
    for name in dict.fromkeys([*shared[0], *shared[1]]):
        if not _equal(first.tensors.get(name), second.tensors.get(name)):
            yield Change("changed", "tensors", name)
    for text in (text for text in old if text in new):
        if set(old[text]) != set(new[text]) or not all(_equal(old[text][name], new[text][name]) for name in old[text]):
            yield Change("changed", "tensors", text)


def _rows(bank: PromptBank) -> dict[str, dict[str, NDArray[Any]]]:
    """Each phrase's own rows of each tensor."""
    names = [name for name, layout in bank.layouts.items() if layout != "shared"]
    cut = {name: bank.pieces(name) for name in names}
    return {text.casefold(): {name: cut[name][n] for name in names} for n, text in enumerate(bank.prompts.texts)}


def _equal(old: NDArray[Any] | None, new: NDArray[Any] | None) -> bool:
    return old is not None and new is not None and bool(np.array_equal(old, new))
