"""Do prompts decide where a class was never trained? One class is held out, then prompted for in several ways.

Run it as ``python -m medprompt.benchmarks.research.novel --hold-out Platelets --data-root DATA --out FOLDER``; again
after a kill, and it goes on. See docs/research/novel-classes.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medprompt.benchmarks.research.command import run_command
from medprompt.benchmarks.research.novel_experiment import EXPERIMENT, Experiment, PromptVariant, experiment_from_yaml
from medprompt.benchmarks.research.novel_report import Figures, NovelReport, NovelRun
from medprompt.benchmarks.research.novel_words import word_separation
from medprompt.core.errors import InputError
from medprompt.core.files import write_json
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.export.evaluation.evaluator import PromptEvaluator
from medprompt.export.evaluation.features import FeatureSet
from medprompt.export.families.base import Family
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_TEXTS
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.run import family_from_run
from medprompt.export.finetune.small_models.nanos import Kind, nano
from medprompt.export.finetune.trainer import finetune
from medprompt.metrics.coco import measure_accuracy
from medprompt.prompts.schema import Prompts

Report = Callable[[dict[str, Any]], None]


START, CHECKPOINT = "start", "checkpoint"
"""Folders of a seed."""


def run_novel(
    held_out: str,
    data_root: Path,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    as_it_is: bool = False,
    experiment: Experiment | None = None,
    report: Report = lambda row: None,
) -> NovelReport:
    """Train one model a seed without a class, and prompt each for it in every variant.

    Args:
        held_out: Label of the class.
        data_root: Folder that the recipe's data paths start from.
        out: Folder of all seeds' runs; runs that are there go on or are taken as they are.
        seeds: One run each.
        steps: Length of a run; the recipe's by default.
        as_it_is: Train nothing: measure finished runs, and of others the last save.
        experiment: Names, recipe and prompt variants; the shipped ones by default.
        report: Notified of each training row.

    Raises:
        InputError: A class that cannot be held out, no seed, or nothing saved yet.
        DataError: See ``finetune``.
    """
    experiment = experiment or experiment_from_yaml()
    prompts = experiment.training_prompts(held_out)
    if not seeds:
        raise InputError("There is no seed.", expected="one or more", fix="give --seeds 0,1,2")
    variants = experiment.variants[held_out]
    every_set = [read_detection_set(str(data_root / entry.val)) for entry in experiment.recipe.data if entry.val]
    source = _set_with(held_out, every_set)
    runs = []
    for seed in seeds:
        recipe = experiment.recipe_without(held_out, data_root, seed, steps)
        folder = out / f"seed-{seed}"
        if not as_it_is:
            _train(folder, experiment.family, prompts, recipe, variants, held_out, data_root, report)
        family, step = _latest(folder, recipe.steps)
        found, among_distractors = measure_variants(family, held_out, variants, every_set)
        words = tuple(word_separation(family, every_set, held_out))
        runs.append(
            NovelRun(seed, step, recipe.steps, found, _trained(family, prompts, source), words, among_distractors)
        )
        write_json(out / "novel.json", NovelReport(held_out, variants, tuple(runs), source.name).as_json())
    return NovelReport(held_out, variants, tuple(runs), source.name)


def _train(
    folder: Path,
    kind: Kind,
    prompts: Prompts,
    recipe: Recipe,
    variants: Sequence[PromptVariant],
    held_out: str,
    data_root: Path,
    report: Report,
) -> None:
    """Train a seed's model unless it is there; on the way the held-out class is measured by its first attributes."""
    if (folder / CHECKPOINT).is_dir():
        return
    if not (folder / START).is_dir():
        texts = [text for variant in variants for text in variant.prompts(held_out).texts]
        nano(kind, folder / START, [*prompts.texts, *texts, *ATTRIBUTE_TEXTS], recipe.seed)
    manual = next(variant for variant in variants if variant.kind == "manual")
    finetune(
        folder / START,
        prompts,
        recipe,
        folder / CHECKPOINT,
        data_root=data_root,
        measured_with=Prompts(classes=(*prompts.classes, *manual.prompts(held_out).classes)),
        report=report,
    )


def _latest(folder: Path, steps: int) -> tuple[Family, int]:
    """A seed's model and how many steps it had: the finished one, else the last save's averaged weights."""
    if (folder / CHECKPOINT).is_dir():
        return family_from_checkpoint(folder / CHECKPOINT), steps
    return family_from_run(folder / START, folder / f"{CHECKPOINT}.run")


