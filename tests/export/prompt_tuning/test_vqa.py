import numpy as np
import pytest
import torch
from PIL import Image

from medprompt.core.errors import CheckpointError, PromptError
from medprompt.export.prompt_tuning.mlm import masked_lm_from_folder
from medprompt.export.prompt_tuning.vqa import visual_qa_from_folder
from medprompt.generation.answers import Answer, AnswerCache
from medprompt.generation.draft import GenerationOptions, PromptTemplateFile
from medprompt.generation.generate import generate_prompts
from medprompt.generation.lexicon import lexicon_from_yaml
from medprompt.generation.prompt_map import check_prompt_map
from medprompt.images.read import find_images, load_image
from medprompt.prompts.schema import Prompts
from tests.export.prompt_tuning.models import COLORS, word_tokenizer

LEXICON = lexicon_from_yaml()
COLOR, SHAPE = "What is the color of this bump?", "What is the shape of this bump?"
DRAFT = PromptTemplateFile(
    Prompts.model_validate(
        {"classes": [{"label": "Polyp", "names": {"mlm": "polyp", "vqa": "bump", "prompt": "bump"}, "phrases": ["x"]}]}
    ),
    {},
)


@pytest.fixture(scope="module")
def model(vqa_folder):
    return visual_qa_from_folder(vqa_folder)


def test_the_colours_of_unseen_shapes_are_named(model, shapes_folder):
    paths = find_images([shapes_folder])
    answers = model.answer([load_image(path) for path in paths], [COLOR] * len(paths))
    assert [answer.text for answer in answers] == [path.name.split("-")[0] for path in paths]
    assert all(0.5 < answer.probability <= 1 for answer in answers)
    assert model.answer([load_image(paths[0])], [SHAPE])[0].text == "round"


def test_a_batch_answers_as_single_images_do(model, shapes_folder):
    images = [load_image(path) for path in find_images([shapes_folder])[:3]]
    batch = model.answer(images, [COLOR, SHAPE, COLOR])
    single = [model.answer([image], [text])[0] for image, text in zip(images, [COLOR, SHAPE, COLOR], strict=True)]
    assert [answer.text for answer in batch] == [answer.text for answer in single]
    expected = [answer.probability for answer in single]
    assert [answer.probability for answer in batch] == pytest.approx(expected, abs=1e-4)


def test_images_of_other_sizes_and_shades_in_one_batch(model):
    sizes = [(20, 60), (64, 30), (32, 32)]
    images = [np.full((*size, 3), 120, np.uint8) for size in sizes]
    assert len(model.answer(images, [COLOR] * 3)) == 3


class Killed(RuntimeError):
    pass


class Counting:
    """Counts the questions; dies after ``lives`` calls."""

    def __init__(self, model, lives=99):
        self.model, self.lives, self.asked = model, lives, 0
        self.fingerprint = model.fingerprint

    def answer(self, images, questions):
        if self.lives == 0:
            raise Killed
        self.lives -= 1
        self.asked += len(questions)
        return self.model.answer(images, questions)


def test_distinct_phrases_once_and_a_map(model, shapes_folder):
    paths = find_images([shapes_folder])
    made = generate_prompts(
        DRAFT, GenerationOptions("vqa", LEXICON, image_model=model, asked=("color",), batch=5), paths, shapes_folder
    )
    assert sorted(made.prompts.texts) == sorted(f"{color} bump" for color in COLORS)
    assert all(phrase.origin.images == 3 and phrase.source == "vqa" for phrase in made.prompts.classes[0].phrases)
    assert made.prompt_map["blue-1.png"] == ("blue bump",)
    caption = made.captions["blue-1.png"]
    assert (caption.caption, caption.prefix, caption.name, caption.suffix) == (
        "blue bump",
        ("blue ",),
        ("bump",),
        ("",),
    )
    check_prompt_map(made.prompt_map, made.prompts, [path.name for path in paths])
    with pytest.raises(PromptError, match="missing from the prompt map"):
        check_prompt_map(made.prompt_map, made.prompts, ["new.png"])


