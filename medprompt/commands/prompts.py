"""``medprompt prompts …``: write, generate, compare, embed and look at prompts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medprompt.commands.common import (
    AsJson,
    Checkpoint,
    Force,
    PromptsPath,
    need,
    print_json,
    print_prompts,
    refuse_existing,
    today,
)
from medprompt.commands.ranking import best_ranked, check_ranking
from medprompt.core.errors import PromptError

if TYPE_CHECKING:
    from medprompt.generation.draft import ImageModel, LanguageModel

prompts_app = typer.Typer(no_args_is_help=True, help="Write, generate, compare, embed and look at prompts.")

PromptsFile = Annotated[Path, typer.Argument(help="Prompts file (YAML).")]
OutYaml = Annotated[Path, typer.Option("--out", help="Prompts file to write (YAML).")]
LexiconPath = Annotated[Path | None, typer.Option("--lexicon", help="Your copy of lexicon.yaml.")]
MapPath = Annotated[Path | None, typer.Option("--map", help="Write which phrases each image got (JSON).")]


class MethodName(StrEnum):
    """How prompts are generated."""

    mlm = "mlm"
    vqa = "vqa"
    hybrid = "hybrid"


class CombineName(StrEnum):
    """How a language model's answers are put together."""

    aligned = "aligned"
    product = "product"


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

    refuse_existing(force, out)
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


@prompts_app.command("generate")
def prompts_generate(
    prompts: PromptsFile,
    method: Annotated[MethodName, typer.Option(help="Ask a language model, a model that sees the images, or both.")],
    out: OutYaml,
    mlm: Annotated[str | None, typer.Option(help="Masked language model: a folder, or OWNER/NAME of the Hub.")] = None,
    vqa: Annotated[str | None, typer.Option(help="Model that answers about images: a folder, or OWNER/NAME.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images, for vqa and hybrid.")] = None,
    image_map: MapPath = None,
    captions: Annotated[Path | None, typer.Option(help="Write per-image prompts in the published format.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Answers so far; OUT.answers.jsonl by default.")] = None,
    ask: Annotated[str, typer.Option(help="Attributes to ask for, by commas; else those of the template.")] = "",
    top_k: Annotated[int, typer.Option(min=1, help="Answers of the language model an attribute.")] = 3,
    combine: Annotated[CombineName, typer.Option(help="Ranks together, or every combination.")] = CombineName.aligned,
    batch: Annotated[int, typer.Option(min=1, help="Images a call of the model.")] = 8,
    lexicon: LexiconPath = None,
    force: Force = False,
) -> None:
    """Ask models for the attributes that a prompts file leaves open. A killed run goes on from its cache.

    A model is a folder, or is fetched from the Hugging Face Hub (safetensors alone; a pickle or code is never read).

    Example: `medprompt prompts generate P.yaml --method mlm --mlm pubmedbert --out Q.yaml`
    """
    need("torch", "Generating prompts", "export")
    from medprompt.core.terminal import Steps
    from medprompt.generation.answers import AnswerCache
    from medprompt.generation.draft import GenerationOptions, draft_from_yaml
    from medprompt.generation.generate import generate_prompts
    from medprompt.generation.lexicon import lexicon_from_yaml
    from medprompt.generation.prompt_map import save_prompt_map
    from medprompt.generation.published import save_published
    from medprompt.images.read import find_images
    from medprompt.prompts.file import save_prompts

    refuse_existing(force, out, image_map, captions)
    sees = method is not MethodName.mlm
    _need_folders(method, mlm, vqa, images)
    draft, words = draft_from_yaml(prompts), lexicon_from_yaml(lexicon)
    paths = find_images([images]) if sees and images else []
    with Steps("generate") as steps:
        generator = GenerationOptions(
            method.value,
            words,
            language_model=_language_model(mlm) if mlm and method is not MethodName.vqa else None,
            image_model=_image_model(vqa) if vqa and sees else None,
            asked=tuple(filter(None, (name.strip() for name in ask.split(",")))),
            top_k=top_k,
            combine=combine.value,
            date=today(),
            batch=batch,
            cache=AnswerCache((cache or out.with_suffix(".answers.jsonl")) if sees else None),
            progress=steps,
        )
        made = generate_prompts(draft, generator, paths, images)
    save_prompts(made.prompts, out)
    if image_map:
        save_prompt_map(made.prompt_map, image_map)
    if captions:
        save_published(made.captions, captions)
    print(f"{out}: {len(made.prompts.texts)} phrases, {len(made.prompts.classes)} classes")
    for attribute, count in made.unmatched.items():
        print(f"warning: {count} answers about {attribute} held no word of the lexicon and were dropped")


def _need_folders(method: MethodName, mlm: str | None, vqa: str | None, images: Path | None) -> None:
    by_method: dict[MethodName, dict[str, object]] = {
        MethodName.mlm: {"--mlm": mlm},
        MethodName.vqa: {"--vqa": vqa, "--images": images},
        MethodName.hybrid: {"--mlm": mlm, "--vqa": vqa, "--images": images},
    }
    missing = [option for option, value in by_method[method].items() if value is None]
    if missing:
        raise PromptError(f"--method {method.value} needs {' and '.join(missing)}.", fix=f"pass {missing[0]} FOLDER")


def _language_model(source: str) -> LanguageModel:
    from medprompt.export.prompt_tuning.hub import model_folder
    from medprompt.export.prompt_tuning.mlm import masked_lm_from_folder

    return masked_lm_from_folder(model_folder(source))


def _image_model(source: str) -> ImageModel:
    from medprompt.export.prompt_tuning.hub import model_folder
    from medprompt.export.prompt_tuning.vqa import visual_qa_from_folder

    return visual_qa_from_folder(model_folder(source))


