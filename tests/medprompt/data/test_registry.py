"""The registry says enough of each data set, and fits the prompts that ship for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from medprompt.core.errors import DataError
from medprompt.data.native import CONVERTERS
from medprompt.data.registry import KnownSet, known_set, known_sets
from medprompt.prompts.file import pack_names, pack_prompts

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "datasets.md"


def test_each_pack_of_prompts_has_its_data_set() -> None:
    assert sorted(known.name for known in known_sets()) == list(pack_names())


@pytest.mark.parametrize("known", known_sets(), ids=lambda known: known.name)
def test_entries(known: KnownSet) -> None:
    assert sorted(known.labels) == sorted(entry.label for entry in pack_prompts(known.name).classes)
    assert set(known.merged.values()) <= set(known.labels)
    assert known.native in CONVERTERS
    assert known.home.startswith("http")
    for layout in known.layouts:
        for part in layout.values():
            assert not any(Path(name).is_absolute() for name in (*part.folders, part.labels))
    row = f"| `{known.name}` | [{known.title}]({known.home}) | {known.modality} | {known.counts} | {known.terms} |"
    assert row in PAGE.read_text(encoding="utf-8").splitlines()


def test_a_set_that_is_not_known() -> None:
    with pytest.raises(DataError, match="No data set of this name") as caught:
        known_set("coco")
    assert "bccd" in caught.value.expected
