"""Prompts files and banks are told apart by content; where only one will do, the other is refused alike."""

from pathlib import Path

import pytest

from medprompt.core.errors import BankError, PromptError
from medprompt.prompts.bank import PromptBank, load_bank, save_bank
from medprompt.prompts.diff import prompts_from_either, read_either
from medprompt.prompts.file import is_bank, prompts_from_yaml
from medprompt.prompts.schema import Prompts
from tests.runtime.bundles import make_bank

TEXT = "classes: [{label: RBC, phrases: [red cell]}]\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A prompts file and a bank, each with the other's ending."""
    text, bank = tmp_path / "prompts.safetensors", tmp_path / "bank.yaml"
    text.write_text(TEXT)
    save_bank(make_bank(), bank)
    return text, bank


def test_the_content_decides(files: tuple[Path, Path]) -> None:
    text, bank = files
    assert isinstance(read_either(text), Prompts)
    assert isinstance(read_either(bank), PromptBank)
    assert prompts_from_either(text).texts == ("red cell",)
    assert prompts_from_either(bank) == make_bank().prompts


def test_the_other_is_refused_with_the_way_out(files: tuple[Path, Path]) -> None:
    text, bank = files
    with pytest.raises(BankError, match="This is a prompts file, and a prompt bank is needed here") as caught:
        load_bank(text)
    assert f"medprompt prompts embed CHECKPOINT --prompts {text}" in caught.value.fix
    with pytest.raises(PromptError, match="This is a prompt bank, and a prompts file is needed here"):
        prompts_from_yaml(bank)


@pytest.mark.parametrize("content", [b"", b"{", b"classes: []", b"\xff" * 8 + b"{", b"\x02" + b"\0" * 7 + b"["])
def test_what_is_no_bank(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not is_bank(tmp_path / "x")
    assert not is_bank(tmp_path / "absent")
