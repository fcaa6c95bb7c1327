"""Banks of questions: from the bundle's own bank, from others, and by the text encoder of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medprompt.benchmarks.audit.asking import Asker, encode_question
from medprompt.core.errors import BankError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.embed import bank_from_prompts
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.schema import Prompts
from medprompt.prompts.wording import KINDS, Question, Unasked, Wording, read_wording
from tests.tiny import TINY

PROMPTS = Prompts.model_validate(
    {
        "classes": [
            {"label": "RBC", "phrases": ["red blood cell", "red disc"], "threshold": 0.3},
            {"label": "polyp", "phrases": ["polyp"]},
        ]
    }
)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_every_family_is_asked_or_says_why_not(kind: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    family = family_from_checkpoint(tiny_checkpoint(kind))
    bank = bank_from_prompts(family, PROMPTS)
    asker = Asker(bank, read_wording(), lambda prompts: encode_question(family, prompts))
    found = list(asker.ask("RBC"))
    asked = [one for one in found if not isinstance(one, Unasked)]
    why = {one.kind: one.why for one in found if isinstance(one, Unasked)}
    assert {question.kind for question, _ in asked} | why.keys() == KINDS.keys()
    assert set(why) <= {"empty", "absent", "filler", "translated", "synonyms"}, why
    for question, made in [(None, asker.own("RBC")), *asked]:
        assert made.labels == ("RBC",)
        assert made.encoder == bank.encoder
        assert made.prompts.classes[0].threshold == 0.3
        assert made.texts == (question.texts if question else ("red blood cell", "red disc"))


def bank_of(prompts: Prompts, layout: str = "phrase") -> PromptBank:
    vectors = np.arange(len(prompts.texts), dtype=np.float32)[:, None]
    counts = np.ones(len(prompts.texts), dtype=np.int64)
    return PromptBank(prompts, "encoder", {"v": vectors}, {"v": layout}, counts)  # type: ignore[dict-item]


def test_another_class_keeps_its_tensors_and_gets_the_label() -> None:
    ((question, made),) = [
        one for one in Asker(bank_of(PROMPTS), Wording()).ask("polyp") if not isinstance(one, Unasked)
    ]
    assert question == Question("exchanged", "RBC", ("red blood cell", "red disc"))
    assert made.labels == ("polyp",)
    assert made.tensors["v"].tolist() == [[0], [1]]
    assert made.prompts.classes[0].threshold is None


def test_a_class_of_another_bank_is_absent_unless_the_bundle_has_it() -> None:
    other = Prompts.model_validate({"classes": [{"label": n, "phrases": [n]} for n in ("Polyp", "tram")]})
    asker = Asker(bank_of(PROMPTS), Wording(), absent=(bank_of(other),))
    names = [one[0].name for one in asker.ask("RBC") if not isinstance(one, Unasked) and one[0].kind == "absent"]
    assert names == ["tram"]


def test_a_bank_of_one_text_needs_the_checkpoint() -> None:
    with pytest.raises(BankError, match="reads all phrases as one text"):
        Asker(bank_of(PROMPTS, "caption"), Wording()).own("polyp")
    encoded = Asker(bank_of(PROMPTS, "caption"), Wording(), bank_of).own("polyp")
    assert encoded.texts == ("polyp",)
