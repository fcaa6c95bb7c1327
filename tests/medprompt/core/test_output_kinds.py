"""How an output that medprompt wrote is told from all else, without anything being written."""

from __future__ import annotations

from pathlib import Path

import pytest

from medprompt.core.errors import InputError
from medprompt.core.output_kinds import HEAD, LISTING, PYTHON_CACHE, file_kind, folder_kind, read_kind, write_listing


@pytest.mark.parametrize(
    ("content", "ours"),
    [(b"table 1\n", True), (b"table \xff\n", True), (b"a table", False), (b"", False), (b"tabl", False)],
)
def test_a_file_is_known_by_its_first_bytes(tmp_path: Path, content: bytes, ours: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    assert file_kind("a table", "table .").foreign(path) == ("" if ours else str(path))


def test_no_more_than_the_head_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b" " * HEAD + b"x")
    assert file_kind("a table", " *x").foreign(path) == str(path)


def test_a_file_is_known_by_its_reader(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_text() != "ours":
            raise InputError("Another file.")

    path = tmp_path / "f"
    path.write_text("ours")
    assert read_kind("a record", read).foreign(path) == ""
    path.write_text("theirs")
    assert read_kind("a record", read).foreign(path) == str(path)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A folder of ours: two files, and the list of them."""
    folder = tmp_path / "out"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_text("12345")
    (folder / "inner" / "b").write_text("123")
    write_listing(folder)
    return folder


def test_a_folder_is_known_by_its_list(listed: Path) -> None:
    kind = folder_kind("a folder")
    assert kind.folder and kind.foreign(listed) == ""
    (listed / PYTHON_CACHE).mkdir()
    (listed / PYTHON_CACHE / "model.pyc").write_bytes(b"\0")  # nobody's work
    assert kind.foreign(listed) == ""


@pytest.mark.parametrize("name", ["a", "inner/b", "new", "inner/new"])
def test_a_folder_with_another_file_is_foreign_and_names_it(listed: Path, name: str) -> None:
    (listed / name).write_text("years of work")
    assert folder_kind("a folder").foreign(listed) == str(listed / name)


def test_a_link_is_nothing_that_we_wrote(listed: Path) -> None:
    (listed / "a").rename(listed.parent / "a")
    (listed / "a").symlink_to(listed.parent / "a")
    assert folder_kind("a folder").foreign(listed) == str(listed / "a")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"files": 3}'])
def test_a_folder_without_a_list_is_foreign(listed: Path, content: str | None) -> None:
    (listed / LISTING).unlink()
    if content is not None:
        (listed / LISTING).write_text(content)
    assert folder_kind("a folder").foreign(listed) == str(listed)
