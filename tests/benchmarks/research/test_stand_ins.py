"""Stand-ins for published generators: their sentences and questions, and both models trained for a step."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from medprompt.benchmarks.research import stand_ins
from medprompt.benchmarks.research.novel_experiment import Experiment
from medprompt.benchmarks.research.stand_in_mlm import ClozeCollator, stand_in_mlm
from medprompt.benchmarks.research.stand_in_text import (
    Definition,
    Sentence,
    ontology_definitions,
    sentences_from_definitions,
    wordnet_definitions,
)
from medprompt.benchmarks.research.stand_in_vqa import ANSWERS, objects_by_noun, true_word
from medprompt.core.errors import EngineError, InputError
from medprompt.export.finetune.attribute_phrases import ATTRIBUTE_WORDS
from medprompt.export.finetune.samples import Sample
from medprompt.export.finetune.small_models.nano import minilm_folder
from medprompt.export.prompt_tuning.mlm import masked_lm_from_folder
from medprompt.generation.lexicon import lexicon_from_yaml
from medprompt.prompts.schema import Prompts
from tests.benchmarks.research.test_novel import write_set

LEXICON = lexicon_from_yaml()
WORDS = [word.texts[0] for word in ATTRIBUTE_WORDS]


def fits(*rows: str) -> np.ndarray:
    """int8 ``[N, W]``: a row an object, the words that are true of it."""
    return np.array([[1 if word in row.split() else -1 for word in WORDS] for row in rows], np.int8).reshape(-1, 11)


def test_a_gloss_of_wordnet(tmp_path):
    (tmp_path / "data.noun").write_text(
        "  1 This is a licence\n"
        "15023959 27 n 03 platelet 0 blood_platelet 0 thrombocyte 0 001 @ 05432736 n 0000 | tiny bits of protoplasm "
        'found in vertebrate blood; essential for blood clotting; "he lacks platelets"  \n'
    )
    expected = "tiny bits of protoplasm found in vertebrate blood; essential for blood clotting"
    assert wordnet_definitions(tmp_path) == [Definition(("platelet", "blood platelet", "thrombocyte"), expected)]


def test_no_wordnet(tmp_path):
    with pytest.raises(InputError, match="apt-get install wordnet-base"):
        wordnet_definitions(tmp_path)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package with two versions of one ontology, as the real one has."""
    zstandard = pytest.importorskip("zstandard")
    folder = tmp_path / "cellxgene_ontology_guide"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    old = {"A:1": {"label": "old", "description": "An old thing."}}
    new = {
        "A:1": {"label": "platelet", "description": "A small cell. Found in blood.", "synonyms": ["thrombocyte"]},
        "A:2": {"label": "undefined"},
        "A:3": {"label": "x" * 41, "description": "Its name is too long."},
    }
    for name in stand_ins.ontology_definitions.__globals__["ONTOLOGIES"]:
        for version, terms in (("2024-01-01", old), ("2025-01-01", new)):
            packed = zstandard.ZstdCompressor().compress(json.dumps(terms).encode())
            (folder / "data" / f"{name}-ontology-v{version}.json.zst").write_bytes(packed)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("wheel")
def test_the_newest_ontologies_are_read():
    found = ontology_definitions()
    assert len(found) == 5
    assert set(found) == {Definition(("platelet", "thrombocyte"), "A small cell. Found in blood.")}


def test_a_missing_wheel(monkeypatch):
    monkeypatch.setattr("medprompt.benchmarks.research.stand_in_text.find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install cellxgene-ontology-guide"):
        ontology_definitions()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a tiny dot in blood",
            {
                "platelet is a tiny dot in blood": None,
                "The typical size of platelet is tiny.": "tiny",
                "The typical size of thrombocyte is tiny.": "tiny",
                "The location of platelet is at blood.": "blood",
                "The location of thrombocyte is at blood.": "blood",
            },
        ),
        ("a thing", {"platelet is a thing": None}),
    ],
)
def test_a_definition_becomes_sentences_and_questions(text, expected):
    made = sentences_from_definitions([Definition(("platelet", "thrombocyte"), text)], LEXICON)
    assert {sentence.text: sentence.answer for sentence in made} == expected


def test_no_definitions():
    assert sentences_from_definitions([], LEXICON) == []


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_folder())


def test_an_answer_is_what_is_masked(tokenizer):
    collate = ClozeCollator(tokenizer, 0)
    batch = collate([Sentence("The size of a tiny dot is tiny.", "tiny"), Sentence("A cell is small.")])
    asked = batch["labels"][0] >= 0
    assert int(asked.sum()) == 1
    assert tokenizer.decode(batch["labels"][0][asked]) == "tiny"
    assert batch["input_ids"][0][asked].tolist() == [tokenizer.mask_token_id]
    assert "tiny dot" in tokenizer.decode(batch["input_ids"][0])  # the word elsewhere stays
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    assert not special & set(batch["labels"][1].tolist())


def test_a_language_model_in_one_step_fills_blanks(tmp_path):
    loss = stand_in_mlm(tmp_path / "mlm", [Sentence("The color of snow is white.", "white")] * 4, steps=1)
    assert loss > 0
    answers = masked_lm_from_folder(tmp_path / "mlm").answers("The color of snow is [MASK].", ("white", "black"), 2)
    assert {answer.text for answer in answers} == {"white", "black"}


@pytest.mark.parametrize(
    ("rows", "attribute", "expected"),
    [
        (("tiny purple",), "size", "tiny"),
        (("tiny purple", "tiny pink", "large"), "size", "tiny"),
        (("tiny", "large"), "size", None),  # half is not most
        (("tiny purple",), "shape", None),
        ((), "color", None),
    ],
)
def test_the_word_that_is_true_of_most(rows, attribute, expected):
    place = true_word(fits(*rows), attribute)
    assert (None if place is None else ANSWERS[place]) == expected


def test_which_objects_a_noun_means():
    prompts = Prompts.model_validate({"classes": [{"label": "RBC", "phrases": ["red cell"]}]})
    boxes = np.full((3, 4), 0.5, np.float32)
    looks = fits("large pink", "tiny purple", "tiny gray")
    sample = Sample(0, np.zeros((8, 8, 3), np.uint8), boxes, np.array([0, 0, -1]), np.array([True]), word_fits=looks)
    meant = list(objects_by_noun(sample, prompts, np.random.default_rng(0)))
    assert meant[0][0] == "red cell"
    assert [len(found) for _, found in meant] == [2, 2, 3]


def test_a_model_of_questions_in_one_step(tmp_path, monkeypatch):
    write_set(tmp_path / "data" / "smear", ("cell", "dot"))
    experiment = Experiment.model_validate(
        {
            "names": {"cell": ["cell"], "dot": ["dot"]},
            "recipe": {"data": [{"train": "smear/train.json", "val": "smear/val.json"}], "shapes": 4},
            "wordings": {},
        }
    )
    monkeypatch.setattr(stand_ins, "UNSEEN", 8)
    out = tmp_path / "vqa"
    facts = stand_ins.make_vqa(out, experiment, tmp_path / "data", held_out=("dot",), steps=1, seed=0)
    assert facts["images"] == 3
    assert 0 <= facts["right"] <= 1
    assert 0 < facts["right without looking"] <= 1
    assert (out / "model.safetensors").is_file()
    shutil.rmtree(out)
