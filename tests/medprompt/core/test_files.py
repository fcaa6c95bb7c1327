import hashlib

import pytest

from medprompt.core.errors import InputError
from medprompt.core.files import atomic_write, real_path, resolve_within, sha256_of_file, short_name
from medprompt.core.output_kinds import LISTING, file_kind
from medprompt.core.outputs import Output, folder_written_aside, reserve_outputs


class Boom(Exception):
    pass


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "out.json"
    with pytest.raises(Boom), atomic_write(target) as aside:
        aside.write_text("half")
        raise Boom
    assert list(target.parent.iterdir()) == []
    with atomic_write(target) as aside:
        aside.write_text("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["out.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "bundle"
    with pytest.raises(Boom), folder_written_aside(target) as folder:
        (folder / "a").write_text("half")
        raise Boom
    assert list(tmp_path.iterdir()) == []
    with folder_written_aside(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(InputError, match="exists already"), folder_written_aside(target):
        pass
    with folder_written_aside(target, force=True) as folder:
        (folder / "b").write_text("2")
    assert sorted(path.name for path in target.iterdir()) == [LISTING, "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_unwritable_place_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), atomic_write(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize(
    ("relative", "stays"),
    [("a/b", True), ("a/../b", True), ("../b", False), ("/etc/passwd", False), ("link/x", False)],
)
def test_inside(tmp_path, relative, stays):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert (resolve_within(folder, relative) is not None) == stays


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("name", ["x" * 250 + ".json", "ü" * 120 + ".json"])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path, name):
    with (
        reserve_outputs({"out": Output(tmp_path / name, file_kind("a table", "x"))}),
        atomic_write(tmp_path / name) as aside,
    ):
        assert len(aside.name.encode()) < 255
        aside.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_names_stay_apart():
    assert short_name("a" * 200) == "a" * 200
    assert short_name("a" * 300 + "b") != short_name("a" * 300 + "c")
    assert len(short_name("ü" * 300).encode()) <= 200


def test_a_circle_of_links_is_a_path_as_others(tmp_path):
    (tmp_path / "a").symlink_to("a")
    assert real_path(tmp_path / "a") == tmp_path / "a"
    assert resolve_within(tmp_path, "a") == tmp_path / "a"
