"""The folder of parts: each image once, whatever a kill left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medprompt.core.errors import InputError
from medprompt.core.outputs import Output, reserve_outputs

pytest.importorskip("pyarrow")
from medprompt.runtime.serving.parquet import RESULTS_FOLDER, ResultsFolder, sorted_rows


def item(file: str, found: int | None = 1) -> dict[str, Any]:
    one = {"label": "RBC", "score": 0.5, "box_xyxy": [1.0, 2.0, 3.0, 4.0], "phrase": "red cell"}
    known = found is not None
    return {
        **{"file": file, "frame": None, "sha256": "0" * 64, "code": None, "warnings": [], "prompt_set": None},
        **{"status": "OK" if known else "ERROR", "error": None if known else "failed", "dicom": None},
        **{"size_hw": [4, 5] if known else None, "detections": [one] * found if found is not None else None},
    }


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(tmp_path / "rows")
    folder.write_head({"schema_version": 2, "bundle_sha256": "", "parquet": 1})
    folder.add([item("a", 2), item("b", 0)])
    folder.add([item("c", None)])
    return folder


def test_nothing_found_is_not_nothing_known(folder: ResultsFolder) -> None:
    rows = sorted_rows(folder.images()).to_pylist()
    assert [(row["file"], row["status"], row["detections"]) for row in rows] == [
        ("a", "OK", 2),
        ("b", "OK", 0),
        ("c", "ERROR", None),
    ]


def test_detections_without_images_are_removed_and_their_number_is_given_again(folder: ResultsFolder) -> None:
    (folder.path / "images" / "part-000001.parquet").unlink()  # killed between the two files of a part
    folder.keep(frozenset({("a", None), ("b", None)}))
    folder.add([item("c", 3)])
    assert sorted(row["file"] for row in folder.detections().to_pylist()) == ["a", "a", "c", "c", "c"]
    assert len(folder.images()) == 3


def test_rows_of_changed_files_go_with_their_detections(folder: ResultsFolder) -> None:
    folder.keep(frozenset({("b", None)}))
    assert [row["file"] for row in folder.images().to_pylist()] == ["b"]
    assert not len(folder.detections())


@pytest.mark.parametrize("foreign", ["notes.txt", "images/mine.parquet", "detections/a/part-000000.parquet"])
def test_a_folder_with_a_file_of_the_user_is_not_replaced(folder: ResultsFolder, foreign: str) -> None:
    (folder.path / foreign).parent.mkdir(exist_ok=True)
    (folder.path / foreign).write_bytes(b"mine")
    output = Output(folder.path, RESULTS_FOLDER, force=True)
    with pytest.raises(InputError, match="did not write"), reserve_outputs({"out": output}, force=True):
        pass
