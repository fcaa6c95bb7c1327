"""Generated prompts: a language model's and an image model's answers become phrases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from medprompt.core.errors import PromptError
from medprompt.core.files import sha256_of_file
from medprompt.generation.answers import Answer, AnswerCache, AskedImage
from medprompt.generation.draft import ASKED, SEEN, GenerationOptions, ImageModel, LanguageModel, PromptTemplateFile
from medprompt.generation.prompt_map import PromptMap
from medprompt.generation.published import Caption, caption_from_phrases
from medprompt.images.read import load_image
from medprompt.prompts.attributes import (
    DEFAULT_TEMPLATE,
    Combination,
    Combine,
    check_known,
    phrases_from_attributes,
    template_fields,
)
from medprompt.prompts.file import checked_prompts
from medprompt.prompts.schema import AttributeOrigin, Origin, Phrase, PromptClass, Prompts


@dataclass(frozen=True)
class Generated:
    """What a run made.

    Attributes:
        prompts: Every distinct phrase once.
        prompt_map: The phrases of each image; empty for ``mlm``.
        captions: Each image's best phrases in the published format; empty for ``mlm``.
        unmatched: How many answers of each attribute held no word that fits; they were dropped.
    """

    prompts: Prompts
    prompt_map: PromptMap
    captions: Mapping[str, Caption]
    unmatched: Mapping[str, int]


def generate_prompts(
    draft: PromptTemplateFile, generator: GenerationOptions, images: Sequence[Path] = (), root: Path | None = None
) -> Generated:
    """Ask the models and make phrases of their answers.

    Args:
        draft: Classes, names, templates and questions.
        generator: The models and the rules.
        images: Image files, for ``vqa`` and ``hybrid``.
        root: Folder that image paths are written relative to, in the map and the captions.

    Raises:
        PromptError: An attribute or question that cannot be used, an answer that is empty, or nothing to ask.
    """
    run = _Run(draft, generator)
    if generator.method == "mlm":
        phrases = {entry.label: run.phrases_by_language(entry) for entry in run.classes}
        return Generated(_with_phrases(draft.prompts, phrases), {}, {}, {})
    if not images:
        raise PromptError("The method needs images.", got="no image", fix="pass images=FOLDER")
    return run.from_images(images, root)


class _Run:
    def __init__(self, draft: PromptTemplateFile, generator: GenerationOptions) -> None:
        self.draft, self.generator, self.classes = draft, generator, draft.prompts.classes
        self.unmatched: Counter[str] = Counter()
        known = draft.prompts.known_attributes
        check_known(generator.asked, known)
        for asked in filter(None, (draft.prompts.questions, *(entry.questions for entry in self.classes))):
            check_known((*asked.mlm, *asked.vqa), known)

    def template(self, entry: PromptClass) -> str:
        return entry.template or self.draft.prompts.template or DEFAULT_TEMPLATE

    def asked(self, entry: PromptClass, kind: Literal["mlm", "vqa"]) -> tuple[str, ...]:
        """Attributes that a class asks one kind of model for."""
        own = entry.template or self.draft.prompts.template
        wanted = self.generator.asked or (template_fields(own, self.draft.prompts.known_attributes) if own else ASKED)
        given = self.draft.words.get(entry.label, {})
        method = self.generator.method
        return tuple(
            name for name in wanted if name not in given and (method != "hybrid" or (name in SEEN) == (kind == "vqa"))
        )

    def question(self, entry: PromptClass, kind: Literal["mlm", "vqa"], attribute: str) -> str:
        for questions in (entry.questions, self.draft.prompts.questions, self.generator.lexicon.questions):
            found = getattr(questions, kind, {}).get(attribute)
            if found:
                return _filled_question(str(found), entry.name_for(kind), kind)
        raise PromptError(
            "There is no question for an attribute.",
            where=f"{entry.label}: {attribute}",
            fix=f"add it to the prompts file: questions: {{{kind}: {{{attribute}: …}}}}",
        )

    def words_by_hand(self, entry: PromptClass) -> dict[str, list[AttributeOrigin]]:
        given = self.draft.words.get(entry.label, {})
        return {key: [AttributeOrigin(value=word) for word in words] for key, words in given.items()}

    def words_by_language(self, entry: PromptClass) -> dict[str, list[AttributeOrigin]]:
        found = {}
        for name in self.asked(entry, "mlm"):
            model = self._language_model()
            question = self.question(entry, "mlm", name)
            answers = model.answers(question, self.generator.lexicon.words(name), self.generator.top_k)
            asked = {"source": "mlm", "question": question, "model": model.fingerprint}
            found[name] = [AttributeOrigin(value=one.text, probability=one.probability, **asked) for one in answers]
            if not found[name]:
                raise PromptError("The language model's answer is empty.", where=question, fix="ask in other words")
        return found

    def phrases_by_language(self, entry: PromptClass) -> list[Phrase]:
        words = {**self.words_by_hand(entry), **self.words_by_language(entry)}
        if not self.asked(entry, "mlm"):
            raise _nothing_asked(entry)
        return [self.phrase(one, words) for one in self.combinations(entry, words, self.generator.combine)]

    def combinations(
        self, entry: PromptClass, words: Mapping[str, Sequence[AttributeOrigin]], combine: Combine
    ) -> tuple[Combination, ...]:
        return phrases_from_attributes(
            entry.name_for("prompt"),
            {key: [word.value for word in found] for key, found in words.items()},
            self.template(entry),
            free=self.draft.prompts.free_attributes or (),
            combine=combine,
        )

    def phrase(self, combination: Combination, words: Mapping[str, Sequence[AttributeOrigin]], **more: Any) -> Phrase:
        used = {key: words[key][index] for key, index in combination.ranks.items()}
        chances = [word.probability for word in used.values() if word.probability is not None]
        models = dict.fromkeys(word.model for word in used.values() if word.model)
        origin = {
            "model": ", ".join(models) or None,
            "probability": prod(chances) if chances else None,
            "date": self.generator.date,
            "attributes": used or None,
        }
        return Phrase(text=combination.text, source=self.generator.method, origin=Origin(**{**origin, **more}))

    def from_images(self, images: Sequence[Path], root: Path | None) -> Generated:
        if not any(self.asked(entry, "vqa") for entry in self.classes):
            raise _nothing_asked(self.classes[0])
        hashes = {path: sha256_of_file(path) for path in images}
        self._ask_images(hashes)
        hybrid = self.generator.method == "hybrid"
        outside = [self.words_by_hand(e) | (self.words_by_language(e) if hybrid else {}) for e in self.classes]
        seen: dict[str, dict[str, _Seen]] = {entry.label: {} for entry in self.classes}
        names = [entry.name_for("prompt") for entry in self.classes]
        chosen: dict[str, tuple[str, ...]] = {}
        captions: dict[str, Caption] = {}
        for path in images:
            key = path.relative_to(root).as_posix() if root else path.as_posix()
            by_class = [
                self._phrases_of_image(entry, hashes[path], words, seen[entry.label])
                for entry, words in zip(self.classes, outside, strict=True)
            ]
            chosen[key] = tuple(text for phrases in by_class for text in phrases)
            captions[key] = caption_from_phrases([phrases[0] for phrases in by_class], names)
        phrases = {label: [found.collapsed() for found in texts.values()] for label, texts in seen.items()}
        return Generated(_with_phrases(self.draft.prompts, phrases), chosen, captions, dict(self.unmatched))

    def _phrases_of_image(
        self, entry: PromptClass, image: str, outside: Mapping[str, Sequence[AttributeOrigin]], seen: dict[str, _Seen]
    ) -> list[str]:
        inside = {name: self._word_of_image(entry, name, image) for name in self.asked(entry, "vqa")}
        words = {**outside, **{name: [word] for name, word in inside.items() if word is not None}}
        texts = []
        for combination in self.combinations(entry, words, "aligned"):
            phrase = self.phrase(combination, words)
            first = seen.setdefault(phrase.text.casefold(), _Seen(phrase))
            first.count(phrase)
            texts.append(first.phrase.text)
        return texts

    def _word_of_image(self, entry: PromptClass, attribute: str, image: str) -> AttributeOrigin | None:
        question = self.question(entry, "vqa", attribute)
        fingerprint = self._image_model().fingerprint
        answer = self.generator.cache.get(AskedImage(image, question, fingerprint))
        word = self.generator.lexicon.normalised(attribute, answer.text) if answer else None
        if answer is None or word is None:
            self.unmatched[attribute] += 1
            return None
        return AttributeOrigin(
            value=word, source="vqa", question=question, probability=answer.probability, model=fingerprint
        )

    def _language_model(self) -> LanguageModel:
        if self.generator.language_model is None:
            raise PromptError("The method needs a masked language model.", fix="pass mlm=FOLDER")
        return self.generator.language_model

    def _image_model(self) -> ImageModel:
        if self.generator.image_model is None:
            raise PromptError("The method needs a model that answers about images.", fix="pass vqa=FOLDER")
        return self.generator.image_model

    def _ask_images(self, hashes: Mapping[Path, str]) -> None:
        """Fill the cache: each distinct question once for each distinct image."""
        model, cache = self._image_model(), self.generator.cache
        questions = dict.fromkeys(self.question(e, "vqa", name) for e in self.classes for name in self.asked(e, "vqa"))
        tasks = {AskedImage(sha, text, model.fingerprint): path for path, sha in hashes.items() for text in questions}
        waiting = [(asked, path) for asked, path in tasks.items() if cache.get(asked) is None]
        self.generator.progress.step("ask about images", len(waiting))
        for start in range(0, len(waiting), self.generator.batch):
            part = waiting[start : start + self.generator.batch]
            loaded = {path: load_image(path) for path in dict.fromkeys(path for _, path in part)}
            answers = model.answer([loaded[path] for _, path in part], [asked.question for asked, _ in part])
            cache.add((asked, answer) for (asked, _), answer in zip(part, answers, strict=True))
            self.generator.progress.advance(len(part))
        _refuse_empty(tasks, cache)


@dataclass
class _Seen:
    """One distinct phrase, and the images that gave it."""

    phrase: Phrase
    chances: list[float] = field(default_factory=list)
    images: int = 0

    def count(self, phrase: Phrase) -> None:
        self.images += 1
        if phrase.origin and phrase.origin.probability is not None:
            self.chances.append(phrase.origin.probability)

    def collapsed(self) -> Phrase:
        mean = sum(self.chances) / len(self.chances) if self.chances else None
        origin = (self.phrase.origin or Origin()).model_copy(update={"images": self.images, "probability": mean})
        return self.phrase.model_copy(update={"origin": origin})


def _refuse_empty(tasks: Mapping[AskedImage, Path], cache: AnswerCache) -> None:
    empty = [(asked, path) for asked, path in tasks.items() if not (cache.get(asked) or Answer("")).text.strip()]
    if empty:
        asked, path = empty[0]
        raise PromptError(
            f"The model's answer is empty ({len(empty)} of {len(tasks)}).",
            where=f"{path}: {asked.question}",
            fix="ask in other words (questions: in the prompts file), use another model, or leave the image out",
        )


def _filled_question(question: str, name: str, kind: str) -> str:
    needed = ("{name}", "[MASK]") if kind == "mlm" else ()
    if any(part not in question for part in needed) or question.count("[MASK]") > 1:
        raise PromptError(
            "The question cannot be asked.",
            where=question,
            expected="a sentence with {name} and one [MASK], such as 'The color of {name} is [MASK].'",
        )
    return question.replace("{name}", name)


def _nothing_asked(entry: PromptClass) -> PromptError:
    return PromptError(
        "There is no attribute to generate.",
        where=entry.label,
        got="all attributes are given by hand, or none is left for this method",
        fix="take an attribute out of the prompts file, or pass one as ask=",
    )


def _with_phrases(prompts: Prompts, phrases: Mapping[str, Sequence[Phrase]]) -> Prompts:
    classes = [entry.with_phrases(phrases[entry.label]) for entry in prompts.classes]
    return checked_prompts(prompts, classes, "generated prompts")