def _set_with(held_out: str, sets: Sequence[DetectionSet]) -> DetectionSet:
    """The first validation set that has the class."""
    for labelled in sets:
        if held_out in labelled.labels:
            return labelled
    raise InputError(
        "No validation set has the class.",
        got=held_out,
        where="recipe: data",
        fix="give the recipe a val set with labels of it",
    )


def _trained(family: Family, prompts: Prompts, labelled: DetectionSet) -> dict[str, float]:
    """AP50 of each trained class that the set has, by its first name."""
    return {
        entry.label: PromptEvaluator(FeatureSet(family, labelled.only(entry.label)))
        .accuracy(
            bank_from_prompts(family, Prompts(classes=(entry.model_copy(update={"phrases": entry.phrases[:1]}),)))
        )
        .ap50
        for entry in prompts.classes
        if entry.label in labelled.labels
    }


def measure_variants(
    family: Family, label: str, variants: Sequence[PromptVariant], sets: Sequence[DetectionSet]
) -> tuple[Figures, Figures]:
    """AP and AP50 of a class by prompt variant: on the first set that has it, and among the images of all sets.

    Where a set holds nothing but the class, every variant ranks its boxes alike; among distractors: other sets' images
    it matters whether a variant fires there. Boxes of other classes are put aside: found, they are false alarms.

    Args:
        family: The model.
        label: The class.
        variants: Its prompts; each on its own, the best of its phrases counts.
        sets: Labelled images; at least one set has the class.
    """
    isolated = _set_with(label, sets).only(label)
    distractors = with_distractors(isolated, [other for other in sets if label not in other.labels])
    evaluator = PromptEvaluator(FeatureSet(family, distractors))
    on_its_set: Figures = {}
    among_all: Figures = {}
    for variant in variants:
        predictions = evaluator.detections(bank_from_prompts(family, variant.prompts(label)))
        for found, labelled in ((on_its_set, isolated), (among_all, distractors)):
            accuracy = measure_accuracy(labelled, predictions[: len(labelled.images)])
            found[variant.name] = (accuracy.ap, accuracy.ap50)
    return on_its_set, among_all


def with_distractors(isolated: DetectionSet, others: Sequence[DetectionSet]) -> DetectionSet:
    """A set followed by the images of others, which hold none of its classes."""
    beside = [image for other in others for image in other.holding_out(other.labels).images]
    name = " + ".join(one.name for one in (isolated, *others))
    return DetectionSet(name, isolated.labels, (*isolated.images, *beside), isolated.dropped)


def _main() -> None:
    from medprompt.core.terminal import print_table, training_reporter

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.novel", description=__doc__)
    parser.add_argument("--hold-out", required=True, help="label of the class that is not trained")
    parser.add_argument("--data-root", type=Path, required=True, help="folder with bccd/ and nuclei/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of novel.json")
    parser.add_argument("--seeds", default="0", help="comma-separated, one run each")
    parser.add_argument("--steps", type=int, help="length of a run")
    parser.add_argument("--as-it-is", action="store_true", help="train nothing, measure what is there")
    parser.add_argument("--experiment", type=Path, default=EXPERIMENT, help="names, recipe and prompt variants (YAML)")
    args = parser.parse_args()
    found = run_novel(
        args.hold_out,
        args.data_root,
        args.out,
        seeds=_seeds(args.seeds),
        steps=args.steps,
        as_it_is=args.as_it_is,
        experiment=experiment_from_yaml(args.experiment),
        report=training_reporter(),
    )
    taken = ", ".join(f"seed {run.seed} at step {run.step} of {run.steps}" for run in found.runs)
    print_table(
        f"{found.held_out}, never trained, on {found.data}",
        ("prompts", "kind", "AP", "AP50", "AP with distractors", "AP50 with distractors"),
        found.rows(),
        f"{taken}. With distractors: among the validation images of all sets.",
    )
    print_table(
        "Attribute words: area under the ROC curve (1 right, 0.5 by chance)",
        ("word", "trained objects", found.held_out, "of trained", f"of {found.held_out}"),
        found.word_rows(),
        '"WORD object" at each labelled object: where the word is true against where it is false. The second figure '
        f"ranks {found.held_out} that the word is true of against trained objects beside them that it is false of.",
    )


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            "The seeds are not numbers.",
            where="--seeds",
            expected="such as 0,1,2",
            got=text,
            fix="separate whole numbers by commas",
        ) from error


if __name__ == "__main__":
    run_command(_main)
