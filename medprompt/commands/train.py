"""``medprompt finetune``, ``init-small`` and ``demo``: make a checkpoint, and see it at work."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from medprompt.commands import common
from medprompt.core.errors import InputError
from medprompt.core.output_kinds import folder_kind
from medprompt.core.outputs import Output, check_places
from medprompt.core.terminal import Steps, print_table, training_reporter


def _show_preset(name: str | None) -> None:
    """Print a preset as the lines of a recipe, and leave."""
    if name is None:
        return
    import yaml

    from medprompt.export.finetune.presets import PRESETS

    if name not in PRESETS:
        raise InputError("There is no such preset.", got=name, expected=", ".join(PRESETS), where="show_preset")
    print(yaml.safe_dump(dict(PRESETS[name]), sort_keys=False), end="")
    raise typer.Exit


@contextmanager
def _word_at_an_interrupt() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        common.print_warnings(["the run was interrupted; the same command goes on from its last save"])
        raise


def finetune(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="The checkpoint to start from: a Hugging Face folder with config, weights and processor."),
    ],
    prompts: common.PromptsPath,
    recipe: Annotated[Path, typer.Option(help="The recipe (YAML): data, steps, learning rates and seed.")],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to make.")],
    data_root: Annotated[Path, typer.Option(help="Folder that the data paths in the recipe are relative to.")] = Path(),
    shots: Annotated[
        int | None, typer.Option(min=1, help="Train on this many images of each class only. All by default.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="What to train: full, head, prompt (the text side) or lora. As the recipe says by default."),
    ] = None,
    strict: common.Strict = False,
    allow: common.Allow = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset of settings that the recipe leaves open: paper or small-data.")
    ] = None,
    show_preset: Annotated[
        str | None, typer.Option(help="Print the settings of a preset, and exit.", callback=_show_preset, is_eager=True)
    ] = None,
    from_config: Annotated[
        bool, typer.Option("--from-config", help="Start from random weights, with the checkpoint's config.json only.")
    ] = False,
    force: common.Force = False,
) -> None:
    """Fine-tune a checkpoint on labelled images in COCO, VOC or YOLO format.

    Run the command again to resume an interrupted run.

    Example: `medprompt finetune CKPT --prompts P.yaml --recipe recipe.yaml --out CKPT2`
    """
    common.need("torch", "Fine-tuning", "export")
    from medprompt.export.finetune.modes import DESCRIPTIONS
    from medprompt.export.finetune.presets import PRESETS
    from medprompt.export.finetune.recipe import recipe_from_yaml
    from medprompt.export.finetune.trainer import finetune as train
    from medprompt.prompts.file import prompts_from_yaml

    check_places({"out": Output(out, folder_kind("a checkpoint"))}, [prompts, recipe])
    _check_word("preset", preset, PRESETS)
    _check_word("mode", mode, DESCRIPTIONS)
    changes = {"shots": shots, "mode": mode, "preset": preset}
    with Steps("finetune") as steps, _word_at_an_interrupt():
        result = train(
            checkpoint,
            prompts_from_yaml(prompts),
            recipe_from_yaml(recipe, {name: value for name, value in changes.items() if value is not None}),
            out,
            data_root=data_root,
            random_weights=from_config,
            report=training_reporter(),
            strict=strict,
            force=force,
            allow=tuple(allow or ()),
            tell=lambda text: print(text, file=sys.stderr),
            warn=lambda text: common.print_warnings([text]),
            progress=steps,
        )
    rows = [(name, f"{value:.3f}") for name, value in result.measured.items()]
    if result.skipped:
        rows.append(("images left out as unreadable", str(len(result.skipped))))
    chosen = result.chosen
    caption = f"weights of step {chosen.step}, the best of {chosen.measurements} measurements" if chosen else ""
    if not result.measured:
        common.print_warnings(["the recipe has no val set: nothing was measured"])
    if rows:
        print_table(f"{result.checkpoint} on validation data", ["figure", "value"], rows, caption)
    else:
        print(result.checkpoint)


def _check_word(option: str, word: str | None, known: Iterable[str]) -> None:
    """Blame the command line for its own words, and not the recipe that they are laid over."""
    if word is not None and word not in known:
        raise InputError(f"There is no such {option}.", where=option, expected=", ".join(known), got=word)


def init_small(
    out: Annotated[Path, typer.Option(help="The checkpoint folder to make.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts file or bank whose words become tokens of their own.")
    ] = None,
    family: Annotated[
        Literal["omdet-turbo", "grounding-dino", "mm-grounding-dino", "owlvit", "owlv2", "glip", "sam3"],
        typer.Option(
            help="The model family: omdet-turbo, grounding-dino, mm-grounding-dino, glip, owlvit, owlv2 or sam3. All "
            "but the OWL families and sam3 start with a trained backbone."
        ),
    ] = "omdet-turbo",
    backbone: Annotated[
        Literal["resnet", "pp-lcnet"] | None,
        typer.Option(
            help="What it sees with: resnet (the default) or pp-lcnet, which is lighter. Not for OWL and SAM 3."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
    force: common.Force = False,
) -> None:
    """Make a checkpoint that is small enough to fine-tune on two CPU cores.

    The demo checkpoint was fine-tuned from one.

    Example: `medprompt init-small --out small --prompts prompts.yaml`
    """
    common.need("torch", "Making a checkpoint", "export")
    from medprompt.export.finetune.small_models.nanos import nano as make
    from medprompt.prompts.diff import prompts_from_either

    check_places({"out": Output(out, folder_kind("a checkpoint"))}, [prompts])
    words = prompts_from_either(prompts).texts if prompts else ()
    with Steps("init-small") as steps:
        steps.step("make the checkpoint")
        made = make(family, out, words, seed, backbone=backbone, force=force)
    print(made)


def demo(
    out: Annotated[Path, typer.Option(help="The folder to make, with the bundle, pictures and results.")] = Path(
        "demo-out"
    ),
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Export the demo checkpoint, detect on the demo images, and compare with PyTorch.

    This takes a few minutes.

    Example: `medprompt demo --out demo-out`
    """
    common.need("torch", "The demo", "demo")
    common.need("onnxruntime", "The demo", "demo")
    from medprompt.benchmarks.demo import run_demo

    with Steps("demo") as steps:
        report = run_demo(out, progress=steps, force=force)
    common.print_measured(report, as_json)
    if not as_json:
        print(f"pictures: {report.pictures}")