@prompts_app.command("collapse")
def prompts_collapse(
    captions: Annotated[Path, typer.Argument(help="Per-image prompts in the published format (JSON).")],
    label: Annotated[list[str], typer.Option(help="What a report calls the class; repeat in the order of the lists.")],
    out: OutYaml,
    image_map: MapPath = None,
    images: Annotated[Path | None, typer.Option(help="Folder whose every image must have a prompt.")] = None,
    force: Force = False,
) -> None:
    """Collapse published per-image prompts into a prompts file that holds every distinct phrase once.

    Example: `medprompt prompts collapse hybrid_kvasir_top1.json --label polyp --out kvasir.yaml --map map.json`
    """
    from medprompt.generation.prompt_map import check_prompt_map, save_prompt_map
    from medprompt.generation.published import load_published, prompts_from_published
    from medprompt.images.read import find_images
    from medprompt.prompts.file import save_prompts

    refuse_existing(force, out, image_map)
    made, chosen = prompts_from_published(load_published(captions), label)
    if images:
        tails = {Path(key).name: phrases for key, phrases in chosen.items()}
        check_prompt_map(tails, made, [path.name for path in find_images([images])])
    save_prompts(made, out)
    if image_map:
        save_prompt_map(chosen, image_map)
    print(f"{out}: {len(made.texts)} distinct phrases of {len(chosen)} images")


@prompts_app.command("augment")
def prompts_augment(
    prompts: PromptsFile,
    out: OutYaml,
    synonyms: Annotated[bool, typer.Option(help="Replace attribute words by synonyms.")] = True,
    degrees: Annotated[bool, typer.Option(help="Put degree words before attribute words.")] = True,
    experts: Annotated[bool, typer.Option(help="Add the lexicon's descriptions of a class.")] = True,
    pairs_of: Annotated[str | None, typer.Option(help="Add normal and abnormal of this, as 'tissue'.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Most new phrases a class.")] = 20,
    rank: Annotated[Path | None, typer.Option(help="Checkpoint that ranks the new phrases: the best are kept.")] = None,
    images: Annotated[Path | None, typer.Option(help="Images without labels: rank by the model's response.")] = None,
    data: Annotated[str | None, typer.Option(help="Labelled set: rank by the AP of each phrase alone.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps image features between runs.")] = None,
    lexicon: LexiconPath = None,
    force: Force = False,
) -> None:
    """Add phrases: synonyms, degrees, expert descriptions, pairs of normal and abnormal.

    Example: `medprompt prompts augment P.yaml --out Q.yaml --most 10 --rank CKPT --images images/`
    """
    from dataclasses import replace

    from medprompt.generation.augment import Augmentation, augmented_prompts
    from medprompt.generation.lexicon import lexicon_from_yaml
    from medprompt.prompts.attributes import MAX_PHRASES
    from medprompt.prompts.file import prompts_from_yaml, save_prompts

    refuse_existing(force, out)
    check_ranking(rank, images, data)
    before = prompts_from_yaml(prompts)
    rules = Augmentation(synonyms, degrees, experts, pairs_of, most, today())
    wide = replace(rules, max_new=MAX_PHRASES) if rank else rules
    made = augmented_prompts(before, lexicon_from_yaml(lexicon), wide)
    if rank:
        made = best_ranked(rank, before, made, most, images=images, data=data, cache=cache)
    save_prompts(made, out)
    print(f"{out}: {len(made.texts)} phrases, {len(made.texts) - len(before.texts)} of them new")


@prompts_app.command("diff")
def prompts_diff(
    first: Annotated[Path, typer.Argument(help="Prompts file or bank.")],
    second: Annotated[Path, typer.Argument(help="Prompts file or bank.")],
    as_json: AsJson = False,
) -> None:
    """List what differs between two prompts files or banks. Exit 0: nothing; 1: something.

    Example: `medprompt prompts diff old.yaml new.yaml`
    """
    from dataclasses import asdict

    from medprompt.core.terminal import print_table
    from medprompt.prompts.diff import diff_prompts, read_either

    changes = diff_prompts(read_either(first), read_either(second))
    if as_json:
        print_json([asdict(change) for change in changes])
    elif changes:
        rows = [(c.kind, c.what, c.where, _shown(c.before), _shown(c.after)) for c in changes]
        print_table(f"{first} → {second}", ["change", "what", "where", "before", "after"], rows)
    else:
        print("no difference")
    if changes:
        raise typer.Exit(1)


def _shown(value: object) -> str:
    return "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@prompts_app.command("packs")
def prompts_packs(
    name: Annotated[str | None, typer.Argument(help="Pack to write; without it they are listed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Prompts file to write (YAML).")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """List the shipped prompt packs, or write one as a prompts file to edit.

    Example: `medprompt prompts packs polyp-kvasir --out P.yaml`
    """
    from medprompt.core.files import atomic_write
    from medprompt.core.terminal import print_table
    from medprompt.prompts.pack import pack_names, pack_prompts, pack_text

    if name is not None:
        text = pack_text(name)
        if out is None:
            print(text, end="")
            return
        refuse_existing(force, out)
        with atomic_write(out) as aside:
            aside.write_text(text, encoding="utf-8")
        print(out)
        return
    packs = {pack: pack_prompts(pack) for pack in pack_names()}
    if as_json:
        about = {pack: prompts.about.model_dump(mode="json") for pack, prompts in packs.items() if prompts.about}
        print_json(about)
        return
    rows = [
        (pack, ", ".join(entry.label for entry in prompts.classes), len(prompts.texts), prompts.about.zero_shot)
        for pack, prompts in packs.items()
        if prompts.about
    ]
    print_table("Prompt packs", ["pack", "classes", "phrases", "without fine-tuning"], rows)
