import pytest
import torch

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.export.prompt_tuning.mlm import masked_lm_from_folder
from medprompt.generation.draft import GenerationOptions, PromptTemplateFile
from medprompt.generation.generate import generate_prompts
from medprompt.generation.lexicon import lexicon_from_yaml
from medprompt.prompts.schema import Prompts
from tests.export.prompt_tuning.models import FACTS

LEXICON = lexicon_from_yaml()


@pytest.fixture(scope="module")
def model(mlm_folder):
    return masked_lm_from_folder(mlm_folder)


@pytest.mark.parametrize("attribute", ["color", "shape", "location"])
@pytest.mark.parametrize("name", FACTS)
def test_the_facts_come_back(model, name, attribute):
    question = LEXICON.questions.mlm[attribute].replace("{name}", name)
    best = model.answers(question, LEXICON.words(attribute), 3)
    assert best[0].text == FACTS[name][attribute]
    assert 1 >= best[0].probability >= best[1].probability >= best[2].probability >= 0
    assert best[0].probability > 0.5


def test_a_joint_probability_is_the_chain_of_its_tokens(model):
    """ "reddish" is red + ##dish: p(red at the first of two masks) times p(##dish once red stands there)."""
    tokenizer, question = model.tokenizer, "The typical color of ulcer is [MASK]."
    bei, ge = tokenizer.convert_tokens_to_ids(["bei", "##ge"])

    def chance(filled, token):
        ids = tokenizer(question.replace("[MASK]", filled))["input_ids"]
        with torch.no_grad():
            place = ids.index(tokenizer.mask_token_id)
            return model.model(input_ids=torch.tensor([ids])).logits.double()[0, place].softmax(-1)[token].item()

    expected = chance("[MASK] [MASK]", bei) * chance("bei [MASK]", ge)
    assert model.answers(question, ["beige", "pink"], 1)[0].probability == pytest.approx(expected, rel=1e-6)


def test_any_word_where_there_is_no_list(model):
    assert model.answers("The typical color of polyp is [MASK].", None, 1)[0].text == "pink"
    assert model.answers("The location of nodule is at [MASK].", None, 1)[0].text == "lung"


@pytest.mark.parametrize(
    ("question", "words"),
    [("no blank", "one [MASK]"), ("[MASK] [MASK]", "one [MASK]"), ("[MASK]" + " b" * 40, "longer")],
)
def test_questions_that_cannot_be_asked(model, question, words):
    with pytest.raises(PromptError, match=words.replace("[", r"\[").replace("]", r"\]")):
        model.answers(question, ["pink"], 1)


def prompts(**more):
    entry = {"label": "Polyp", "names": {"mlm": "polyp", "prompt": "bump"}, "phrases": ["x"], **more}
    return Prompts.model_validate({"classes": [entry]})


@pytest.mark.parametrize(("combine", "count"), [("aligned", 2), ("product", 8)])
def test_generated_phrases_know_their_origin(model, combine, count):
    rules = GenerationOptions("mlm", LEXICON, model, top_k=2, combine=combine, date="2026-01-31")
    made = generate_prompts(PromptTemplateFile(prompts(), {}), rules).prompts
    phrases = made.classes[0].phrases
    assert len(phrases) == count
    assert phrases[0].text == "pink oval bump in rectum"
    origin = phrases[0].origin
    assert (phrases[0].source, origin.model, origin.date) == ("mlm", model.fingerprint, "2026-01-31")
    assert origin.attributes["color"].question == "The typical color of polyp is [MASK]."
    parts = [word.probability for word in origin.attributes.values()]
    assert origin.probability == pytest.approx(parts[0] * parts[1] * parts[2])


def test_words_by_hand_are_used_and_not_asked_for(model):
    rules = GenerationOptions("mlm", LEXICON, model, asked=("color", "location"), top_k=1)
    made = generate_prompts(PromptTemplateFile(prompts(), {"Polyp": {"location": ("colon",)}}), rules).prompts
    assert made.texts == ("pink bump in colon",)
    assert made.classes[0].phrases[0].origin.attributes["location"].source == "manual"


def test_questions_of_the_file_win_over_the_lexicon(model):
    own = prompts(questions={"mlm": {"color": "A {name} is [MASK] in color."}})
    made = generate_prompts(
        PromptTemplateFile(own, {}), GenerationOptions("mlm", LEXICON, model, asked=("color",), top_k=1)
    ).prompts
    assert made.classes[0].phrases[0].origin.attributes["color"].question == "A polyp is [MASK] in color."
    assert made.texts == ("pink bump",)


def test_folders_of_the_wrong_kind(tmp_path, vqa_folder, mlm_folder):
    with pytest.raises(CheckpointError, match=r"wrong kind.*masked language model"):
        masked_lm_from_folder(vqa_folder)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        masked_lm_from_folder(tmp_path)
    (tmp_path / "config.json").write_bytes((mlm_folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="safetensors"):
        masked_lm_from_folder(tmp_path)


def test_a_model_without_the_head_is_refused(tmp_path, mlm_folder):
    from transformers import AutoTokenizer, BertModel

    BertModel.from_pretrained(mlm_folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(mlm_folder).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="at random"):
        masked_lm_from_folder(tmp_path)
