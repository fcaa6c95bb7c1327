"""Cloze questions to a masked language model: "The typical color of polyp is [MASK]." → words with probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.export.prompt_tuning.folder import folder_fingerprint, loaded, loaded_processor, model_type_of_folder
from medprompt.generation.answers import Answer

BLANK = "[MASK]"
"""How a question marks its blank, whatever the tokenizer's own mask token is."""

LONGEST = 3
"""Maximum number of tokens of an answer where any word fits."""

BATCH = 32
WANTED = "a masked language model"


class MaskedLM:
    """Any masked language model of transformers with a fast tokenizer.

    An answer of n tokens stands for n masks. Its probability is the chain p(t1) p(t2 | t1) …: each token is read at
    its mask while those before it are filled in and those after it are still masked.

    Attributes:
        fingerprint: SHA-256 (16 hex digits) of the model folder.
    """

    def __init__(self, model: Any, tokenizer: Any, fingerprint: str) -> None:
        self.model, self.tokenizer, self.fingerprint = model, tokenizer, fingerprint

    def answers(self, question: str, words: Sequence[str] | None, top_k: int) -> tuple[Answer, ...]:
        """Fill the one ``[MASK]`` of a question with one of ``words``; any word where None.

        Returns:
            ``top_k`` or fewer answers with their joint probabilities, best first.

        Raises:
            PromptError: The question has no blank, or is longer than the model reads.
        """
        if question.count(BLANK) != 1:
            raise PromptError("The question needs one blank.", where=question, expected=f"one {BLANK}")
        found = self._open(question, top_k) if words is None else self._scored(question, words)
        found.sort(key=lambda answer: (-(answer.probability or 0.0), answer.text))
        return tuple(found[:top_k])

    def _scored(self, question: str, words: Sequence[str]) -> list[Answer]:
        """Every listed word with its probability."""
        rows = {word: self._masked(question, word) for word in words}
        return [Answer(word, chance) for word, chance in zip(rows, self._chances(list(rows.values())), strict=True)]

    def _masked(self, question: str, word: str) -> tuple[list[int], list[int], list[int]]:
        """The question with ``word`` masked: ids, positions of the masks, ids of the word's tokens."""
        start = question.index(BLANK)
        filled = question.replace(BLANK, word)
        coded = self._coded(filled)
        ids, end = list(coded["input_ids"]), start + len(word)
        positions = [n for n, (a, b) in enumerate(coded["offset_mapping"]) if a < b and a < end and b > start]
        masked = _filled(ids, positions, [self.tokenizer.mask_token_id] * len(positions))
        return masked, positions, [ids[position] for position in positions]

    def _coded(self, text: str) -> Any:
        coded = self.tokenizer(text, return_offsets_mapping=True)
        longest = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))
        if len(coded["input_ids"]) > longest:
            raise PromptError(
                "The question is longer than the model reads.",
                where=text,
                expected=f"{longest} tokens",
                fix="shorten the question or the name in it",
            )
        return coded

    def _chances(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[float]:
        """Joint probability of each row's tokens at its masks."""
        steps = [  # one look-up a token: the ids while the tokens before it are filled in
            (number, _filled(ids, positions[:n], tokens[:n]), positions[n], tokens[n])
            for number, (ids, positions, tokens) in enumerate(rows)
            for n in range(len(tokens))
        ]
        distinct = list(dict.fromkeys((tuple(ids), position) for _, ids, position, _ in steps))
        table = dict(zip(distinct, self._log_chances(distinct), strict=True))
        totals = [0.0] * len(rows)
        for number, ids, position, token in steps:
            totals[number] += float(table[tuple(ids), position][token])
        return list(map(math.exp, totals))

    @torch.no_grad()
    def _log_chances(self, rows: Sequence[tuple[tuple[int, ...], int]]) -> list[Tensor]:
        """Log-probabilities ``[vocabulary]`` at one position of each row of ids."""
        found: list[Tensor] = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            batch = self.tokenizer.pad({"input_ids": [list(ids) for ids, _ in part]}, return_tensors="pt")
            # Offsets count from the left, so padding must stand on the right.
            logits = self.model(**batch).logits.double()
            found.extend(logits[n, position].log_softmax(-1) for n, (_, position) in enumerate(part))
        return found

    def _open(self, question: str, top_k: int) -> list[Answer]:
        """The likeliest words of any kind, of one to ``LONGEST`` tokens, each length by a beam of ``4 top_k``."""
        best: dict[str, float] = {}
        for length in range(1, LONGEST + 1):
            for text, chance in self._beam(question, length, 4 * top_k):
                best[text] = max(best.get(text, 0.0), chance)
        return [Answer(text, chance) for text, chance in best.items()]

    def _beam(self, question: str, length: int, width: int) -> list[tuple[str, float]]:
        ids = list(self._coded(question.replace(BLANK, " ".join([self.tokenizer.mask_token] * length)))["input_ids"])
        positions = [n for n, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        banned = list(self.tokenizer.all_special_ids)
        for step in range(length):
            rows = [(tuple(_filled(ids, positions[:step], tokens)), positions[step]) for tokens, _ in beams]
            grown = []
            for (tokens, total), chances in zip(beams, self._log_chances(rows), strict=True):
                chances[banned] = -torch.inf
                top = chances.topk(min(width, len(chances)))
                grown += [
                    ((*tokens, int(token)), total + float(value))
                    for value, token in zip(top.values, top.indices, strict=True)
                ]
            beams = sorted(grown, key=lambda beam: -beam[1])[:width]
        decoded = [(self.tokenizer.decode(list(tokens)).strip(), total) for tokens, total in beams]
        return [
            (text, math.exp(total))
            for text, total in decoded
            if text.replace(" ", "").replace("-", "").isalpha() and "#" not in text
        ]


def _filled(ids: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[int]:
    copy = list(ids)
    for position, token in zip(positions, tokens, strict=True):
        copy[position] = token
    return copy


def masked_lm_from_folder(folder: Path) -> MaskedLM:
    """Load a masked language model and its fast tokenizer from where ``save_pretrained`` put them.

    Raises:
        CheckpointError: Another kind of model, damaged or missing weights, or no fast tokenizer with a mask token.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    model_type_of_folder(folder, MODEL_FOR_MASKED_LM_MAPPING_NAMES, WANTED)
    tokenizer = loaded_processor(AutoTokenizer, folder)
    if not getattr(tokenizer, "is_fast", False) or tokenizer.mask_token_id is None:
        raise CheckpointError(
            "The tokenizer cannot ask cloze questions.",
            where=str(folder),
            expected="a fast tokenizer (tokenizer.json) with a mask token",
        )
    tokenizer.padding_side = "right"
    return MaskedLM(loaded(AutoModelForMaskedLM, folder, WANTED), tokenizer, folder_fingerprint(folder))
