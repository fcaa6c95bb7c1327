"""What a run notes of its data goes with the checkpoint into a bundle, and is no part of the checkpoint's hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medprompt.core.errors import CheckpointError
from medprompt.core.manifest import About, DataRecord
from medprompt.data import read_detection_set
from medprompt.export.checkpoint_files import ABOUT_FILE, about_checkpoint, about_file, checkpoint_sha256
from medprompt.export.finetune.recipe import Recipe
from medprompt.export.finetune.sets import RunData, about_run, data_sha256
from tests.benchmarks.fakes import LEVELS, write_set


def test_sets_of_a_run_and_of_what_it_began_with(tmp_path: Path) -> None:
    train, val = (read_detection_set(str(write_set(tmp_path / name, LEVELS[:n]))) for name, n in (("a", 3), ("b", 2)))
    entry = {"train": "a", "val": "b", "licence": "MIT", "source": "https://example.org"}
    data = RunData((train,), (np.ones(2, bool),), (val,))
    earlier = DataRecord(name="first", sha256="0" * 64, licence="CC0-1.0")
    again = DataRecord(name="a", sha256=data_sha256(train))
    start = About(supplier="Others", licence="Apache-2.0", data=(earlier, again), figures={"ap/x": 0.1})
    about = about_run(start, Recipe.model_validate({"data": [entry]}), data, {"ap/b": 0.5})
    assert (about.supplier, about.licence, about.figures) == ("", "Apache-2.0", {"ap/b": 0.5})
    assert [(one.name, one.role, one.licence) for one in about.data] == [
        ("first", "train", "CC0-1.0"),
        ("a", "train", "MIT"),
        ("b", "val", "MIT"),
    ]
    assert (about.data[1].images, about.data[1].sha256) == (3, data_sha256(train))


def test_it_is_no_part_of_the_hash_and_is_read_strictly(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = checkpoint_sha256(tmp_path)
    assert about_checkpoint(tmp_path) == About()
    (tmp_path / ABOUT_FILE).write_text('{"supplier": "A laboratory"}')
    assert about_checkpoint(tmp_path).supplier == "A laboratory"
    assert checkpoint_sha256(tmp_path) == checkpoint_sha256(tmp_path, with_notes=True) == before
    (tmp_path / ABOUT_FILE).write_text('{"suplier": "A laboratory"}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        about_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        about_file(tmp_path / "gone.json")
