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
    for question, made in asked:
        if question.kind == "beside":
            assert (question.name, made) == ("all others", bank)
    for question, made in [(None, asker.own("RBC")), *(one for one in asked if one[0].kind != "beside")]:
        assert made.labels == ("RBC",)
        assert made.encoder == bank.encoder
        assert made.prompts.classes[0].threshold == 0.3
        assert made.texts == (question.texts if question else ("red blood cell", "red disc"))


def bank_of(prompts: Prompts, layout: str = "phrase") -> PromptBank:
    vectors = np.arange(len(prompts.texts), dtype=np.float32)[:, None]
    counts = np.ones(len(prompts.texts), dtype=np.int64)
    return PromptBank(prompts, "encoder", {"v": vectors}, {"v": layout}, counts)  # type: ignore[dict-item]


def test_another_class_keeps_its_tensors_and_gets_the_label() -> None:
    question, made = next(
        one for one in Asker(bank_of(PROMPTS), Wording()).ask("polyp") if not isinstance(one, Unasked)
    )
    assert question == Question("exchanged", "RBC", ("red blood cell", "red disc"))
    assert made.labels == ("polyp",)
    assert made.tensors["v"].tolist() == [[0], [1]]
    assert made.prompts.classes[0].threshold is None


THREE = Prompts.model_validate(
    {"classes": [{"label": n, "phrases": [f"{n} {k}" for k in range(2)], "threshold": 0.3} for n in "abc"]}
)


@pytest.mark.parametrize("layout", ["phrase", "caption"])
@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        ("abc", {"all others": "abc", "all others but a": "bc", "all others but c": "ab"}),
        ("ab", {"all others": "ab"}),  # b without a is b alone
        ("b", {}),
    ],
)
def test_a_class_is_asked_beside_the_others_and_without_each(labels: str, asked: dict[str, str], layout: str) -> None:
    prompts = THREE.with_classes([entry for entry in THREE.classes if entry.label in labels])
    encoded = bank_of if layout == "phrase" else lambda prompts: bank_of(prompts, "caption")
    found = Asker(encoded(prompts), Wording(), encoded).ask("b")
    banks = {one[0].name: one[1] for one in found if not isinstance(one, Unasked) and one[0].kind == "beside"}
    assert {name: "".join(bank.labels) for name, bank in banks.items()} == asked
    for bank in banks.values():
        assert bank.texts == tuple(f"{label} {k}" for label in bank.labels for k in range(2))
        assert all(entry.threshold == 0.3 for entry in bank.prompts.classes)
        rows = [2 * labels.index(label) + k for label in bank.labels for k in range(2)]
        assert layout == "caption" or bank.tensors["v"][:, 0].tolist() == rows


def test_banks_without_a_class_are_made_once() -> None:
    asker = Asker(bank_of(THREE), Wording())
    asked = [one for label in "ab" for one in asker.ask(label) if not isinstance(one, Unasked)]
    of_a, of_b = (bank for question, bank in asked if question.name == "all others but c")
    assert of_a is of_b


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
