"""A prompt map on the images at hand: which entry is whose, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from medprompt.core.errors import PromptError
from medprompt.generation.prompt_map import PromptMap, check_prompt_map
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.phrase_set import phrase_key, phrase_rows

Parts = tuple[str, ...]


@dataclass(frozen=True)
class FittedMap:
    """What each image is prompted with.

    Attributes:
        phrases: The phrases of each image as the bank writes and orders them; images in their own order.
        warnings: What the user should know: entries of no image, entries found by the end of their path only.
    """

    phrases: Mapping[Path, tuple[str, ...]]
    warnings: tuple[str, ...] = ()


def fit_prompt_map(
    chosen: PromptMap, paths: Sequence[Path], bank: PromptBank, labels: Iterable[str] | None = None
) -> FittedMap:
    """Find each image's entry and check its phrases.

    An entry fits an image where the whole of its path is the end of the image's; the longest such entry counts.
    Otherwise the one that has most of the image's last parts counts, the file's name at least: maps are made
    elsewhere, under other folders.

    Args:
        chosen: The map.
        paths: The images.
        bank: The whole bank.
        labels: Classes that are served; phrases of the others are passed over. All where None.

    Raises:
        PromptError: Images without an entry, with several, or that share one; a phrase that the bank does not have.
        BankError: An image that is left without a phrase of some class.
    """
    check_prompt_map(chosen, bank.prompts)
    entries = _entries_of_images(chosen, paths)
    served = bank if labels is None else bank.subset(labels)
    known = set(map(phrase_key, served.prompts.texts))
    phrases = {}
    for path, key in entries.items():
        rows = phrase_rows(served, [text for text in chosen[key] if phrase_key(text) in known], str(path))
        phrases[path] = tuple(served.prompts.texts[row] for row in rows)
    return FittedMap(phrases, tuple(_warnings(chosen, entries)))


def _entries_of_images(chosen: PromptMap, paths: Sequence[Path]) -> dict[Path, str]:
    by_name: dict[str, dict[str, Parts]] = {}
    for key in chosen:
        parts = _parts(key)
        by_name.setdefault(parts[-1] if parts else "", {})[key] = parts
    entries = {path: _entry_of(path, by_name[path.name], chosen) for path in paths if path.name in by_name}
    missing = [str(path) for path in paths if path not in entries]
    if missing:
        raise PromptError(
            "Images are missing from the prompt map.",
            expected=f"an entry for each of {len(paths)} images; the map has {_few(list(chosen)) or 'none'}",
            got=f"{len(missing)} missing: {', '.join(missing)}",
            fix="run the generator on these images, or leave them out",
        )
    _check_shared(entries)
    return entries


def _entry_of(path: Path, candidates: Mapping[str, Parts], chosen: PromptMap) -> str:
    image = _image_parts(path)
    whole = {key: parts for key, parts in candidates.items() if _is_end(parts, image)}
    alike = {key: _common(parts, image) for key, parts in (whole or candidates).items()}
    most = max(alike.values())
    best = [key for key, count in alike.items() if count == most]
    if len({frozenset(map(phrase_key, chosen[key])) for key in best}) > 1:
        raise PromptError(
            "Several entries of the prompt map fit one image.",
            where=str(path),
            got=", ".join(best),
            fix="run from, or give, the folder that the map's paths start in, or take the other entries out",
        )
    return best[0]


def _check_shared(entries: Mapping[Path, str]) -> None:
    """Two files of one name would be asked alike, though the entry is about one of them."""
    users: dict[str, dict[str, Path]] = {}
    for path, key in entries.items():
        users.setdefault(key, {})[_absolute(path)] = path
    shared = {key: list(files.values()) for key, files in users.items() if len(files) > 1}
    if shared:
        key, files = next(iter(shared.items()))
        raise PromptError(
            "One entry of the prompt map fits several images.",
            where=key,
            got=", ".join(map(str, files)),
            fix="make the map from the folder above them, so that its paths tell them apart",
        )


def _warnings(chosen: PromptMap, entries: Mapping[Path, str]) -> Iterable[str]:
    used = set(entries.values())
    idle = [key for key in chosen if key not in used]
    if idle:
        yield f"{len(idle)} of {len(chosen)} entries of the prompt map fit no image given: {_few(idle)}"
    loose = [path for path, key in entries.items() if not _is_end(_parts(key), _image_parts(path))]
    if loose:
        pairs = [f"{path} by {entries[path]}" for path in loose]
        yield f"{len(loose)} images were found in the prompt map by the end of their path only: {_few(pairs)}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _parts(key: str) -> Parts:
    """A map's path may come from another system."""
    return tuple(part for part in key.replace("\\", "/").split("/") if part not in ("", "."))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() follows links, to files of other names


def _image_parts(path: Path) -> Parts:
    return _parts(_absolute(path))


def _is_end(parts: Parts, image: Parts) -> bool:
    return image[-len(parts) :] == parts


def _common(parts: Parts, image: Parts) -> int:
    """How many last parts are the same."""
    pairs = zip(reversed(parts), reversed(image), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
