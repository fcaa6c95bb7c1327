"""``medprompt prompts …``: write, generate, compare, embed and look at prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medprompt.commands import common
from medprompt.commands.base import Command, Group
from medprompt.commands.evaluate import calibrate, evaluate
from medprompt.commands.ranking import best_ranked, check_ranking
from medprompt.commands.search import LexiconPath, search
from medprompt.commands.tune import tune
from medprompt.core.errors import PromptError
from medprompt.core.terminal import Steps, print_table

PANELS = MAKE, MEASURE, LABORATORY = ("Make", "Measure", "Laboratory")
prompts_app = typer.Typer(
    no_args_is_help=True, cls=Group, help="Write, embed, compare, measure, generate and tune prompts."
)

PromptsFile = Annotated[Path, typer.Argument(help="The prompts file (YAML).")]


@prompts_app.command("embed", cls=Command, rich_help_panel=MAKE)
def prompts_embed(
    checkpoint: common.Checkpoint,
    prompts: common.PromptsPath,
    out: common.OutBank,
    force: common.Force = False,
) -> None:
    """Embed the phrases of a prompts file: the bank works in every bundle of the same checkpoint.

    Example: `medprompt prompts embed CKPT --prompts more.yaml --out more.safetensors`
    """
    common.need("torch", "Embedding prompts", "export")
    from medprompt.export.checkpoint import family_from_checkpoint
    from medprompt.export.embed import bank_from_prompts, phrase_warnings
    from medprompt.prompts.bank import BANK, save_bank
    from medprompt.prompts.file import prompts_from_yaml

    common.reserve({"out": (out, BANK)}, [checkpoint, prompts], force=force)
    read = prompts_from_yaml(prompts)
    with Steps("embed") as steps:
        steps.step("load checkpoint")
        family = family_from_checkpoint(checkpoint)
        steps.step(f"embed {len(read.texts)} phrases")
        bank = bank_from_prompts(family, read)
    common.print_warnings(phrase_warnings(family, read.texts))
    save_bank(bank, out)
    made, given = len(bank.prompts.texts), len(read.texts)
    rows = f"{given} phrases" if made == given else f"{given} phrases in {made} embeddings"
    print(f"{out}: {rows}, {len(bank.labels)} classes, encoder {bank.encoder}")


@prompts_app.command("show", cls=Command, rich_help_panel=MAKE)
def prompts_show(prompts: Annotated[Path, typer.Argument(help=common.EITHER)], as_json: common.AsJson = False) -> None:
    """Show the classes, phrases and weights of a prompts file or prompt bank, and a bank's encoder.

    Example: `medprompt prompts show more.safetensors`
    """
    from medprompt.prompts.bank import PromptBank
    from medprompt.prompts.diff import read_either

    read = read_either(prompts)
    if not as_json:
        common.print_prompts(read)
        return
    about = {"encoder": read.encoder, "sha256": read.content_hash()} if isinstance(read, PromptBank) else {}
    content = read.prompts if isinstance(read, PromptBank) else read
    common.print_json({**about, "prompts": content.model_dump(mode="json", exclude_none=True)})


@prompts_app.command("generate", cls=Command, rich_help_panel=LABORATORY)
def prompts_generate(
    prompts: PromptsFile,
    method: Annotated[
        Literal["mlm", "vqa", "hybrid"],
        typer.Option(help="Ask a masked language model (mlm), a model that answers about images (vqa), or both."),
    ],
    out: common.OutPrompts,
    mlm: Annotated[
        str | None, typer.Option(help="The masked language model: a folder, or OWNER/NAME on the Hugging Face Hub.")
    ] = None,
    vqa: Annotated[
        str | None,
        typer.Option(help="The model that answers about images: a folder, or OWNER/NAME on the Hugging Face Hub."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images to ask about, for vqa and hybrid.")] = None,
    prompt_map: common.PromptMap = None,
    captions: Annotated[
        Path | None, typer.Option(help="Write the prompts of each image here, in the published format (JSON).")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="File that keeps the answers between runs. OUT.answers.jsonl by default.")
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="Attribute to ask for; repeat for several. Those of the prompts file by default.", show_default=False
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Answers of the language model to keep for each attribute.")] = 3,
    combine: Annotated[
        Literal["aligned", "product"],
        typer.Option(help="Combine answers of the same rank (aligned), or every answer with every other (product)."),
    ] = "aligned",
    batch: Annotated[int, typer.Option(min=1, help="Images in one call of the model.")] = 8,
    lexicon: LexiconPath = None,
    force: common.Force = False,
) -> None:
    """Ask models for the attributes that a prompts file leaves open.

    Models are read from safetensors only; code and pickle files are never loaded. Run the command again to resume an
    interrupted run.

    Example: `medprompt prompts generate P.yaml --method mlm --mlm pubmedbert --out Q.yaml`
    """
    common.need("torch", "Generating prompts", "export")
    from medprompt.export.prompt_tuning.folder import model_folder
    from medprompt.export.prompt_tuning.mlm import masked_lm_from_folder
    from medprompt.export.prompt_tuning.vqa import visual_qa_from_folder
    from medprompt.generation.answers import AnswerCache
    from medprompt.generation.draft import GenerationOptions, draft_from_yaml
    from medprompt.generation.generate import generate_prompts
    from medprompt.generation.lexicon import lexicon_from_yaml
    from medprompt.generation.prompt_map import PROMPT_MAP, save_prompt_map
    from medprompt.generation.published import CAPTIONS, save_published
    from medprompt.images.read import find_images
    from medprompt.prompts.file import PROMPTS_FILE, save_prompts

    made_files = {"out": (out, PROMPTS_FILE), "prompt_map": (prompt_map, PROMPT_MAP), "captions": (captions, CAPTIONS)}
    common.reserve(made_files, [prompts, lexicon, cache], [images] if images else [], force=force)
    sees = method != "mlm"
    _need_folders(method, mlm, vqa, images)
    draft, words = draft_from_yaml(prompts), lexicon_from_yaml(lexicon)
    paths = find_images([images]) if sees and images else []
    with Steps("generate") as steps:
        steps.step("load the models")
        generator = GenerationOptions(
            method,
            words,
            language_model=masked_lm_from_folder(model_folder(mlm)) if mlm and method != "vqa" else None,
            image_model=visual_qa_from_folder(model_folder(vqa)) if vqa and sees else None,
            asked=tuple(common.split_list(ask)),
            top_k=top_k,
            combine=combine,
            date=common.today(),
            batch=batch,
            cache=AnswerCache((cache or out.with_suffix(".answers.jsonl")) if sees else None),
            progress=steps,
        )
        made = generate_prompts(draft, generator, paths, images)
    save_prompts(made.prompts, out)
    if prompt_map:
        save_prompt_map(made.prompt_map, prompt_map)
    if captions:
        save_published(made.captions, captions)
    print(f"{out}: {len(made.prompts.texts)} phrases, {len(made.prompts.classes)} classes")
    common.print_warnings(
        f"{count} answers about {attribute} contain no word of the lexicon and were dropped"
        for attribute, count in made.unmatched.items()
    )


def _need_folders(method: str, mlm: str | None, vqa: str | None, images: Path | None) -> None:
    language = {} if method == "vqa" else {"mlm": mlm}
    sight = {} if method == "mlm" else {"vqa": vqa, "images": images}
    missing = [option for option, value in {**language, **sight}.items() if value is None]
    if missing:
        raise PromptError(
            f"method={method} needs {' and '.join(f'{name}=' for name in missing)}.",
            where=", ".join(missing),
            fix=f"pass {missing[0]}=FOLDER",
        )


@prompts_app.command("collapse", cls=Command, rich_help_panel=LABORATORY)
def prompts_collapse(
    captions: Annotated[Path, typer.Argument(help="Prompts of each image, in the published format (JSON).")],
    label: Annotated[
        list[str], typer.Option(help="Label of the class; repeat for several, in the order of the file's lists.")
    ],
    out: common.OutPrompts,
    prompt_map: common.PromptMap = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images. Refuse prompts that leave one of them out.")
    ] = None,
    force: common.Force = False,
) -> None:
    """Collect the published prompts of many images in one prompts file, each distinct phrase once.

    Example: `medprompt prompts collapse hybrid_kvasir_top1.json --label polyp --out kvasir.yaml
    --prompt-map map.json`
    """
    from medprompt.generation.prompt_map import PROMPT_MAP, check_prompt_map, save_prompt_map
    from medprompt.generation.published import load_published, prompts_from_published
    from medprompt.images.read import find_images
    from medprompt.prompts.file import PROMPTS_FILE, save_prompts

    made_files = {"out": (out, PROMPTS_FILE), "prompt_map": (prompt_map, PROMPT_MAP)}
    common.reserve(made_files, [captions], [images] if images else [], force=force)
    made, chosen = prompts_from_published(load_published(captions), label)
    if images:
        tails = {Path(key).name: phrases for key, phrases in chosen.items()}
        check_prompt_map(tails, made, [path.name for path in find_images([images])])
    save_prompts(made, out)
    if prompt_map:
        save_prompt_map(chosen, prompt_map)
    print(f"{out}: {len(made.texts)} distinct phrases of {len(chosen)} images")


@prompts_app.command("augment", cls=Command, rich_help_panel=LABORATORY)
def prompts_augment(
    prompts: PromptsFile,
    out: common.OutPrompts,
    synonyms: Annotated[bool, typer.Option(help="Replace attribute words by their synonyms.")] = True,
    degrees: Annotated[bool, typer.Option(help="Put degree words such as 'slightly' before attribute words.")] = True,
    experts: Annotated[bool, typer.Option(help="Add the lexicon's expert descriptions of a class.")] = True,
    pairs_of: Annotated[
        str | None, typer.Option(help="Add 'normal' and 'abnormal' phrases of this word, such as 'tissue'.")
    ] = None,
    max_new: Annotated[int, typer.Option("--max-new", min=1, help="Maximum number of new phrases in a class.")] = 20,
    rank: Annotated[
        Path | None, typer.Option(help="Checkpoint to rank the new phrases with. Only the best ones are kept.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Images without labels: rank by how strongly the model responds to a phrase.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Labelled images: rank by the AP of each phrase on its own.")] = None,
    cache: common.Cache = None,
    lexicon: LexiconPath = None,
    force: common.Force = False,
) -> None:
    """Add phrases: synonyms, degrees, expert descriptions, and pairs of normal and abnormal.

    Example: `medprompt prompts augment P.yaml --out Q.yaml --max-new 10 --rank CKPT --images images/`
    """
    from dataclasses import replace

    from medprompt.generation.augment import Augmentation, augmented_prompts
    from medprompt.generation.lexicon import lexicon_from_yaml
    from medprompt.prompts.attributes import MAX_PHRASES
    from medprompt.prompts.file import PROMPTS_FILE, prompts_from_yaml, save_prompts

    searched = [*([images] if images else []), *common.data_paths(data)]
    common.reserve({"out": (out, PROMPTS_FILE)}, [prompts, rank, lexicon], searched, force=force)
    check_ranking(rank, images, data)
    before = prompts_from_yaml(prompts)
    rules = Augmentation(synonyms, degrees, experts, pairs_of, max_new, common.today())
    wide = replace(rules, max_new=MAX_PHRASES) if rank else rules
    made = augmented_prompts(before, lexicon_from_yaml(lexicon), wide)
    if rank:
        made = best_ranked(rank, before, made, max_new, images=images, data=data, cache=cache)
    save_prompts(made, out)
    print(f"{out}: {len(made.texts)} phrases, {len(made.texts) - len(before.texts)} of them new")


@prompts_app.command("diff", cls=Command, rich_help_panel=MAKE)
def prompts_diff(
    first: Annotated[Path, typer.Argument(help=common.EITHER)],
    second: Annotated[Path, typer.Argument(help=common.EITHER)],
    as_json: common.AsJson = False,
) -> None:
    """List what differs between two prompts files or banks.

    The exit code is 0 where nothing differs, else 1.

    Example: `medprompt prompts diff old.yaml new.yaml`
    """
    from dataclasses import asdict

    from medprompt.prompts.diff import diff_prompts, read_either

    changes = diff_prompts(read_either(first), read_either(second))
    if as_json:
        common.print_json([asdict(change) for change in changes])
    elif changes:
        rows = [(c.kind, c.what, c.where, _shown(c.before), _shown(c.after)) for c in changes]
        print_table(f"{first} → {second}", ["change", "what", "where", "before", "after"], rows)
    else:
        print("no difference")
    if changes:
        raise typer.Exit(1)


def _shown(value: object) -> str:
    return "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@prompts_app.command("packs", cls=Command, rich_help_panel=MAKE)
def prompts_packs(
    name: Annotated[str | None, typer.Argument(help="The pack to write. Without a name, all packs are listed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The prompts file to write (YAML). Without it, the pack is printed.")
    ] = None,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """List the prompt packs that come with medprompt, or write one as a prompts file to edit.

    Example: `medprompt prompts packs polyp-kvasir --out P.yaml`
    """
    from medprompt.core.files import atomic_write
    from medprompt.prompts.file import PROMPTS_FILE, WRITTEN, pack_names, pack_prompts, pack_text

    if name is not None:
        text = pack_text(name)
        if out is None:
            print(text, end="")
            return
        common.reserve({"out": (out, PROMPTS_FILE)}, force=force)
        with atomic_write(out) as aside:
            aside.write_text(WRITTEN + text, encoding="utf-8")
        print(out)
        return
    packs = {pack: pack_prompts(pack) for pack in pack_names()}
    if as_json:
        about = {pack: prompts.about.model_dump(mode="json") for pack, prompts in packs.items() if prompts.about}
        common.print_json(about)
        return
    rows = [
        (pack, ", ".join(entry.label for entry in prompts.classes), len(prompts.texts), prompts.about.zero_shot)
        for pack, prompts in packs.items()
        if prompts.about
    ]
    print_table("Prompt packs", ["pack", "classes", "phrases", "without fine-tuning"], rows)


prompts_app.command("eval", cls=Command, rich_help_panel=MEASURE)(evaluate)
prompts_app.command("calibrate", cls=Command, rich_help_panel=MEASURE)(calibrate)
prompts_app.command("search", cls=Command, rich_help_panel=LABORATORY)(search)
prompts_app.command("tune", cls=Command, rich_help_panel=LABORATORY)(tune)
prompts_app.registered_commands.sort(key=lambda command: PANELS.index(str(command.rich_help_panel)))
