"""Whether the model took every tensor of its files: what transformers leaves out would be lost without a word.

A fine-tuned layer can lie in the file and not in the model: an adapter that was never merged, a config.json of another
variant, tensors that a newer transformers ties to others. The model then runs, as another one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from medprompt.core.errors import CheckpointError
from medprompt.core.files import files_of
from medprompt.export.importers.pickles import refuse_cast

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARES = {"bbox_embed": "decoder_bbox_embed_share", "class_embed": "decoder_cls_embed_share"}
"""Heads that layers may share, and config.json's word for it. transformers 4.55 to 4.57 did not write it for
MM-Grounding DINO, whose layers had heads of their own; where it is not written, transformers 5 shares them."""
SAVE_AGAIN = "save the whole model with save_pretrained(FOLDER), config.json and weights together"


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads: one, or the parts that the index names.

    Raises:
        CheckpointError: None of them, or other weights beside them, which would be passed over.
    """
    if (folder / WEIGHTS).is_file():
        read = {WEIGHTS}
    elif (folder / INDEX).is_file():
        read = set(_weight_map(folder / INDEX).values())
    else:
        read = set()
    others = sorted({path.name for path in files_of(folder, ".safetensors")} - read)
    if others:
        raise CheckpointError(
            "The checkpoint holds weights that its model does not read.",
            where=str(folder),
            expected=f"{WEIGHTS}, or the parts that {INDEX} names, and no other safetensors",
            got=", ".join(others),
            fix="if they belong to the model, merge them and save it again; if not, move them out of the folder",
        )
    return [folder / name for name in sorted(read)]


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each weight as an index names it: of its own folder, and there."""
    try:
        named = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
        wrong = [name for name in set(named.values()) if Path(name).name != name or not (index.parent / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = [f"{type(error).__name__} while it was read"]
    if wrong:
        raise CheckpointError(
            "The index of the weights' parts cannot be used.",
            where=str(index),
            expected="weight_map: for each weight the name of a file in this folder",
            got=str(wrong[0])[:200],
            fix="copy the checkpoint again, all of its parts",
        )
    return named


def _refuse_absent(folder: Path, paths: list[Path]) -> None:
    """What an index names and no part holds was lost: of a weight that the model knows not, it would not be missed."""
    if [path.name for path in paths] == [WEIGHTS]:
        return
    named = _weight_map(folder / INDEX)
    absent = sorted(named.keys() - {name for path in paths for name in _names(path)})
    if absent:
        raise CheckpointError(
            "The index of the weights' parts names weights that no part holds.",
            where=str(folder / INDEX),
            got=f"{len(absent)}, such as {absent[0]}",
            fix="copy the checkpoint again, all of its parts",
        )


def check_weights(folder: Path, model: Any, report: Mapping[str, Any], beside: tuple[str, ...] = ()) -> None:
    """Compare every tensor of the files with the loaded model, given transformers' ``report`` of the loading.

    Names that start with one of ``beside`` are of other models that the files hold as well.

    Raises:
        CheckpointError: A tensor is missing, was not taken, is not finite, or another was put in its place.
    """
    loaded = _Loaded(model)
    _refuse_other_shapes(folder, report["mismatched_keys"])
    missing = [name for name in sorted(report["missing_keys"]) if not loaded.may_miss(name)]
    _refuse_missing(folder, missing, set(report["unexpected_keys"]))
    left_out = {name for name in report["unexpected_keys"] if not loaded.computes(name)}
    paths = weight_files(folder)
    _refuse_absent(folder, paths)
    for name, tensor in _tensors(paths):
        if name in loaded.tensors and loaded.tensors[name].is_floating_point():
            refuse_cast(f"{folder}: {name}", tensor)
        # An infinite variance, of a half precision that overflowed, has one meaning; see ``constant_channels``.
        sound = tensor.isnan().logical_not() if name.endswith(".running_var") else tensor.isfinite()
        if tensor.is_floating_point() and not sound.all():
            raise CheckpointError(
                "A weight is NaN or infinite.",
                where=f"{folder}: {name}",
                fix="take an earlier checkpoint: the training diverged, or a half precision overflowed",
            )
        if not name.startswith(beside) and not loaded.computes(name) and not loaded.took(name, tensor):
            left_out.add(name)
    _refuse_left_out(folder, sorted(left_out))
    _refuse_untied(folder, model)


def constant_channels(model: nn.Module) -> dict[str, int]:
    """Batch norms with an infinite variance, and in how many channels: these give their bias, whatever an image shows.

    So a half precision leaves them that overflowed. The model runs, and sees less.
    """
    counts = {
        name.removesuffix(".running_var"): int(buffer.isinf().sum())
        for name, buffer in model.named_buffers()
        if name.endswith(".running_var")
    }
    return {name: count for name, count in counts.items() if count}


def channel_warnings(model: nn.Module) -> Iterator[str]:
    """A line for each batch norm with constant channels."""
    for name, count in constant_channels(model).items():
        yield (
            f"{count} channels of {name} are constant: their variance overflowed in half precision, and the model sees "
            "less than it learned. Save it again in single precision, or train it further, which measures them anew"
        )


class _Loaded:
    """A model's tensors, and those that transformers neither reads from nor writes to a file."""

    def __init__(self, model: Any) -> None:
        self.tensors: dict[str, Tensor] = model.state_dict()
        lists = [getattr(module, "_keys_to_ignore_on_load_missing", None) or () for module in model.modules()]
        self._unread = [re.compile(pattern) for patterns in lists for pattern in patterns]
        buffers = (name for name, _ in model.named_buffers() if name not in self.tensors)
        self._computed = {name.rpartition(".")[2] for name in buffers}

    def may_miss(self, name: str) -> bool:
        """Whether transformers' own lists say that no computation reads it: those of parts too, not the whole's alone.

        A norm at the end of a Swin that serves as a backbone is one.
        """
        return any(pattern.search(name) for pattern in self._unread)

    def computes(self, name: str) -> bool:
        """Whether the model makes this buffer itself, such as positions: older files hold it."""
        return name.rpartition(".")[2] in self._computed

    def took(self, name: str, tensor: Tensor) -> bool:
        """Whether the model holds a file's tensor: under its name or, where transformers renamed it, under another."""
        if name in self.tensors:
            return bool(torch.equal(self.tensors[name], tensor.to(self.tensors[name].dtype)))
        return _digest(tensor) in self._digests

    @cached_property
    def _digests(self) -> set[bytes]:
        return {_digest(tensor) for tensor in self.tensors.values()}


