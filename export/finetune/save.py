"""The trained checkpoint: averaged weights, processor, recipe and prompts in one folder."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from medprompt.core.manifest import About
from medprompt.core.outputs import replaced_whole
from medprompt.export.checkpoint_files import ABOUT_FILE
from medprompt.export.families.base import Family
from medprompt.export.finetune.callbacks import AveragedWeights
from medprompt.export.finetune.modes import merge_adapters
from medprompt.export.finetune.recipe import Recipe
from medprompt.prompts.schema import Prompts


@contextmanager
def weights_of(averaged: AveragedWeights, family: Family) -> Iterator[None]:
    """Lend the averaged weights to the family inside a ``with`` block, in evaluation mode."""
    model = family.model
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = model.training
    model.load_state_dict(averaged.averaged.module.state_dict())
    model.eval()
    try:
        yield
    finally:
        model.load_state_dict(own)
        model.train(training)


def save_checkpoint(
    family: Family,
    prompts: Prompts,
    recipe: Recipe,
    measured: Mapping[str, Any],
    card: str,
    about: About,
    out: Path,
    licences: Iterable[Path] = (),
) -> None:
    """Write the checkpoint whole or not at all, adapters merged; the caller has seen to what is there.

    ``licences`` are the files of the weights that it began with, which go along.
    """
    model = copy.deepcopy(family.model)
    merge_adapters(model)
    if recipe.half:
        half = copy.deepcopy(model).half()
        # A variance of a batch norm can be more than half precision holds; then all stays as it was trained.
        if all(tensor.isfinite().all() for tensor in half.state_dict().values()):
            model = half
    with replaced_whole(out) as folder:
        model.save_pretrained(folder)
        family.processor.save_pretrained(folder)
        for path in licences:
            shutil.copyfile(path, folder / path.name)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        (folder / ABOUT_FILE).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "recipe.yaml").write_text(recipe.as_yaml(), encoding="utf-8")
        (folder / "prompts.yaml").write_text(
            yaml.safe_dump(prompts.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
        )
