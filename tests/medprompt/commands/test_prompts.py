"""``medprompt prompts …`` as its users meet it: files in, files out, exit codes, one clear message."""

import json

import numpy as np
import pytest
from PIL import Image

from medprompt.prompts.file import pack_names, prompts_from_yaml
from tests.export.prompt_tuning.models import word_tokenizer

OPEN = "classes: [{label: Polyp, names: {mlm: polyp, vqa: bump, prompt: bump}}]"
CAPTION = {"caption": "pink bump", "prefix": ["pink "], "suffix": [""], "name": ["bump"]}


@pytest.fixture
def run(tmp_path, monkeypatch, cli):
    """``run("diff", …) -> (exit code, stdout, stderr)`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return cli("prompts", *words)

    return call


@pytest.fixture(scope="module")
def mlm(tmp_path_factory):
    """An untrained masked language model: what it answers does not matter here."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("mlm")
    tokenizer = word_tokenizer(["the typical color shape of polyp is pink oval location at rectum ."])
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=48)).save_pretrained(folder)
    tokenizer.model_max_length = 48
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "p.yaml").write_text(OPEN)
    (tmp_path / "full.yaml").write_text("classes: [{label: Polyp, phrases: [small red bump]}]")
    (tmp_path / "captions.json").write_text(json.dumps({"DATA/0.png": CAPTION}))
    (tmp_path / "images").mkdir()
    for n in range(2):
        Image.fromarray(np.full((8, 8, 3), n * 99, np.uint8)).save(tmp_path / f"images/{n}.png")
    return tmp_path


def test_generate_and_read_again(run, folder, mlm):
    code, out, _ = run("generate", "p.yaml", "--method", "mlm", "--mlm", mlm, "--out", "q.yaml", "--top-k", 2)
    assert code == 0
    assert "2 phrases, 1 classes" in out
    made = prompts_from_yaml(folder / "q.yaml")
    assert all(phrase.source == "mlm" and phrase.origin.date for phrase in made.classes[0].phrases)
    assert made.classes[0].names.vqa == "bump"


def test_two_runs_give_the_same_prompts(run, folder, mlm):
    for name in ("a.yaml", "b.yaml"):
        run("generate", "p.yaml", "--method", "mlm", "--mlm", mlm, "--out", name)
    assert run("diff", "a.yaml", "b.yaml")[0] == 0


def test_augment_then_diff(run, folder):
    assert run("augment", "full.yaml", "--out", "more.yaml", "--most", 2)[0] == 0
    code, out, _ = run("diff", "full.yaml", "more.yaml", "--json")
    assert code == 1
    assert [(change["kind"], change["what"]) for change in json.loads(out)] == [("added", "phrase")] * 2
    assert run("diff", "full.yaml", "more.yaml")[0] == 1
    code, out, _ = run("diff", "full.yaml", "full.yaml", "--json")
    assert (code, json.loads(out)) == (0, [])


def test_collapse(run, folder):
    command = ("collapse", "captions.json", "--label", "polyp", "--out", "c.yaml", "--prompt-map", "m.json")
    assert run(*command)[0] == 0
    assert prompts_from_yaml(folder / "c.yaml").texts == ("pink bump",)
    assert json.loads((folder / "m.json").read_text()) == {"DATA/0.png": ["pink bump"]}


def test_packs(run, folder):
    assert all(name in run("packs")[1] for name in pack_names())
    assert set(json.loads(run("packs", "--json")[1])) == set(pack_names())
    assert "zero_shot" in run("packs", "bccd")[1]
    assert run("packs", "bccd", "--out", "bccd.yaml")[0] == 0
    assert [entry.label for entry in prompts_from_yaml(folder / "bccd.yaml").classes] == ["RBC", "WBC", "Platelets"]


BAD = {
    "unknown attribute": ("classes: [{label: a, attributes: {hue: red}}]", [], ["hue", "color, shape"]),
    "unknown field": ("classes: [{label: a, template: '{hue} {name}'}]", [], ["{hue}", "{color}"]),
    "unknown asked": (OPEN, ["--ask", "hue"], ["hue", "color"]),
    "question without blank": (
        "questions: {mlm: {color: 'Which color?'}}\n" + OPEN,
        ["--ask", "color"],
        ["cannot be asked", "[MASK]"],
    ),
    "question of an unknown attribute": ("questions: {mlm: {hue: 'x'}}\n" + OPEN, [], ["hue"]),
    "free attribute without question": (
        "free_attributes: [rim]\n" + OPEN,
        ["--ask", "rim"],
        ["no question", "rim"],
    ),
    "nothing open": (
        "classes: [{label: a, attributes: {color: red}}]",
        ["--ask", "color"],
        ["no attribute to generate"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_prompts_files(run, folder, mlm, case):
    text, options, words = BAD[case]
    (folder / "p.yaml").write_text(text)
    before = sorted(folder.iterdir())
    code, _, err = run("generate", "p.yaml", "--method", "mlm", "--mlm", mlm, "--out", "q.yaml", *options)
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("generate", "p.yaml", "--method", "mlm", "--out", "q.yaml"), ["--mlm"]),
        (("generate", "p.yaml", "--method", "hybrid", "--mlm", "x", "--out", "q.yaml"), ["--vqa and --images"]),
        (("generate", "p.yaml", "--method", "mlm", "--mlm", "images", "--out", "q.yaml"), ["config.json"]),
        (("generate", "p.yaml", "--method", "guess", "--out", "q.yaml"), ["guess"]),
        (("generate", "p.yaml", "--method", "vqa", "--vqa", "MLM", "--images", "images", "--out", "q.yaml"),
         ["wrong kind", "bert"]),
        (("augment", "full.yaml", "--out", "p.yaml"), ["medprompt did not write it"]),
        (("augment", "full.yaml", "--out", "q.yaml", "--lexicon", "no.yaml"), ["no.yaml"]),
        (("collapse", "captions.json", "--label", "a", "--label", "b", "--out", "q.yaml"), ["number of classes"]),
        (("collapse", "captions.json", "--label", "a", "--out", "q.yaml", "--images", "images"),
         ["missing from the prompt map", "1.png"]),
        (("packs", "nothing"), ["nothing", "bccd"]),
        (("diff", "p.yaml", "none.yaml"), ["phrases"]),
    ],
)  # fmt: skip
def test_bad_commands(run, folder, mlm, command, words):
    before = sorted(folder.iterdir())
    code, _, err = run(*(mlm if word == "MLM" else word for word in command))
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("command", ["generate", "collapse", "augment", "diff", "packs"])
def test_every_command_has_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--help" in out


def test_show_a_prompts_file(run, folder):
    code, out, _ = run("show", "full.yaml")
    assert (code, "small red bump" in out, "encoder" in out) == (0, True, False)
    code, out, _ = run("show", "full.yaml", "--json")
    assert json.loads(out) == {"prompts": {"classes": [{"label": "Polyp", "phrases": [
        {"text": "small red bump", "weight": 1.0, "source": "manual"}]}], "pooling": "max"}}  # fmt: skip
    assert run("show", "captions.json")[0] == 2
