"""Models for ``medprompt prompts generate`` where none can be fetched: made here, in minutes, of what is at hand.

Run it as ``python -m medprompt.benchmarks.research.stand_ins --out FOLDER --data-root DATA`` after
``pip install cellxgene-ontology-guide zstandard`` and ``apt-get install wordnet-base``. It writes ``FOLDER/mlm`` and
``FOLDER/vqa``. Both are experiments' stand-ins for published models, and worse: see docs/research/prompt-evaluation.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.novel_experiment import EXPERIMENT, Experiment, experiment_from_yaml
from medprompt.benchmarks.research.stand_in_mlm import stand_in_mlm
from medprompt.benchmarks.research.stand_in_text import (
    ontology_definitions,
    sentences_from_definitions,
    wordnet_definitions,
)
from medprompt.benchmarks.research.stand_in_vqa import ANSWERS, SIDE, Asked, Questions, stand_in_vqa
from medprompt.core.errors import InputError
from medprompt.core.manifest import Preprocess
from medprompt.data import read_detection_set
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_WORDS
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.samples import Augmentation, TrainingSamples
from medprompt.export.finetune.sets import data_from_recipe
from medprompt.export.finetune.small_models.nano import MEAN
from medprompt.export.prompt_tuning.vqa import visual_qa_from_folder
from medprompt.generation.lexicon import lexicon_from_yaml
from medprompt.prompts.schema import Prompts

MODELS = ("mlm", "vqa")
ASKED = ("color", "shape", "size")
TOLD_NOTHING_OF = ("Platelets", "nucleus")
"""Classes that the model that sees images is never shown labels of."""

UNSEEN = 500
"""Questions about validation images that say how good it is."""

AT_ONCE = 50


def make_mlm(out: Path, wordnet: Path, steps: int, seed: int, force: bool) -> dict[str, Any]:
    """Make the language model.

    Returns:
        Number of sentences, of those that ask for an attribute, and the mean loss.
    """
    definitions = [*ontology_definitions(), *wordnet_definitions(wordnet)]
    sentences = sentences_from_definitions(definitions, lexicon_from_yaml())
    loss = stand_in_mlm(out, sentences, steps=steps, seed=seed, force=force)
    asking = sum(sentence.answer is not None for sentence in sentences)
    return {"sentences": len(sentences), "of them asking": asking, "mean loss": round(loss, 3)}


def make_vqa(
    out: Path,
    experiment: Experiment,
    data_root: Path,
    *,
    held_out: Sequence[str] = TOLD_NOTHING_OF,
    steps: int,
    seed: int,
    force: bool = False,
) -> dict[str, Any]:
    """Make the model that answers about images, and ask it about pictures of the validation images.

    Args:
        out: The folder to make.
        experiment: Names of the classes, data and augmentation.
        data_root: Folder that the recipe's data paths start from.
        held_out: Labels of classes that it never sees.
        steps: Of 32 questions.
        seed: Decides everything.
        force: Replace a folder that exists.

    Returns:
        Number of training images, mean loss, and the share of right answers to questions it was not trained on.
    """
    vqa = {name: lexicon_from_yaml().questions.vqa[name] for name in ASKED}
    recipe, prompts = _recipe(experiment, data_root, held_out), _prompts(experiment, held_out)
    labels = [entry.label for entry in prompts.classes]
    training = data_from_recipe(recipe, labels, data_root).training
    questions = Questions(_samples(recipe, training, 32 * steps, seed), prompts, vqa, seed)
    loss = stand_in_vqa(out, questions, steps=steps, seed=seed, force=force)
    others = data_from_recipe(_on_validation_images(recipe), labels, data_root).training
    unseen = Questions(_samples(recipe, others, UNSEEN, seed + 1), prompts, vqa, seed + 1)
    right = _share_right(out, [unseen[number] for number in range(UNSEEN)])
    return {"images": sum(len(found.images) for found in training), "mean loss": round(loss, 3), **right}


def _on_validation_images(recipe: Recipe) -> Recipe:
    """The same with the validation images in the training images' place, so that what is held out stays so."""
    entries = [entry.model_copy(update={"train": entry.val, "val": None}) for entry in recipe.data if entry.val]
    return recipe.model_copy(update={"data": tuple(entries)})


