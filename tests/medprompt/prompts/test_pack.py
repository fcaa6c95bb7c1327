import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest

from medprompt.core.errors import PromptError
from medprompt.prompts.file import pack_names, pack_prompts, pack_text

RADIOLOGY = {"adni-hippocampus", "luna16", "tbx11k", "tn3k"}
CONTEXT = 16
"""Tokens that OWL-ViT's text encoder reads, start and end included."""


@pytest.fixture(scope="module")
def clip_tokenizer():
    """CLIP's own byte-pair encoding, from the file that open-clip-torch ships; its package is not imported."""
    spec = find_spec("open_clip")
    if spec is None:
        pytest.skip("open-clip-torch is not installed")
    from transformers import CLIPTokenizer

    table = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(table.read_bytes()).decode().splitlines()[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: n for n, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def test_the_tokenizer_is_clips(clip_tokenizer):
    assert clip_tokenizer.tokenize("a photo of a polyp") == ["a</w>", "photo</w>", "of</w>", "a</w>", "poly", "p</w>"]


def test_there_is_a_pack_for_each_data_set():
    assert pack_names() == (
        "adni-hippocampus", "bccd", "cpm17", "dfuc2020", "isic2016", "luna16", "polyp-clinicdb", "polyp-colondb",
        "polyp-cvc300", "polyp-etis", "polyp-kvasir", "tbx11k", "tn3k",
    )  # fmt: skip


@pytest.mark.parametrize("name", pack_names())
def test_a_pack_is_valid_and_says_what_it_is(name):
    prompts = pack_prompts(name)
    assert prompts.about.sources
    assert ("Does not work" in prompts.about.zero_shot) == (name in RADIOLOGY)
    assert all(len(entry.phrases) >= 4 and entry.names.prompt for entry in prompts.classes)
    assert all(phrase.source == "manual" for entry in prompts.classes for phrase in entry.phrases)
    assert all("  " not in text and " ," not in text for text in prompts.texts)


@pytest.mark.parametrize("name", pack_names())
def test_every_phrase_fits_into_owlvit(name, clip_tokenizer):
    lengths = {text: len(clip_tokenizer(text)["input_ids"]) for text in pack_prompts(name).texts}
    assert {text: n for text, n in lengths.items() if n > CONTEXT} == {}


def test_an_unknown_pack():
    with pytest.raises(PromptError, match="bccd"):
        pack_text("../lexicon")
