"""``medprompt prompts …``: write, embed and look at prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medprompt.commands.common import AsJson, Checkpoint, Force, PromptsPath, need, print_json, print_prompts
from medprompt.errors import InputError

prompts_app = typer.Typer(no_args_is_help=True, help="Write, embed and look at prompts.")


@prompts_app.command("embed")
def prompts_embed(
    checkpoint: Checkpoint,
    prompts: PromptsPath,
    out: Annotated[Path, typer.Option(help="Bank to write (safetensors).")],
    force: Force = False,
) -> None:
    """Compute each phrase's tensors once, offline: a bank that drops into any bundle of the same checkpoint.

    Example: `medprompt prompts embed CKPT --prompts more.yaml --out more.safetensors`
    """
    need("torch", "Embedding prompts", "export")
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.embed import bank_from_prompts
    from medprompt.prompts.bank import save_bank
    from medprompt.prompts.file import prompts_from_yaml

    if out.exists() and not force:
        raise InputError("The output exists already.", where=str(out), fix="choose another --out, or pass --force")
    read = prompts_from_yaml(prompts)
    bank = bank_from_prompts(family_from_checkpoint(checkpoint), read)
    save_bank(bank, out)
    print(f"{out}: {len(read.texts)} phrases, {len(bank.labels)} classes, encoder {bank.encoder}")


@prompts_app.command("show")
def prompts_show(
    bank: Annotated[Path, typer.Argument(help="Prompt bank (safetensors).")], as_json: AsJson = False
) -> None:
    """Show a bank's classes, phrases, weights and encoder."""
    from medprompt.prompts.bank import load_bank

    loaded = load_bank(bank)
    if as_json:
        prompts = loaded.prompts.model_dump(mode="json", exclude_none=True)
        print_json({"encoder": loaded.encoder, "sha256": loaded.content_hash(), "prompts": prompts})
    else:
        print_prompts(loaded)