def _prompts(experiment: Experiment, held_out: Sequence[str]) -> Prompts:
    classes = [{"label": k, "phrases": list(v)} for k, v in experiment.names.items() if k not in held_out]
    return Prompts.model_validate({"classes": classes})


def _recipe(experiment: Experiment, data_root: Path, held_out: Sequence[str]) -> Recipe:
    """The held-out experiment's recipe; of the classes that are not asked about no box is asked about or copied."""
    entries = []
    for entry in experiment.recipe.data:
        labels = read_detection_set(entry.below(data_root).train).labels
        hold_out = tuple(label for label in labels if label in held_out)
        entries.append(entry.model_copy(update={"hold_out": hold_out, "ignore_classes": ()}))
    return experiment.recipe.model_copy(update={"data": tuple(entries)})


def _samples(recipe: Recipe, sets: Any, count: int, seed: int) -> TrainingSamples:
    annotated = [np.ones(2, dtype=np.bool_)] * len(sets)
    cut = Augmentation((recipe.scale_min, recipe.scale_max), recipe.flips, recipe.colour, recipe.shapes)
    resize = Preprocess(size_hw=(SIDE, SIDE), resample="bilinear", mean=MEAN)
    return TrainingSamples(sets, annotated, [1] * len(sets), resize, cut, count, seed)


def _share_right(folder: Path, asked: list[Asked]) -> dict[str, float]:
    """Right answers, and how many would be if each attribute's commonest word were always given."""
    model = visual_qa_from_folder(folder)
    parts = [asked[start : start + AT_ONCE] for start in range(0, len(asked), AT_ONCE)]
    answers = [model.answer([one.image for one in part], [one.question for one in part]) for part in parts]
    given = [answer.text for part in answers for answer in part]
    true = [ANSWERS[entry.answer] for entry in asked]
    by_attribute: dict[str, list[str]] = {}
    for entry, answer in zip(asked, true, strict=True):
        by_attribute.setdefault(ATTRIBUTE_WORDS[entry.answer].attribute, []).append(answer)
    commonest = sum(max(map(answers.count, answers)) for answers in by_attribute.values())
    right = sum(a == b for a, b in zip(given, true, strict=True))
    return {"right": right / len(asked), "right without looking": commonest / len(asked)}


def _main() -> None:
    from medprompt.core.terminal import print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.stand_ins", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder for both models")
    parser.add_argument("--data-root", type=Path, help="folder with bccd/ and nuclei/, for vqa")
    parser.add_argument("--only", choices=MODELS, help="make one of them")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun")
    parser.add_argument("--steps", type=int, default=1500, help="of 32 sentences or questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace what is there")
    args = parser.parse_args()
    wanted = (args.only,) if args.only else MODELS
    if "vqa" in wanted and args.data_root is None:
        raise InputError("The model that sees images needs them.", where="--data-root", fix="--data-root DATA")
    rows = []
    for name in wanted:
        began, out = time.perf_counter(), args.out / name
        if name == "mlm":
            facts = make_mlm(out, args.wordnet, args.steps, args.seed, args.force)
        else:
            experiment = experiment_from_yaml(EXPERIMENT)
            facts = make_vqa(out, experiment, args.data_root, steps=args.steps, seed=args.seed, force=args.force)
        facts["minutes"] = round((time.perf_counter() - began) / 60, 1)
        rows.append((name, ", ".join(f"{key} {value:,.3g}" for key, value in facts.items())))
    print_table("Stand-ins", ("model", "facts"), rows, str(args.out))


if __name__ == "__main__":
    run_command(_main)
