"""With few images: a small VLM against a supervised detector of the same backbone, data, loss and number of steps.

Run it as ``python -m medprompt.benchmarks.research.few_shot --data-root DATA --out FOLDER``; again after a kill, and it
goes on. Both learn nuclei first, then blood cells from 1, 10, 100 shots a class, or all images: the VLM with the
phrases of its prompts file and by phrases of what objects look like, the supervised one by class number, with a new
class head.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from pydantic import AliasChoices, Field

from medprompt.benchmarks.demo import DEMO
from medprompt.benchmarks.latency.machine import describe_machine
from medprompt.benchmarks.research.closed_set import closed_set_accuracy, train_closed_set
from medprompt.benchmarks.research.command import run_command
from medprompt.core.files import write_json
from medprompt.core.models import FrozenModel
from medprompt.data import DetectionSet, read_detection_set
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.evaluation.evaluator import evaluate_family
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_TEXTS
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.small_models.nano_omdet import nano_omdet_checkpoint
from medprompt.export.finetune.trainer import finetune
from medprompt.export.shots import few_shot
from medprompt.metrics.coco import Accuracy
from medprompt.prompts.file import prompts_from_yaml
from medprompt.prompts.schema import Prompts

HERE = Path(__file__).parent
ALL = 0
"""Stands for all images in place of a number of shots."""

SHOTS = (1, 10, 100, ALL)


class FewShotPlan(FrozenModel):
    """The experiment, see ``few_shot.yaml``.

    Attributes:
        side: Height and width of both detectors' image.
        pretrain, train, val: Labelled sets below the data's folder.
        pretrain_steps, steps: Length of the first stage, and of each run of the second.
        recipe: Settings of both stages and detectors.
        attributes: Settings of the VLM's first stage.
    """

    side: int
    pretrain: str
    pretrain_steps: int
    train: str
    val: str
    steps: int
    recipe: dict[str, Any]
    attributes: dict[str, Any] = Field(validation_alias=AliasChoices("attributes", "looks"))

    def stage(self, data: str, steps: int, seed: int, shots: int, **more: Any) -> Recipe:
        """One stage's recipe on one set."""
        entry = DataEntry(train=data)
        shape = {"decay_steps": min(self.recipe["decay_steps"], steps // 2), "steps": steps}
        chosen = {"shots": shots} if shots != ALL else {}
        return Recipe.model_validate({**self.recipe, **shape, **more, **chosen, "data": (entry,), "seed": seed})


@dataclass(frozen=True)
class FewShotRun:
    """One training.

    Attributes:
        detector: ``VLM`` or ``supervised``.
        shots: See ``ALL``.
        seed: Chooses the images and the order.
        images: How many there were.
        ap, ap50: On the validation set.
    """

    detector: str
    shots: int
    seed: int
    images: int
    ap: float
    ap50: float


def run_few_shot(
    plan: FewShotPlan,
    data_root: Path,
    out: Path,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = (0, 1, 2),
    detectors: Sequence[str] = ("VLM", "supervised"),
    report: Callable[[FewShotRun], None] = lambda run: None,
) -> list[FewShotRun]:
    """Train all that is not there yet.

    Args:
        plan: The experiment.
        data_root: Folder of the sets.
        out: Folder of the runs; each leaves a small JSON file.
        shots: Shots a class, ``ALL`` for all images.
        seeds: One run each.
        detectors: Which of the two.
        report: Notified of each run.
    """
    pretraining = read_detection_set(str(data_root / plan.pretrain))
    training = read_detection_set(str(data_root / plan.train))
    validation = read_detection_set(str(data_root / plan.val))
    prompts = prompts_from_yaml(DEMO / "train-prompts.yaml")
    given = (plan, data_root, out, pretraining, training, validation)
    makers = {
        "VLM": _Vlm(*given, prompts),
        "supervised": _Supervised(*given),
    }
    found = []
    for seed in seeds:
        for count in shots:
            for name in detectors:
                found.append(_kept(out / f"{name}-{count}-{seed}.json", makers[name], name, count, seed, training))
                report(found[-1])
    return found


def _kept(path: Path, make: Any, name: str, shots: int, seed: int, training: DetectionSet) -> FewShotRun:
    if path.is_file():
        return FewShotRun(**json.loads(path.read_text(encoding="utf-8")))
    accuracy = make(shots, seed)
    images = len((training if shots == ALL else few_shot(training, shots, seed)).images)
    run = FewShotRun(name, shots, seed, images, round(accuracy.ap, 4), round(accuracy.ap50, 4))
    write_json(path, asdict(run))
    return run


@dataclass(frozen=True)
class _Maker:
    """What both detectors are made from."""

    plan: FewShotPlan
    data_root: Path
    out: Path
    pretraining: DetectionSet
    training: DetectionSet
    validation: DetectionSet


@dataclass(frozen=True)
class _Vlm(_Maker):
    prompts: Prompts

    def __call__(self, shots: int, seed: int) -> Accuracy:
        plan = self.plan
        recipe = plan.stage(plan.train, plan.steps, seed, shots)
        name = self.out / f"vlm-{shots}-{seed}"
        own = _of_labels(self.prompts, self.training.labels)
        finetune(self._first_stage(), own, recipe, name, data_root=self.data_root)
        found = evaluate_family(family_from_checkpoint(name), own, [self.validation])
        for folder in (name, name.with_name(f"{name.name}.run")):
            shutil.rmtree(folder)
        short = next(key for key in found if key.startswith("ap/"))
        return Accuracy(found[short], found[short.replace("ap/", "ap50/")], {}, {})

    def _first_stage(self) -> Path:
        plan, done = self.plan, self.out / "vlm-nuclei"
        if not done.is_dir():
            start = self.out / "vlm-start"
            words = [*self.prompts.texts, *ATTRIBUTE_TEXTS]
            nano_omdet_checkpoint(start, words, 0, side=plan.side)
            recipe = plan.stage(plan.pretrain, plan.pretrain_steps, 0, ALL, **plan.attributes)
            own = _of_labels(self.prompts, self.pretraining.labels)
            finetune(start, own, recipe, done, data_root=self.data_root)
        return done


@dataclass(frozen=True)
class _Supervised(_Maker):
    def __call__(self, shots: int, seed: int) -> Accuracy:
        plan = self.plan
        recipe = plan.stage(plan.train, plan.steps, seed, shots)
        chosen = few_shot(self.training, shots, seed) if shots != ALL else self.training
        work = self.out / f"supervised-{shots}-{seed}.run"
        model = train_closed_set(self.training.labels, chosen, recipe, plan.side, work, self._first_stage())
        shutil.rmtree(work, ignore_errors=True)
        return closed_set_accuracy(model, self.validation)

    def _first_stage(self) -> dict[str, Any]:
        from safetensors.torch import load_file, save_file

        plan, done = self.plan, self.out / "supervised-nuclei.safetensors"
        if not done.is_file():
            recipe = plan.stage(plan.pretrain, plan.pretrain_steps, 0, ALL)
            work = self.out / "supervised-nuclei.run"
            model = train_closed_set(self.pretraining.labels, self.pretraining, recipe, plan.side, work)
            save_file({name: tensor.clone() for name, tensor in model.detector.state_dict().items()}, done)
        weights: dict[str, Any] = load_file(done)
        return weights


def _of_labels(prompts: Prompts, labels: Sequence[str]) -> Prompts:
    known = {label.casefold() for label in labels}
    return Prompts(classes=tuple(entry for entry in prompts.classes if entry.label.casefold() in known))


def rows_of(runs: Sequence[FewShotRun]) -> list[tuple[str, ...]]:
    """A row for each number of shots: images, and AP and AP50 of both, mean ± standard deviation over the seeds."""
    rows = []
    for shots in dict.fromkeys(run.shots for run in runs):
        chosen = [run for run in runs if run.shots == shots]
        images = [str(bound(run.images for run in chosen)) for bound in (min, max)]
        cells = []
        for name in dict.fromkeys(run.detector for run in runs):
            own = [run for run in chosen if run.detector == name]
            cells += [_spread([run.ap for run in own]), _spread([run.ap50 for run in own])]
        rows.append(("all" if shots == ALL else str(shots), "–".join(dict.fromkeys(images)), *cells))
    return rows


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _main() -> None:
    from medprompt.core.terminal import print_table

    parser = argparse.ArgumentParser("python -m medprompt.benchmarks.research.few_shot", description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--shots", default="1,10,100,all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--detectors", default="VLM,supervised")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    args = parser.parse_args()
    plan = FewShotPlan.model_validate(yaml.safe_load((HERE / "few_shot.yaml").read_text(encoding="utf-8")))
    args.out.mkdir(parents=True, exist_ok=True)
    detectors = args.detectors.split(",")
    runs = run_few_shot(
        plan,
        args.data_root,
        args.out,
        shots=[ALL if text == "all" else int(text) for text in args.shots.split(",")],
        seeds=[int(text) for text in args.seeds.split(",")],
        detectors=detectors,
        report=lambda run: print(run, flush=True),
    )
    columns = ["shots", "images", *(f"{name} {figure}" for name in detectors for figure in ("AP", "AP50"))]
    print_table("Blood cells from few images", columns, rows_of(runs))
    write_json(args.json, {"runs": [asdict(run) for run in runs], "machine": describe_machine()})


if __name__ == "__main__":
    run_command(_main)