def test_a_killed_run_goes_on_from_its_cache(model, shapes_folder, tmp_path):
    paths, cache = find_images([shapes_folder]), tmp_path / "answers.jsonl"

    def run(counting):
        rules = GenerationOptions(
            "vqa", LEXICON, image_model=counting, asked=("color",), batch=4, cache=AnswerCache(cache)
        )
        return generate_prompts(DRAFT, rules, paths, shapes_folder)

    with pytest.raises(Killed):
        run(Counting(model, lives=2))
    assert len(cache.read_text().splitlines()) == 8
    with cache.open("a") as handle:
        handle.write('{"image": "torn')  # killed while it wrote
    second, third = Counting(model), Counting(model)
    resumed = run(second)
    assert second.asked == 4
    assert run(third) == resumed
    assert third.asked == 0
    fresh = generate_prompts(
        DRAFT, GenerationOptions("vqa", LEXICON, image_model=model, asked=("color",), batch=4), paths, shapes_folder
    )
    assert (fresh.prompts.texts, fresh.prompt_map) == (resumed.prompts.texts, resumed.prompt_map)


def test_hybrid_takes_location_from_the_language_model(model, mlm_folder, shapes_folder):
    language = masked_lm_from_folder(mlm_folder)
    rules = GenerationOptions("hybrid", LEXICON, language, model, top_k=1)
    made = generate_prompts(DRAFT, rules, find_images([shapes_folder]), shapes_folder)
    assert sorted(made.prompts.texts) == sorted(f"{color} round bump in rectum" for color in COLORS)
    words = made.prompts.classes[0].phrases[0].origin.attributes
    assert {name: word.source for name, word in words.items()} == {"color": "vqa", "shape": "vqa", "location": "mlm"}
    assert made.prompts.classes[0].phrases[0].origin.model == f"{model.fingerprint}, {language.fingerprint}"


class Says:
    fingerprint = "says"

    def __init__(self, text):
        self.text = text

    def answer(self, images, questions):
        return tuple(Answer(self.text, 0.5) for _ in questions)


def test_an_empty_answer_is_refused_and_a_stray_one_dropped(shapes_folder):
    paths = find_images([shapes_folder])
    with pytest.raises(PromptError, match="answer is empty"):
        generate_prompts(DRAFT, GenerationOptions("vqa", LEXICON, image_model=Says(" "), asked=("color",)), paths)
    made = generate_prompts(
        DRAFT, GenerationOptions("vqa", LEXICON, image_model=Says("a bicycle"), asked=("color",)), paths, shapes_folder
    )
    assert made.prompts.texts == ("bump",)
    assert made.unmatched == {"color": 12}


def test_a_folder_of_the_wrong_kind(mlm_folder):
    with pytest.raises(CheckpointError, match=r"wrong kind.*visual-question-answering"):
        visual_qa_from_folder(mlm_folder)


def test_a_model_that_writes_its_answer(tmp_path):
    """BLIP, untrained: what it says is noise, but its own greedy decoding must say the same."""
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    torch.manual_seed(0)
    tokenizer = word_tokenizer([COLOR.replace("?", " ?"), "red green blue"])
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ids = {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**small, **ids, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "projection_dim": 16},
        vision_config={**small, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    BlipForQuestionAnswering(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(tmp_path)
    model = visual_qa_from_folder(tmp_path)
    images = [np.full((32, 32, 3), level, np.uint8) for level in (30, 200)]
    answers = model.answer(images, [COLOR, COLOR])
    inputs = model.processor(images=[Image.fromarray(i) for i in images], text=[COLOR] * 2, return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert [answer.text for answer in answers] == model.processor.batch_decode(tokens, skip_special_tokens=True)
    assert all(0 < answer.probability <= 1 for answer in answers)


def template_text(question):
    return f"user : <image> {question} Answer with one or two words. assistant :"


def test_a_chat_model_is_asked_in_its_template(tmp_path):
    """LLaVA, untrained: the template is used, the answer holds new tokens only."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    tokenizer = word_tokenizer([COLOR.replace("?", " ?"), "user : assistant : answer with one or two words ."])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(**small, vocab_size=len(tokenizer), num_key_value_heads=2, bos_token_id=2,
                                eos_token_id=3, pad_token_id=0),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    template = (
        "{% for m in messages %}user : {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} assistant :"
    )
    side = {"height": 32, "width": 32}
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(tmp_path)
    model = visual_qa_from_folder(tmp_path)
    images = [np.full((32, 32, 3), level, np.uint8) for level in (30, 200)]
    answers = model.answer(images, [COLOR, SHAPE])
    prompts = [template_text(text) for text in (COLOR, SHAPE)]
    pictures = [[Image.fromarray(image)] for image in images]
    inputs = model.processor(images=pictures, text=prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    written = model.processor.batch_decode(tokens, skip_special_tokens=True)
    assert [answer.text for answer in answers] == [text.strip() for text in written]
    assert all(0 < answer.probability <= 1 for answer in answers)