def _digest(tensor: Tensor) -> bytes:
    values = tensor.detach().to(torch.float32).contiguous().numpy()
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).digest()


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping: it has no iterator
                yield name, file.get_tensor(name)


def _refuse_other_shapes(folder: Path, mismatched: Any) -> None:
    for name, in_file, in_model in sorted(mismatched):
        raise CheckpointError(
            "A weight has another shape than config.json says.",
            where=f"{folder}: {name}",
            expected=str(list(in_model)),
            got=f"{list(in_file)}, one of {len(mismatched)}",
            fix=SAVE_AGAIN,
        )


def _refuse_missing(folder: Path, missing: list[str], unexpected: set[str]) -> None:
    if not missing:
        return
    inner, wrapper = _wrapped(missing, unexpected)
    there = f", which is there as {wrapper}{inner}" if inner else ""
    raise CheckpointError(
        "Weights are missing; transformers would have filled them at random.",
        where=str(folder),
        got=f"{len(missing)} missing, such as {inner or missing[0]}{there}",
        fix=f"the model was saved inside of another: take {wrapper!r} off every name, or save the inner model with "
        "save_pretrained(FOLDER)"
        if inner
        else SAVE_AGAIN,
    )


def _wrapped(missing: list[str], unexpected: set[str]) -> tuple[str, str]:
    """A missing name, and what a program around the model put before every name, such as ``module.``; else nothing."""
    for name in missing:
        for other in unexpected:
            front = other.removesuffix(name)
            if front.endswith(".") and all(one.startswith(front) for one in unexpected):
                return name, front
    return "", ""


def _refuse_left_out(folder: Path, names: list[str]) -> None:
    if not names:
        return
    adapter = any(".lora_" in name or ".base_layer." in name for name in names)
    raise CheckpointError(
        "The file holds weights that the model does not take; the model would be another one than was trained.",
        where=str(folder),
        expected="every tensor of the file in the model of config.json",
        got=f"{len(names)} not taken, such as {names[0]}",
        fix="merge the adapter before saving: model.merge_and_unload(), then save_pretrained(FOLDER)"
        if adapter
        else f"{SAVE_AGAIN}; config.json may be of another variant",
    )


def _refuse_untied(folder: Path, model: Any) -> None:
    """Tensors that the config says are one, and that differ in the file: transformers takes one for some uses."""
    state = model.state_dict()
    pairs = model.get_expanded_tied_weights_keys(all_submodels=True).items()
    untied = sorted(one for one, other in pairs if not torch.equal(state[one], state[other]))
    if not untied:
        return
    shares = [f"{key}: false" for part, key in SHARES.items() if any(part in name for name in untied)]
    raise CheckpointError(
        "The file holds several tensors where config.json says that they are one.",
        where=f"{folder}: {untied[0]}",
        got=f"{len(untied)} such tensors",
        expected="equal tensors, or a config.json that says that they are not shared",
        fix=f"if each layer has its own (as of transformers 4.55 to 4.57), put {' and '.join(shares)} into config.json"
        if shares
        else SAVE_AGAIN,
    )
