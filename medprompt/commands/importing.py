"""``medprompt import``: a checkpoint that another project wrote in, a folder of transformers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands import common


def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint file of another project, a folder with a PEFT adapter, or OWNER/NAME@COMMIT on the Hub."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make: config, weights and processor.")],
    tokenizer: common.Tokenizer = None,
    config: common.Config = None,
    weights: common.Weights = None,
    base: common.Base = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Turn another project's checkpoint into a folder that every command takes. The file is read, never run.

    Read are IDEA Grounding DINO, Open-GroundingDino, mmdetection's Grounding DINO, MM-Grounding DINO and LLMDet, and
    OmDet-Turbo; see `medprompt docs checkpoints`.

    Example: `medprompt import epoch_12.pth --tokenizer bert-base-uncased/ --out polyp-checkpoint`
    """
    common.need("torch", "Importing", "export")
    from medprompt.export.api import import_checkpoint as imported

    record = imported(checkpoint, out, tokenizer=tokenizer, config=config, weights=weights, base=base, force=force)
    if as_json:
        common.print_json({"checkpoint": str(out), **record.model_dump(mode="json")})
        return
    for warning in record.warnings:
        print(f"warning: {warning}")
    taken = f" ({record.weights})" if record.weights else ""
    print(f"{out}: {record.format}{taken}. Next: medprompt export {out} --prompts prompts.yaml --out NAME.bundle")
